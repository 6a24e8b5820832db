//! Cases that once failed.

use super::ops::{At, Op, Place, Setting};
use super::run;

/// What was once found by chance must not depend on chance again.
#[test]
fn cases_that_failed_once_agree_with_the_model() {
    let alone = |ttl, failures| Setting {
        ttl,
        small_memory: false,
        failures,
        threads: false,
    };
    let create = |at| Op::Create {
        at,
        exclusive: false,
        slot: 0,
    };
    let fail = |after, lost| Op::Fail {
        after,
        lost,
        changes_only: false,
    };
    for (cause, setting, ops) in [
        (
            "a directory whose marker could not be asked for kept an inode that nobody knew",
            alone(Some(30), true),
            vec![
                create(Place(0, 0)),
                create(Place(0, 0)),
                Op::Mkdir { at: Place(0, 1) },
                Op::Forget,
                fail(0, false),
                Op::Check,
            ],
        ),
        (
            "the copy of a directory whose answer was lost was neither deleted nor shown",
            alone(None, true),
            vec![
                Op::Mkdir { at: Place(0, 4) },
                fail(1, true),
                Op::Rename {
                    from: Place(0, 4),
                    to: Place(0, 0),
                    replace: false,
                },
            ],
        ),
        (
            "a directory was made and the answer lost: it was taken to be absent",
            alone(None, true),
            vec![fail(0, true), Op::Mkdir { at: Place(0, 0) }],
        ),
        (
            "a changed file whose object others had removed was not listed",
            alone(Some(0), false),
            vec![
                create(Place(0, 4)),
                Op::Fsync { slot: 0 },
                Op::Write {
                    slot: 0,
                    at: At::End,
                    len: 1,
                    seed: 0,
                },
                Op::OthersDelete { at: Place(0, 4) },
                Op::Check,
            ],
        ),
        (
            "a rename whose DELETE failed left an older version under the new name",
            alone(Some(30), true),
            vec![
                create(Place(0, 1)),
                Op::Fsync { slot: 0 },
                fail(2, false),
                Op::Truncate { slot: 0, size: 0 },
                Op::Write {
                    slot: 0,
                    at: At::End,
                    len: 1,
                    seed: 0,
                },
                Op::Rename {
                    from: Place(0, 1),
                    to: Place(0, 2),
                    replace: false,
                },
            ],
        ),
        (
            "what was known of an open file's attributes was forgotten when its directory was renamed",
            alone(Some(0), false),
            vec![
                Op::OthersPut {
                    at: Place(3, 0),
                    len: 1,
                    seed: 0,
                },
                create(Place(3, 3)),
                Op::Symlink {
                    at: Place(0, 0),
                    target: 0,
                },
                create(Place(3, 3)),
                Op::Rename {
                    from: Place(1, 4),
                    to: Place(0, 3),
                    replace: false,
                },
                Op::Allocate {
                    slot: 0,
                    offset: 0,
                    len: 1,
                },
            ],
        ),
        (
            "a directory rename whose intent was written and the answer lost was finished by the next mount",
            alone(Some(0), true),
            vec![
                Op::Mkdir { at: Place(0, 3) },
                fail(2, true),
                Op::Symlink {
                    at: Place(2, 1),
                    target: 0,
                },
                Op::Create {
                    at: Place(2, 0),
                    exclusive: false,
                    slot: 2,
                },
                Op::Open {
                    at: Place(0, 0),
                    write: false,
                    truncate: false,
                    slot: 2,
                },
                Op::Rename {
                    from: Place(0, 3),
                    to: Place(0, 0),
                    replace: false,
                },
            ],
        ),
    ] {
        println!("{cause}");
        run(setting, &ops);
    }
}
