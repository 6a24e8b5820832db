//! `ossvault doctor` against broken set-ups: each gets the right verdict, what depends on it is skipped with the reason,
//! and nothing is left in the bucket.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;
use ossvault::server::state::Config;

use crate::fixture::{BUCKET, Rig, can_mount, has_program, ossvault, write_and_close};

/// Needed for everything that a mount does, and for what doctor looks at besides.
const ALL: [&str; 6] = [
    "oss:ListObjects",
    "oss:GetObject",
    "oss:PutObject",
    "oss:DeleteObject",
    "oss:AbortMultipartUpload",
    "oss:GetBucketInfo",
];

struct Examined {
    code: Option<i32>,
    /// Verdict, what was found, and the remedy, by the check's name.
    checks: BTreeMap<String, (String, String, String)>,
    text: String,
}

impl Examined {
    fn verdict(&self, name: &str) -> &str {
        self.checks.get(name).map_or("none", |check| &check.0)
    }

    /// The one check that failed, with these words in what was found or what to do.
    #[track_caller]
    fn fails_only(&self, name: &str, words: &[&str]) {
        let failed: Vec<&str> = (self.checks.iter())
            .filter(|(_, check)| check.0 == "failed")
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(failed, [name], "{}", self.text);
        assert_eq!(self.code, Some(45), "{}", self.text);
        let (_, found, remedy) = &self.checks[name];
        assert!(!remedy.is_empty(), "{}", self.text);
        for word in words {
            let said = found.contains(word) || remedy.contains(word);
            assert!(said, "no {word} in: {found}; {remedy}");
        }
    }

    /// These are skipped, and say because of what.
    #[track_caller]
    fn skips(&self, names: &[&str], because: &str) {
        for name in names {
            let (verdict, found, _) = &self.checks[*name];
            assert_eq!(verdict, "skipped", "{name}: {}", self.text);
            assert!(found.contains(because), "{name}: {found}");
        }
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.code, Some(0), "{}", self.text);
        let failed = self.checks.values().any(|check| check.0 == "failed");
        assert!(!failed, "{}", self.text);
    }
}

fn command(rig: &Rig, options: &[&str]) -> Command {
    let mut command = ossvault();
    for name in ["https_proxy", "http_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
        .args(["doctor", "--json", "--quick"])
        .args(options)
        .current_dir(rig.path(""))
        .env("OSS_ENDPOINT", rig.endpoint())
        .env("OSS_ACCESS_KEY_ID", "test")
        .env("OSS_ACCESS_KEY_SECRET", "test")
        .env("XDG_CACHE_HOME", rig.path("cache"));
    command
}

fn read(command: &mut Command) -> Examined {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut checks = BTreeMap::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        if line["name"].is_string() {
            let check = (field("verdict"), field("found"), field("remedy"));
            assert!(checks.insert(field("name"), check).is_none(), "{text}");
        }
    }
    Examined {
        code: output.status.code(),
        checks,
        text: text + &String::from_utf8_lossy(&output.stderr),
    }
}

/// Of the rig's bucket.
fn examined(rig: &Rig, options: &[&str]) -> Examined {
    let source = format!("oss://{BUCKET}");
    let device = if can_mount() {
        "/dev/fuse"
    } else {
        "/dev/null"
    };
    let own = [&source, "--private-key", "key", "--fuse-device", device];
    read(&mut command(rig, &[&own[..], options].concat()))
}

fn refused(operation: Operation) -> Fault {
    let action = Action::Status {
        status: 403,
        code: "AccessDenied".into(),
    };
    Fault::once(operation, action).always()
}

/// What a bucket is left with: nothing, and no parts.
#[track_caller]
fn is_clean(rig: &Rig) {
    assert_eq!(rig.keys(), [""; 0]);
    rig.assert_no_unfinished_uploads();
}

#[test]
fn a_sound_set_up_has_nothing_wrong() {
    let rig = Rig::new();
    let sound = examined(&rig, &[]);
    sound.is_well();
    for name in [
        "fuse",
        "fusermount3",
        "keys",
        "name",
        "connection",
        "tls",
        "clock",
        "credentials",
        "region",
        "bucket",
        "list",
        "keys-of-objects",
        "versioning",
        "put",
        "head",
        "get",
        "forbid-overwrite",
        "if-match",
        "copy",
        "multipart",
        "delete",
        "latency",
        "scratch",
    ] {
        assert_eq!(sound.verdict(name), "ok", "{name}: {}", sound.text);
    }
    is_clean(&rig);
    // For people, without a source, and with its volume measured.
    let mut plain = command(&rig, &[]);
    let plain = read(plain.arg("--private-key").arg("key"));
    assert!(!plain.checks.contains_key("list"), "{}", plain.text);
    let source = format!("oss://{BUCKET}");
    let mut people = ossvault();
    people
        .args(["doctor", &source, "--private-key", "key"])
        .current_dir(rig.path(""))
        .env("OSS_ENDPOINT", rig.endpoint())
        .env("OSS_ACCESS_KEY_ID", "test")
        .env("OSS_ACCESS_KEY_SECRET", "test");
    let output = people.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("MB/s"), "{text}");
    assert!(text.lines().last().unwrap().contains(" ok, "), "{text}");
    is_clean(&rig);
}

#[test]
fn a_read_only_use_writes_nothing() {
    let rig = Rig::new();
    let counts = rig.requests(|| {
        let examined = examined(&rig, &["--read-only"]);
        examined.is_well();
        examined.skips(&["put", "delete", "multipart"], "--read-only");
    });
    let written: u64 = (counts.requests.iter())
        .filter(|(operation, _)| operation.writes())
        .map(|(_, count)| count)
        .sum();
    assert_eq!(written, 0, "{:?}", counts.requests);
}

#[test]
fn a_write_only_client_without_the_right_to_read_is_well() {
    let rig = Rig::new();
    let row = ["oss:ListObjects", "oss:PutObject", "oss:DeleteObject"];
    rig.instruments().allow_only(row);
    let source = format!("oss://{BUCKET}");
    let line = [&source, "--public-key", "key.pub"];
    let examined = read(&mut command(&rig, &line));
    for name in ["head", "copy", "versioning"] {
        assert_eq!(examined.verdict(name), "warning", "{}", examined.text);
    }
    for name in ["put", "forbid-overwrite", "delete"] {
        assert_eq!(examined.verdict(name), "ok", "{}", examined.text);
    }
}

#[test]
fn the_way_to_the_service_is_broken() {
    const NEXT: [&str; 6] = [
        "credentials",
        "list",
        "keys-of-objects",
        "put",
        "copy",
        "delete",
    ];
    let rig = Rig::new();
    let at = |endpoint: &str| {
        let options = [
            "--endpoint",
            endpoint,
            "--region",
            "cn-hangzhou",
            "--timeout",
            "5",
        ];
        examined(&rig, &options)
    };
    // A host that there is not.
    let wrong = at("http://nothing.invalid");
    // Plain http over a network needs a word of its own: refused before anything is sent.
    wrong.fails_only("source", &["--allow-http"]);
    let wrong = at("https://nothing.invalid");
    wrong.fails_only("name", &["nothing.invalid", "--endpoint"]);
    wrong.skips(&["connection", "tls", "clock"], "name failed");
    wrong.skips(&NEXT, "cannot be reached");

    // A port that nothing listens on.
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let closed = at(&format!("http://127.0.0.1:{port}"));
    closed.fails_only("connection", &["refused", "firewall"]);
    closed.skips(&["tls", "clock"], "connection failed");
    closed.skips(&NEXT, "cannot be reached");

    // TLS to a port that speaks none.
    let plain = rig.endpoint().replace("http://", "https://");
    let no_tls = at(&plain);
    no_tls.fails_only("tls", &["does not speak TLS"]);
    no_tls.skips(&["clock"], "tls failed");
    no_tls.skips(&NEXT, "cannot be reached");
    is_clean(&rig);
}

/// An HTTPS server with a certificate that no authority has signed.
struct SelfSigned(Child);

impl SelfSigned {
    fn start(rig: &Rig) -> (SelfSigned, u16) {
        let (key, cert) = (rig.path("tls.key"), rig.path("tls.cert"));
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", &port.to_string()])
            .arg("-key")
            .arg(&key)
            .arg("-cert")
            .arg(&cert)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        crate::fixture::eventually("the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        (SelfSigned(child), port)
    }
}

impl Drop for SelfSigned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_certificate_that_no_authority_has_signed_is_not_accepted() {
    if !has_program("openssl") {
        return;
    }
    let rig = Rig::new();
    let (_server, port) = SelfSigned::start(&rig);
    let endpoint = format!("https://127.0.0.1:{port}");
    let options = ["--endpoint", &endpoint, "--region", "cn-hangzhou"];
    let examined = examined(&rig, &options);
    examined.fails_only("tls", &["certificate", "SSL_CERT_FILE"]);
    examined.skips(&["clock"], "tls failed");
}

#[test]
fn the_clock_is_twenty_minutes_off() {
    for ahead in [1200, -1200] {
        let rig = Rig::new();
        rig.instruments().set_clock(ahead);
        let examined = examined(&rig, &[]);
        // Requests are signed for the service's clock, and go through.
        examined.fails_only("clock", &["timedatectl", "the service's"]);
        assert_eq!(examined.verdict("put"), "ok", "{}", examined.text);
        is_clean(&rig);
    }
}

#[test]
fn the_bucket_or_the_credentials_are_wrong() {
    let rig = Rig::new();
    let mut wrong = command(&rig, &[&format!("oss://{BUCKET}")]);
    let wrong = read(wrong.env("OSS_ACCESS_KEY_SECRET", "other"));
    wrong.fails_only(
        "credentials",
        &["SignatureDoesNotMatch", "OSS_ACCESS_KEY_SECRET"],
    );
    wrong.skips(&["region", "bucket", "list"], "credentials failed");
    wrong.skips(&["put", "delete", "latency"], "cannot be used");

    let absent = read(&mut command(&rig, &["oss://absent-bucket"]));
    absent.fails_only("bucket", &["no such bucket", "OSS console"]);
    absent.skips(&["list"], "bucket failed");

    let elsewhere = Rig::with(|config: &mut Config| {
        config.credentials.region = Some("cn-hangzhou".to_owned());
    });
    let region = examined(&elsewhere, &["--region", "cn-beijing"]);
    region.fails_only("region", &["--region", "0002-00000226"]);
    region.skips(&["credentials", "list"], "region failed");

    let mut nothing = command(&rig, &[&format!("oss://{BUCKET}")]);
    nothing.env_remove("OSS_ACCESS_KEY_ID");
    nothing.env_remove("OSS_ACCESS_KEY_SECRET");
    read(&mut nothing).fails_only("source", &["OSS_ACCESS_KEY_ID"]);
}

#[test]
fn a_permission_is_missing() {
    for (missing, name, skipped) in [
        ("oss:ListObjects", "list", &["latency"][..]),
        ("oss:PutObject", "put", &["copy", "multipart", "delete"]),
        ("oss:DeleteObject", "delete", &[]),
    ] {
        let rig = Rig::new();
        rig.instruments()
            .allow_only(ALL.into_iter().filter(|action| *action != missing));
        let examined = examined(&rig, &[]);
        examined.fails_only(name, &[missing]);
        examined.skips(skipped, &format!("{name} failed"));
        if missing == "oss:DeleteObject" {
            // What is left is named.
            let (verdict, found, _) = &examined.checks["scratch"];
            assert_eq!(verdict, "warning", "{}", examined.text);
            assert!(found.contains(".ossvault/doctor-"), "{found}");
            assert_eq!(rig.keys().len(), 2, "{:?}", rig.keys());
        } else {
            is_clean(&rig);
        }
    }
    // Reading is needed to copy, too.
    let rig = Rig::new();
    rig.instruments()
        .allow_only(ALL.into_iter().filter(|action| *action != "oss:GetObject"));
    let examined = examined(&rig, &[]);
    for name in ["head", "copy"] {
        assert_eq!(examined.verdict(name), "failed", "{}", examined.text);
    }
    examined.skips(&["get"], "head failed");
    is_clean(&rig);
}

#[test]
fn the_service_breaks_a_promise() {
    let rig = Rig::new();
    rig.instruments().ignore_conditions(true);
    let examined_ = examined(&rig, &[]);
    for name in ["forbid-overwrite", "if-match"] {
        assert_eq!(examined_.verdict(name), "failed", "{}", examined_.text);
    }
    assert_eq!(examined_.verdict("copy"), "ok", "{}", examined_.text);
    is_clean(&rig);

    for (operation, name) in [
        (Operation::CopyObject, "copy"),
        (Operation::InitiateMultipartUpload, "multipart"),
    ] {
        let rig = Rig::new();
        rig.fault(refused(operation));
        examined(&rig, &[]).fails_only(name, &["AccessDenied"]);
        is_clean(&rig);
    }
    // The upload breaks off in the middle: neither the object nor its part is left.
    let rig = Rig::new();
    rig.fault(refused(Operation::CompleteMultipartUpload));
    examined(&rig, &[]).fails_only("multipart", &["AccessDenied"]);
    is_clean(&rig);
}

#[test]
fn a_bucket_that_keeps_old_versions_is_a_warning() {
    let rig = Rig::with(|config: &mut Config| config.versioned = true);
    let examined_ = examined(&rig, &[]);
    assert_eq!(
        examined_.verdict("versioning"),
        "warning",
        "{}",
        examined_.text
    );
    examined_.is_well();
    // Such a bucket ignores one of the conditions, which is its way.
    rig.instruments().ignore_conditions(true);
    let examined_ = examined(&rig, &[]);
    assert_eq!(examined_.verdict("forbid-overwrite"), "warning");
    assert_eq!(examined_.verdict("if-match"), "failed");
}

#[test]
fn the_keys_do_not_fit() {
    let rig = Rig::new();
    let keygen = ["keygen", "--no-passphrase", "--bits", "2048", "other"];
    let made = ossvault()
        .args(keygen)
        .current_dir(rig.path(""))
        .output()
        .unwrap();
    assert!(made.status.success());
    let pair = examined(&rig, &["--public-key", "other.pub"]);
    pair.fails_only("keys", &["does not belong", "ossvault key show"]);
    pair.skips(&["keys-of-objects"], "no key to compare");
    if !can_mount() {
        return;
    }
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("file"), b"content").unwrap();
    mount.end_well();
    assert_eq!(examined(&rig, &[]).verdict("keys-of-objects"), "ok");
    let source = format!("oss://{BUCKET}");
    let line = [&source, "--private-key", "other"];
    let other = read(&mut command(&rig, &line));
    other.fails_only("keys-of-objects", &["another key", "--accept-key"]);
    assert_eq!(rig.keys(), ["file"]);
}

#[test]
fn the_machine_lacks_fuse() {
    let rig = Rig::new();
    let source = format!("oss://{BUCKET}");
    let line = [&source, "--fuse-device", "/dev/there-is-none"];
    let examined = read(&mut command(&rig, &line));
    examined.fails_only("fuse", &["/dev/there-is-none", "modprobe fuse"]);
    // Nothing else depends on it.
    assert_eq!(examined.verdict("delete"), "ok", "{}", examined.text);
}

#[test]
fn a_bucket_in_a_folder_is_examined_without_a_network() {
    let rig = Rig::new();
    let folder = rig.path("folder");
    let source = format!("file://{}", folder.display());
    let absent = read(&mut command(&rig, &[&source]));
    absent.fails_only("source", &["there is no bucket in"]);
    assert!(!folder.exists(), "a command that looks creates nothing");
    let settings = ossvault::store::local::Settings { sync: false };
    drop(ossvault::store::local::LocalStore::open(&folder, settings).unwrap());
    let examined = read(&mut command(&rig, &[&source, "--private-key", "key"]));
    examined.is_well();
    assert!(!examined.checks.contains_key("tls"), "{}", examined.text);
    assert_eq!(examined.verdict("if-match"), "ok", "{}", examined.text);
}

/// Ctrl-C ends the checks and not the cleaning up.
#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    use nix::sys::signal::{Signal, kill};
    let rig = Rig::new();
    let stalled = Action::Stall { ms: 4_000 };
    rig.fault(Fault::once(Operation::CopyObject, stalled).after(1));
    let source = format!("oss://{BUCKET}");
    let mut line = command(&rig, &[&source, "--private-key", "key"]);
    let child = line
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    crate::fixture::eventually("there are scratch objects", || !rig.keys().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        Signal::SIGINT,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"scratch\""), "{text}");
    assert!(!text.contains("\"delete\""), "{text}");
    is_clean(&rig);
}
