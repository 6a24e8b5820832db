//! docs/permissions.md: each use runs with exactly the actions that it lists, and without any one of them it
//! fails with a message.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::fixture::{BUCKET, Rig, can_mount, ossvault, pattern};

/// Uploaded in parts.
const LARGE: usize = 20 << 20;

/// A row of the table.
struct Row {
    needed: Vec<String>,
    optional: Vec<String>,
}

fn row(usage: &str) -> Row {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/permissions.md");
    let document = fs::read_to_string(path).unwrap();
    let line = document
        .lines()
        .find(|line| line.starts_with(&format!("| `{usage}` |")))
        .unwrap_or_else(|| panic!("no row for {usage}"));
    let cells: Vec<&str> = line.split('|').collect();
    let actions = |cell: &str| {
        cell.split('`')
            .filter(|word| word.starts_with("oss:"))
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    Row {
        needed: actions(cells[2]),
        optional: actions(cells[3]),
    }
}

/// The output of a run, and whether it did everything.
struct Ran {
    succeeded: bool,
    said: String,
}

fn program(rig: &Rig, arguments: &[&str]) -> Ran {
    let mut command = ossvault();
    let output = command
        .args(arguments)
        .current_dir(rig.path(""))
        .env("OSS_ENDPOINT", rig.endpoint())
        .env("OSS_ACCESS_KEY_ID", "test")
        .env("OSS_ACCESS_KEY_SECRET", "test")
        .output()
        .unwrap();
    Ran {
        succeeded: output.status.success(),
        said: format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Mounts, runs that with the mounted folder, and unmounts.
fn mounted(rig: &Rig, options: &[&str], work: impl FnOnce(PathBuf) -> io::Result<()>) -> Ran {
    let folder = rig.path("mnt");
    fs::create_dir_all(&folder).unwrap();
    let source = format!("oss://{BUCKET}");
    let mount = [
        &["mount", &source, "mnt", "--cache-dir", "cache"][..],
        options,
        &["--log-file", "log"],
    ]
    .concat();
    let mut ran = program(rig, &mount);
    if !ran.succeeded {
        return ran;
    }
    if let Err(error) = work(folder.clone()) {
        ran.succeeded = false;
        ran.said.push_str(&error.to_string());
    }
    let umount = program(rig, &["umount", "mnt"]);
    if crate::fixture::is_mount_point(&folder) {
        program(rig, &["umount", "--lazy", "mnt"]);
    }
    ran.succeeded &= umount.succeeded;
    ran.said.push_str(&umount.said);
    ran.said
        .push_str(&fs::read_to_string(rig.path("log")).unwrap_or_default());
    ran
}

/// A bucket with files, and plaintext under `old/`.
fn filled() -> Rig {
    let rig = Rig::new();
    let ran = mounted(&rig, &["--private-key", "key"], |root| {
        fs::create_dir_all(root.join("vault/sub"))?;
        fs::write(root.join("vault/small"), "small")?;
        fs::write(root.join("vault/sub/doomed"), "doomed")?;
        fs::write(root.join("vault/large"), pattern(LARGE, 1))
    });
    assert!(ran.succeeded, "{}", ran.said);
    rig.block_on(async {
        use ossvault::store::object_store::*;
        let key = ObjectKey::new("old/plain").unwrap();
        let headers = ObjectHeaders::default();
        let body = Body::from_bytes("plain");
        rig.store
            .put(&key, &headers, body, Overwrite::Allowed)
            .await
            .unwrap();
    });
    rig
}

/// Runs a use with the actions of its row, and then without each required action.
fn check(usage: &str, run: impl Fn(&Rig) -> Ran) {
    let Row { needed, optional } = row(usage);
    assert!(!needed.is_empty());
    let rig = filled();
    rig.instruments()
        .allow_only(needed.iter().map(String::as_str));
    let ran = run(&rig);
    assert!(ran.succeeded, "{usage}: {}", ran.said);
    for action in rig.instruments().denied().keys() {
        assert!(
            optional.iter().any(|optional| optional == action),
            "{usage} uses {action}, which is not listed"
        );
    }
    for missing in &needed {
        let rig = filled();
        let others = needed.iter().filter(|action| *action != missing);
        rig.instruments().allow_only(others.map(String::as_str));
        let ran = run(&rig);
        assert!(!ran.succeeded, "{usage} does not need {missing}");
        assert!(
            rig.instruments().denied().contains_key(missing.as_str()),
            "{usage} without {missing} failed otherwise: {}",
            ran.said
        );
        let clear = ["AccessDenied", "Permission denied"];
        assert!(
            clear.iter().any(|word| ran.said.contains(word)),
            "{usage} without {missing}: {}",
            ran.said
        );
    }
}

#[test]
fn a_mount_needs_to_list_read_write_and_delete() {
    if !can_mount() {
        return;
    }
    check("mount", |rig| {
        mounted(rig, &["--private-key", "key"], |root| {
            assert_eq!(fs::read_dir(root.join("vault"))?.count(), 3);
            assert_eq!(fs::read(root.join("vault/small"))?, b"small");
            fs::create_dir(root.join("new"))?;
            fs::write(root.join("new/a"), "a")?;
            fs::write(root.join("new/b"), pattern(LARGE, 2))?;
            File::options()
                .append(true)
                .open(root.join("vault/small"))?
                .write_all(b"er")?;
            fs::rename(root.join("new/a"), root.join("vault/a"))?;
            fs::rename(root.join("new"), root.join("newer"))?;
            fs::remove_file(root.join("newer/b"))?;
            fs::remove_dir(root.join("newer"))
        })
    });
}

#[test]
fn a_read_only_mount_needs_to_list_and_read() {
    if !can_mount() {
        return;
    }
    check("mount --read-only", |rig| {
        mounted(rig, &["--private-key", "key", "--read-only"], |root| {
            assert_eq!(fs::read_dir(root.join("vault"))?.count(), 3);
            assert_eq!(fs::read(root.join("vault/small"))?, b"small");
            let large = fs::read(root.join("vault/large"))?;
            assert!(large == pattern(LARGE, 1));
            Ok(())
        })
    });
}

#[test]
fn commands_without_a_mount_need_what_they_say() {
    if !can_mount() {
        return;
    }
    let key = ["--private-key", "key"];
    check("ls", |rig| {
        program(rig, &["ls", "-R", "oss://bucket/vault"])
    });
    check("cat", |rig| {
        program(
            rig,
            &[&["cat", "oss://bucket/vault/small"][..], &key].concat(),
        )
    });
    check("put", |rig| {
        fs::create_dir_all(rig.path("tree/sub")).unwrap();
        fs::write(rig.path("tree/large"), pattern(LARGE, 3)).unwrap();
        fs::write(rig.path("tree/sub/small"), "small").unwrap();
        program(
            rig,
            &[&["put", "tree", "oss://bucket/new"][..], &key].concat(),
        )
    });
    check("get", |rig| {
        program(
            rig,
            &[&["get", "oss://bucket/vault", "."][..], &key].concat(),
        )
    });
    check("sync --delete", |rig| {
        fs::create_dir_all(rig.path("tree")).unwrap();
        fs::write(rig.path("tree/small"), "other").unwrap();
        fs::write(rig.path("tree/new"), "new").unwrap();
        let line = ["sync", "--delete", "tree", "oss://bucket/vault"];
        program(rig, &[&line[..], &key].concat())
    });
    check("mv", |rig| {
        program(rig, &["mv", "oss://bucket/vault", "oss://bucket/moved"])
    });
    check("rm -r", |rig| {
        program(rig, &["rm", "-r", "oss://bucket/vault"])
    });
}

/// "If the bucket does not allow such a mount to read objects, files and directories are shown with the
/// mount's defaults for mode and owner. Creating, replacing and deleting still work; objects that are
/// already in the bucket cannot be renamed, and their attributes cannot be changed."
#[test]
fn a_write_only_client_needs_no_read_permission() {
    if !can_mount() {
        return;
    }
    const WRITING: &[&str] = &["--public-key", "key.pub"];
    let work = |root: PathBuf| {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        assert!(fs::metadata(root.join("vault/sub"))?.is_dir());
        let shown = fs::metadata(root.join("vault/small"))?;
        assert_eq!((shown.len(), shown.mode() & 0o170_000), (5, 0o100_000));
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        };
        refused(fs::rename(
            root.join("vault/large"),
            root.join("vault/moved"),
        ));
        refused(fs::rename(root.join("vault/sub"), root.join("vault/moved")));
        let mode = fs::Permissions::from_mode(0o600);
        refused(fs::set_permissions(root.join("vault/large"), mode.clone()));
        refused(fs::set_permissions(root.join("vault/sub"), mode));
        let at = |what: &str, result: io::Result<()>| {
            result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
        };
        for (name, content) in [("vault/new", "new"), ("vault/small", "replaced")] {
            at(name, fs::write(root.join(name), content))?;
        }
        at(
            "large",
            fs::write(root.join("vault/sub/large"), pattern(LARGE, 3)),
        )?;
        at("mkdir", fs::create_dir_all(root.join("made/below")))?;
        at("below", fs::write(root.join("made/below/it"), "it"))?;
        // As rsync does.
        let temporary = root.join("vault/.copied.a1B2c3");
        let mut file = fs::File::create_new(&temporary)?;
        at("temporary", io::Write::write_all(&mut file, b"copied"))?;
        drop(file);
        at("rename", fs::rename(temporary, root.join("vault/copied")))?;
        at("unlink", fs::remove_file(root.join("vault/sub/doomed")))
    };
    check("mount --public-key", |rig| mounted(rig, WRITING, work));

    let rig = filled();
    let row = row("mount --public-key");
    rig.instruments()
        .allow_only(row.needed.iter().map(String::as_str));
    let ran = mounted(&rig, WRITING, work);
    assert!(ran.succeeded, "{}", ran.said);
    rig.instruments().allow_all();
    let ran = mounted(&rig, &["--private-key", "key", "--read-only"], |root| {
        assert_eq!(fs::read(root.join("vault/new"))?, b"new");
        assert_eq!(fs::read(root.join("vault/small"))?, b"replaced");
        assert!(fs::read(root.join("vault/sub/large"))? == pattern(LARGE, 3));
        assert_eq!(fs::read(root.join("made/below/it"))?, b"it");
        assert_eq!(fs::read(root.join("vault/copied"))?, b"copied");
        assert!(!root.join("vault/sub/doomed").exists());
        Ok(())
    });
    assert!(ran.succeeded, "{}", ran.said);
}

#[test]
fn verifying_needs_to_list_and_read() {
    if !can_mount() {
        return;
    }
    check("verify", |rig| {
        program(
            rig,
            &[
                "verify",
                &format!("oss://{BUCKET}/vault"),
                "--private-key",
                "key",
            ],
        )
    });
}

#[test]
fn rewrapping_needs_to_list_read_and_write() {
    if !can_mount() {
        return;
    }
    check("rewrap", |rig| {
        let made = program(rig, &["keygen", "--no-passphrase", "--bits", "2048", "new"]);
        assert!(made.succeeded, "{}", made.said);
        let bucket = format!("oss://{BUCKET}/vault");
        program(
            rig,
            &[
                "rewrap",
                &bucket,
                "--private-key",
                "key",
                "--public-key",
                "new.pub",
                "--new-private-key",
                "new",
            ],
        )
    });
}

#[test]
fn adopting_needs_to_delete_only_where_it_removes() {
    if !can_mount() {
        return;
    }
    let from = format!("oss://{BUCKET}/old");
    check("adopt", |rig| {
        program(rig, &["adopt", &from, "--private-key", "key"])
    });
    check("adopt --remove", |rig| {
        program(
            rig,
            &[
                "adopt",
                &from,
                "--private-key",
                "key",
                "--into",
                "adopted",
                "--remove",
            ],
        )
    });
}

#[test]
fn doctor_looks_at_what_a_mount_needs() {
    if !can_mount() {
        return;
    }
    check("doctor", |rig| {
        let source = format!("oss://{BUCKET}");
        program(rig, &["doctor", &source, "--private-key", "key", "--quick"])
    });
}

#[test]
fn info_needs_to_read() {
    if !can_mount() {
        return;
    }
    check("info", |rig| {
        let object = format!("oss://{BUCKET}/vault/small");
        program(rig, &["info", &object, "--private-key", "key"])
    });
}
