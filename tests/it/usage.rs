//! What df(1) shows of a bucket.

use std::path::Path;

use ossvault::server::operation::Operation;

use crate::fixture::{Rig, can_mount, eventually, write_and_close};

const GIB: u64 = 1 << 30;
const PIB: u64 = 1 << 50;

/// Total and free, in bytes.
fn df(path: &Path) -> (u64, u64) {
    let space = nix::sys::statvfs::statvfs(path).unwrap();
    let size = space.fragment_size();
    assert_eq!(space.blocks_free(), space.blocks_available());
    (space.blocks() * size, space.blocks_available() * size)
}

/// "A bucket has no fixed size; 1 PiB is reported as free. With `--capacity SIZE`, what is free is what the bucket's use
/// leaves of that size, but always at least 1 GiB; nothing is limited by it. The use that is shown is that of the whole
/// bucket, as the service last counted it, which may be hours ago. It is requested in the background when a program
/// calls `statfs()`, at most every five minutes, so the first call shows none; if the bucket refuses, none is ever shown."
#[test]
fn df_shows_what_the_service_counted() {
    if !can_mount() {
        return;
    }
    const LEN: usize = 3 << 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("file"), &vec![7; LEN]).unwrap();
    mount.end_well();
    for (options, total, free) in [
        (&[][..], PIB + LEN as u64, PIB),
        (&["--capacity", "10G"], 10 * GIB, 10 * GIB - LEN as u64),
        (&["--capacity", "1M"], GIB + LEN as u64, GIB),
        // What is shown is the whole bucket, whatever the prefix.
        (&["--prefix", "elsewhere"], PIB + LEN as u64, PIB),
    ] {
        let mount = rig.mount("df", options);
        rig.settle();
        rig.instruments().reset_counts();
        let (first, _) = df(&mount.path);
        assert!(first >= total - LEN as u64, "{options:?}");
        eventually("the use is known", || {
            let (now, available) = df(&mount.path);
            now - available == LEN as u64
        });
        assert_eq!(df(&mount.path), (total, free), "{options:?}");
        rig.settle();
        let counts = rig.instruments().counts();
        assert_eq!(counts.of(Operation::GetBucketStat), 1, "{options:?}");
        assert_eq!(counts.total(), 1, "{:?}", counts.requests);
        mount.end_well();
    }
    // A mount that no program asks sends no request for it, and neither does one that was refused.
    rig.instruments().allow_only([
        "oss:ListObjects",
        "oss:GetObject",
        "oss:PutObject",
        "oss:DeleteObject",
    ]);
    let mount = rig.mount("refused", &[]);
    assert!(rig.instruments().denied().is_empty());
    for _ in 0..3 {
        assert_eq!(df(&mount.path), (PIB, PIB));
        rig.settle();
    }
    assert_eq!(rig.instruments().denied()["oss:GetBucketStat"], 1);
    let log = std::fs::read_to_string(&mount.log).unwrap();
    assert_eq!(log.matches("oss:GetBucketStat").count(), 1, "{log}");
    mount.end_well();
}
