//! Common programs run on a mount. Each test is skipped, with a message, if its program is missing.

use std::fs;

use crate::fixture::*;

/// A tree with typical contents: subdirectories, links, modes, old times, a hole, odd names.
const TREE: &str = "
    mkdir -p tree/a/b tree/empty
    for n in 1 2 3 4 5 6 7 8 9; do seq $n 2000 > tree/a/f$n; done
    ln -s ../a/f1 tree/a/link; ln -s absent tree/dangling; mkfifo tree/fifo
    printf 'x' > 'tree/a/b/od d\\name'; : > tree/nothing
    chmod 640 tree/a/f1; chmod 755 tree/a/f2; chmod 700 tree/a/b
    touch -d '2001-02-03 04:05:06.789' tree/a/f3 tree/a
    truncate -s 300000 tree/hole; printf end >> tree/hole
    head -c 3000000 /dev/urandom > tree/large
";

/// Asserts that nothing differs, including all attributes.
const COMPARE: &str = "test -z \"$(rsync -anci --delete tree/ mnt/copy/)\"";

/// A mount beside a tree; None if something is missing.
fn with_tree(programs: &[&str]) -> Option<Mount> {
    for name in programs {
        program(name)?;
    }
    let mount = Mount::new(&[])?;
    shell(&mount.beside(""), TREE);
    Some(mount)
}

#[test]
fn rsync_copies_a_tree_and_then_finds_nothing_to_do() {
    let Some(mut mount) = with_tree(&["rsync"]) else {
        return;
    };
    let folder = mount.beside("");
    shell(&folder, "rsync -a tree/ mnt/copy/");
    let again = shell(&folder, "rsync -ai tree/ mnt/copy/");
    assert_eq!(again, "");
    shell(&folder, COMPARE);
    mount.remount(&["--metadata-ttl", "0"]);
    shell(&folder, COMPARE);
    shell(
        &folder,
        "rm tree/a/f1 tree/a/link; rm -r tree/a/b; mv tree/large tree/larger
         rsync -a --delete tree/ mnt/copy/",
    );
    shell(&folder, COMPARE);
}

#[test]
fn rsync_updates_a_file_in_every_way_it_has() {
    let Some(mut mount) = with_tree(&["rsync", "cmp"]) else {
        return;
    };
    let folder = mount.beside("");
    for options in [
        "--inplace --no-whole-file",
        "--inplace --whole-file",
        "--partial --no-whole-file",
        "-W",
        "--append-verify",
        "--partial-dir=.parts --delay-updates",
        "--inplace --sparse",
    ] {
        shell(
            &folder,
            &format!(
                "rsync -a {options} tree/large mnt/large; cmp tree/large mnt/large
                 echo more >> tree/large
                 printf '{options}' | dd of=tree/large bs=1 seek=1500000 conv=notrunc status=none
                 rsync -a {options} tree/large mnt/large; cmp tree/large mnt/large"
            ),
        );
        assert_eq!(names(mount.root()), ["large"], "{options}");
    }
    mount.remount(&[]);
    shell(&folder, "cmp tree/large mnt/large");
}

#[test]
fn cp_copies_a_tree_in_and_within() {
    let Some(mut mount) = with_tree(&["rsync"]) else {
        return;
    };
    let folder = mount.beside("");
    shell(
        &folder,
        "cp -a tree mnt/first; cp -a mnt/first mnt/copy; rm -r mnt/first",
    );
    shell(&folder, COMPARE);
    mount.remount(&[]);
    shell(&folder, COMPARE);
    shell(
        &folder,
        "mkdir out; cp -a mnt/copy out/; rsync -anci --delete tree/ out/copy/",
    );
}

#[test]
fn tar_goes_in_and_out() {
    let Some(mount) = with_tree(&["tar", "rsync"]) else {
        return;
    };
    shell(
        &mount.beside(""),
        "tar cf a.tar tree; tar xpf a.tar -C mnt; mv mnt/tree mnt/copy
         tar cf mnt/b.tar -C mnt copy; tar df mnt/b.tar -C mnt",
    );
    shell(&mount.beside(""), COMPARE);
}

#[test]
fn unzip_unpacks() {
    let Some(mount) = with_tree(&["zip", "unzip", "diff"]) else {
        return;
    };
    shell(
        &mount.beside(""),
        "rm tree/fifo; zip -qry mnt/a.zip tree; cd mnt; unzip -q a.zip; cd ..
         diff -r --no-dereference tree mnt/tree; zip -q mnt/a.zip tree/nothing; unzip -tq mnt/a.zip",
    );
}

#[test]
fn git_keeps_a_repository() {
    let Some(mut mount) = with_tree(&["git"]) else {
        return;
    };
    let folder = mount.beside("");
    let git = "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null HOME=$PWD
        export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e\n";
    let run = |line: &str| shell(&folder, &format!("{git}{line}"));
    run(
        "rm tree/fifo; git init -q -b main mnt/repo; cp -a tree mnt/repo; cd mnt/repo
         git add .; git commit -qm one
         echo more >> tree/a/f1; git mv tree/a/f2 tree/a/moved; git commit -qam two
         git checkout -q -b branch HEAD~1; echo other > tree/a/f9; git commit -qam three
         git checkout -q main; git merge -q -m four branch
         git gc -q; git fsck --full --strict",
    );
    run("git clone -q mnt/repo mnt/clone; cd mnt/clone; git fsck --full; git repack -qad");
    mount.remount(&[]);
    for repository in ["repo", "clone"] {
        let told = run(&format!(
            "cd mnt/{repository}; git fsck --full --strict; git status --porcelain; git rev-list --count HEAD"
        ));
        assert_eq!(told.trim(), "4", "{repository}");
    }
}

#[test]
fn sqlite_keeps_a_database() {
    let Some(mut mount) = with_tree(&["sqlite3"]) else {
        return;
    };
    let folder = mount.path("");
    shell(
        &folder,
        "sqlite3 db 'create table t(a, b); begin;
         with recursive c(x) as (select 1 union all select x+1 from c where x < 5000)
         insert into t select x, hex(randomblob(50)) from c; commit;'
         for i in 1 2 3; do sqlite3 db \"update t set b = a where a % 7 = $i\"; done
         sqlite3 db 'begin; delete from t; rollback; vacuum'",
    );
    // Write-ahead logging needs shared memory, which works between the programs of one machine.
    shell(
        &folder,
        "sqlite3 wal 'pragma journal_mode=wal; create table t(a); insert into t values (1), (2)'",
    );
    mount.remount(&[]);
    let folder = mount.path("");
    let check =
        "for db in db wal; do sqlite3 $db 'pragma integrity_check; select count(*) from t'; done";
    assert_eq!(shell(&folder, check), "ok\n5000\nok\n2\n");
    assert_eq!(names(&folder), ["db", "wal"], "no journal is left");
}

#[test]
fn vim_saves_in_each_of_its_ways() {
    let Some(mut mount) = with_tree(&["vim"]) else {
        return;
    };
    for (at, options) in [
        "set nobackup nowritebackup",
        "set backup backupcopy=yes",
        "set backup backupcopy=no",
        "set writebackup backupcopy=auto",
    ]
    .iter()
    .enumerate()
    {
        fs::write(mount.path("text"), "before\n").unwrap();
        set_mode(&mount.path("text"), 0o640);
        shell(
            mount.root(),
            &format!(
                "vim -N -u NONE -es -c '{options}' -c '%s/before/after {at}/' -c wq text </dev/null"
            ),
        );
        assert_eq!(
            fs::read_to_string(mount.path("text")).unwrap(),
            format!("after {at}\n")
        );
        assert_eq!(mode(&mount.path("text")), 0o640, "{options}");
        mount.remount(&[]);
        assert_eq!(
            fs::read_to_string(mount.path("text")).unwrap(),
            format!("after {at}\n")
        );
    }
    assert!(
        names(mount.root())
            .iter()
            .all(|name| !name.ends_with(".swp"))
    );
}

/// Types into nano like a person at a terminal: waits until the file is shown, changes it, saves, quits.
const NANO: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", HOME="/nonexistent")
    os.execvp("nano", ["nano", "--ignorercfiles", *sys.argv[1:]])
shown = b""
keys = [(b"before", b"after "), (b"after", b"\x18"), (b"Save modified", b"y"), (b"Write", b"\r")]
while True:
    try:
        shown += os.read(terminal, 4096)
    except OSError:
        break
    if keys and keys[0][0] in shown:
        os.write(terminal, keys.pop(0)[1])
        shown = b""
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn nano_saves() {
    let Some(mut mount) = with_tree(&["nano", "python3"]) else {
        return;
    };
    fs::write(mount.beside("nano.py"), NANO).unwrap();
    let mut expected = vec!["text"];
    for options in ["", "--backup", "--locking"] {
        fs::write(mount.path("text"), "before\n").unwrap();
        set_mode(&mount.path("text"), 0o640);
        let line = format!("timeout 30 python3 ../nano.py {options} text");
        shell(mount.root(), &line);
        let saved = || fs::read_to_string(mount.path("text")).unwrap();
        assert_eq!(saved(), "after before\n", "{options}");
        assert_eq!(mode(&mount.path("text")), 0o640, "{options}");
        if options == "--backup" {
            expected.push("text~");
            assert_eq!(fs::read_to_string(mount.path("text~")).unwrap(), "before\n");
        }
        mount.remount(&[]);
        assert_eq!(names(mount.root()), expected, "{options}");
        let saved = fs::read_to_string(mount.path("text")).unwrap();
        assert_eq!(saved, "after before\n", "{options}");
    }
}

#[test]
fn make_sees_what_is_newer() {
    let Some(mount) = with_tree(&["make"]) else {
        return;
    };
    fs::write(
        mount.path("Makefile"),
        "out: in\n\tcp in out\n\techo made >> log\n",
    )
    .unwrap();
    let made = || {
        shell(mount.root(), "make -s");
        fs::read_to_string(mount.path("log"))
            .unwrap()
            .lines()
            .count()
    };
    fs::write(mount.path("in"), "1").unwrap();
    assert_eq!((made(), made()), (1, 1));
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(mount.path("in"), "2").unwrap();
    assert_eq!((made(), made()), (2, 2));
    assert_eq!(fs::read_to_string(mount.path("out")).unwrap(), "2");
}

#[test]
fn programs_are_built_and_run() {
    let Some(mount) = with_tree(&["cc", "strip"]) else {
        return;
    };
    fs::write(
        mount.path("hello.c"),
        "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n",
    )
    .unwrap();
    let told = shell(
        mount.root(),
        "cc -g -o hello hello.c; ./hello; strip hello; ./hello",
    );
    assert_eq!(told, "hello\nhello\n");
}
