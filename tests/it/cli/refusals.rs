//! Refusals, with their exit codes and messages.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Place, Run, detached};
use crate::fixture::{can_mount, find};

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["explode"],
        &["mount"],
        &["keygen", "key", "--bits", "1024"],
        &["mount", "oss://bucket", "mnt", "--memory-limit", "much"],
        &["mount", "oss://bucket", "mnt", "--path-style", "--cname"],
        &["mount", "oss://bucket", "mnt", "--file-mode", "999"],
    ] {
        assert_eq!(place.run(arguments).code, Some(2), "{arguments:?}");
    }
    for (arguments, words) in [
        (
            &["mount", "s3://bucket", "mnt", "--private-key", "k"][..],
            "not a source",
        ),
        (
            &["mount", "oss://B", "mnt", "--private-key", "k"],
            "not a bucket name",
        ),
        (
            &[
                "mount",
                "oss://bucket/a",
                "mnt",
                "--prefix",
                "b",
                "--private-key",
                "k",
            ],
            "one of them",
        ),
        (
            &[
                "mount",
                "oss://bucket",
                "mnt",
                "--memory-limit",
                "1M",
                "--private-key",
                "k",
            ],
            "--memory-limit",
        ),
    ] {
        place.run(arguments).fails(2, &[words]);
    }
    for arguments in [&["--help"][..], &["--version"], &["mount", "--help"]] {
        assert_eq!(place.run(arguments).code, Some(0), "{arguments:?}");
    }
}

#[test]
fn an_unusable_mount_point_is_refused() {
    let place = Place::new();
    place.keygen("key");
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/file"), "").unwrap();
    let mount = |mountpoint: &str| {
        place.run(&[
            "mount",
            "file:///nowhere",
            mountpoint,
            "--private-key",
            "key",
        ])
    };
    mount("absent").fails(10, &["absent", "does not exist", "mkdir"]);
    mount("key").fails(10, &["key", "not a directory"]);
    mount("full").fails(10, &["full", "not empty"]);
    mount("/proc").fails(11, &["/proc", "already mounted"]);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn an_unusable_key_is_refused() {
    let place = Place::new();
    place.keygen("key");
    place.keygen("other");
    place
        .command(&["keygen", "locked", "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", "open sesame")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    fs::copy(place.path("key"), place.path("shared")).unwrap();
    fs::set_permissions(place.path("shared"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(place.path("text"), "not a key\n").unwrap();
    fs::set_permissions(place.path("text"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(place.path("key.pub"), place.path("writable.pub")).unwrap();
    fs::set_permissions(
        place.path("writable.pub"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();

    let source = format!("file://{}", place.path("store").display());
    let mount = |options: &[&str]| {
        let mut arguments = vec!["mount", &source, "mnt"];
        arguments.extend(options);
        let mut command = place.command(&arguments);
        Run::from(detached(&mut command).output().unwrap())
    };
    mount(&[]).fails(20, &["--private-key", "keygen"]);
    mount(&["--private-key", "absent"]).fails(20, &["absent", "keygen"]);
    mount(&["--private-key", "shared"]).fails(21, &["shared", "chmod 600"]);
    mount(&["--public-key", "writable.pub"]).fails(21, &["writable.pub", "chmod"]);
    mount(&["--private-key", "text"]).fails(22, &["text", "not an RSA key"]);
    mount(&["--private-key", "key.pub"]).fails(22, &["key.pub", "public key"]);
    mount(&["--private-key", "locked"]).fails(24, &["locked", "--passphrase-file"]);
    mount(&[
        "--private-key",
        "locked",
        "--passphrase-command",
        "echo wrong",
    ])
    .fails(24, &["locked", "wrong passphrase"]);
    mount(&["--private-key", "key", "--public-key", "other.pub"])
        .fails(23, &["other.pub", "does not belong"]);

    if find("openssl").is_none() {
        eprintln!("skipped in part: no openssl to make a small key");
    } else {
        let status = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(place.path("small"))
            .arg("1024")
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        fs::set_permissions(place.path("small"), fs::Permissions::from_mode(0o600)).unwrap();
        mount(&["--private-key", "small"]).fails(22, &["small", "1024 bits", "2048"]);
    }
    assert!(!place.path("store").exists(), "nothing was touched");
}

#[test]
fn files_of_the_daemon_must_not_be_inside_its_mount() {
    let place = Place::new();
    place.keygen("key");
    symlink(place.path("mnt"), place.path("link")).unwrap();
    let around = format!("file://{}", place.path("").display());
    place
        .run(&[
            "mount",
            around.trim_end_matches('/'),
            "mnt",
            "--private-key",
            "key",
        ])
        .fails(16, &["source folder", "contains"]);
    for (option, value) in [
        ("--cache-dir", "mnt/cache"),
        ("--cache-dir", "link/cache"),
        ("--log-file", "mnt/log"),
        ("--passphrase-file", "mnt/pass"),
    ] {
        place
            .run(&[
                "mount",
                "oss://bucket",
                "mnt",
                "--private-key",
                "key",
                option,
                value,
            ])
            .fails(16, &[value, "inside the mount point"]);
    }
}

#[test]
fn a_service_that_cannot_be_used_is_named() {
    let place = Place::new();
    place.keygen("key");
    let mount = |options: &[&str], credentials: bool| {
        let mut arguments = vec![
            "mount",
            "oss://bucket",
            "mnt",
            "--private-key",
            "key",
            "--timeout",
            "2",
        ];
        arguments.extend(options);
        let mut command = place.command(&arguments);
        if credentials {
            command
                .env("OSS_ACCESS_KEY_ID", "id")
                .env("OSS_ACCESS_KEY_SECRET", "not-to-be-shown");
        }
        let run = Run::from(command.output().unwrap());
        assert!(!run.stderr.contains("not-to-be-shown"));
        run
    };
    mount(&["--region", "cn-hangzhou"], false).fails(32, &["OSS_ACCESS_KEY_ID"]);
    mount(&[], true).fails(31, &["--endpoint", "--region"]);
    mount(&["--endpoint", "http://oss.example.com"], true).fails(31, &["--allow-http"]);
    mount(&["--endpoint", "ftp://oss.example.com"], true).fails(31, &["ftp"]);
    mount(&["--endpoint", "oss.example.com"], true).fails(31, &["--region"]);
    // A port without a listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let endpoint = format!("http://127.0.0.1:{port}");
    mount(&["--endpoint", &endpoint], true).fails(34, &[&endpoint, "oss://bucket"]);
    assert!(!place.is_mounted());
}

#[test]
fn a_folder_that_is_not_a_bucket_is_refused() {
    let place = Place::new();
    place.keygen("key");
    fs::create_dir(place.path("photos")).unwrap();
    fs::write(place.path("photos/cat.jpg"), "meow").unwrap();
    let source = format!("file://{}", place.path("photos").display());
    place
        .run(&["mount", &source, "mnt", "--private-key", "key"])
        .fails(35, &["photos", "empty"]);
    assert_eq!(fs::read_dir(place.path("photos")).unwrap().count(), 1);
}

#[test]
fn without_fuse_or_its_helper_the_message_names_what_to_install() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become a user who may not mount");
        return;
    }
    if find("setpriv").is_none() {
        eprintln!("skipped: no setpriv(1)");
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    // In a place where an ordinary user can run it.
    fs::copy(crate::fixture::PROGRAM, place.path("ossvault")).unwrap();
    place.keygen("key");
    for name in ["mnt", "key", "key.pub"] {
        std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
    }
    fs::create_dir(place.path("home")).unwrap();
    std::os::unix::fs::chown(place.path("home"), Some(65534), Some(65534)).unwrap();
    let source = format!("file://{}", place.path("home/store").display());
    let run = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(place.path("ossvault"))
        .args(["mount", &source, "mnt", "--private-key", "key"])
        .current_dir(place.path(""))
        .env_clear()
        .env("XDG_CACHE_HOME", place.path("home"))
        .env("FUSERMOUNT_PATH", "/nonexistent/fusermount3")
        .stdin(Stdio::null())
        .output()
        .map(Run::from)
        .unwrap();
    run.fails(13, &["fusermount3", "fuse3"]);
    assert!(!place.is_mounted());
}

/// `ossvault serve` on a free port, with one bucket. Ends with this.
struct Service {
    child: std::process::Child,
    endpoint: String,
}

impl Service {
    fn start(place: &Place) -> Service {
        use std::io::BufRead;
        let mut child = place
            .command(&[
                "serve",
                "--dir",
                "buckets",
                "--listen",
                "127.0.0.1:0",
                "--create",
                "bucket",
            ])
            .env("OSS_ACCESS_KEY_ID", "id")
            .env("OSS_ACCESS_KEY_SECRET", "secret")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let endpoint = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(endpoint.starts_with("http://127.0.0.1:"), "{line}");
        Service { child, endpoint }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn refusals_of_the_service_are_reported_in_one_line() {
    let place = Place::new();
    place.keygen("key");
    let service = Service::start(&place);
    let mount = |source: &str, endpoint: &str, id: &str, secret: &str| {
        place
            .command(&[
                "mount",
                source,
                "mnt",
                "--private-key",
                "key",
                "--endpoint",
                endpoint,
            ])
            .args(["--timeout", "2"])
            .env("OSS_ACCESS_KEY_ID", id)
            .env("OSS_ACCESS_KEY_SECRET", secret)
            .output()
            .map(Run::from)
            .unwrap()
    };
    let endpoint = service.endpoint.as_str();
    mount("oss://no-such-bucket", endpoint, "id", "secret")
        .fails(30, &["no-such-bucket", endpoint]);
    mount("oss://bucket", endpoint, "id", "wrong")
        .fails(32, &["SignatureDoesNotMatch", "OSS_ACCESS_KEY_SECRET"]);
    mount("oss://bucket", endpoint, "nobody", "secret").fails(32, &["InvalidAccessKeyId"]);
    assert!(!place.is_mounted());

    if can_mount() {
        mount("oss://bucket", endpoint, "id", "secret").succeeds();
        place.run(&["umount", "mnt"]).succeeds();
    }
}

#[test]
fn an_endpoint_that_is_not_an_oss_service_is_named() {
    let place = Place::new();
    place.keygen("key");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the process.
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n",
            );
        }
    });
    let run = place
        .command(&[
            "mount",
            "oss://bucket",
            "mnt",
            "--private-key",
            "key",
            "--timeout",
            "2",
        ])
        .args(["--endpoint", &endpoint])
        .env("OSS_ACCESS_KEY_ID", "id")
        .env("OSS_ACCESS_KEY_SECRET", "secret")
        .output()
        .map(Run::from)
        .unwrap();
    run.fails(31, &[&endpoint]);
}
