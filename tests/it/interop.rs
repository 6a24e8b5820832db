//! The official SDKs against the server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ossvault::server::endpoint::Server;
use ossvault::server::state::Config;

use crate::fixture::{self, Rig, can_mount};

/// The interpreter with the SDKs, or the reason why there is none. `scripts/venv` creates it, and needs the
/// network once.
pub(crate) fn python() -> Result<PathBuf, String> {
    // Tests run in parallel, and one of them creates it.
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(find_python).clone()
}

fn find_python() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(root.join("scripts/venv"))
        .output()
        .map_err(|error| format!("scripts/venv: {error}"))?;
    if !made.status.success() {
        return Err(format!(
            "scripts/venv: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        ));
    }
    Ok(root.join("target/venv/bin/python3"))
}

/// Runs one of tests/interop on a rig's bucket; returns what it prints.
pub(crate) fn run_on(
    rig: &Rig,
    python: &Path,
    script: &str,
    args: &[&str],
    input: &[u8],
) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let mut child = Command::new(python)
        .arg(folder.join(script))
        .args(args)
        .env("OSS_TEST_ENDPOINT", rig.endpoint())
        .env("OSS_TEST_BUCKET", fixture::BUCKET)
        .env("OSS_TEST_ACCESS_KEY_ID", "test")
        .env("OSS_TEST_ACCESS_KEY_SECRET", "test")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} {args:?}");
    output.stdout
}

/// Prints the reason, and fails if nothing may be skipped.
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
    for name in ["REQUIRE_INTEROP", "REQUIRE_FUSE"] {
        let required = std::env::var_os(name).is_some_and(|value| !value.is_empty());
        assert!(!required, "{name} is set, but {why}");
    }
}

/// A server with one bucket, and the settings for a script to find it.
struct Bucket {
    server: Server,
    folder: tempfile::TempDir,
}

impl Bucket {
    async fn new() -> Bucket {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(Config::new(folder.path().join("buckets")))
            .await
            .unwrap();
        server.create_bucket("bucket").unwrap();
        Bucket { server, folder }
    }

    fn command(&self, python: &Path) -> Command {
        let mut command = Command::new(python);
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop"))
            .env("TEMPDIR", self.folder.path())
            .env("OSS_TEST_ENDPOINT", self.server.endpoint())
            .env("OSS_TEST_BUCKET", "bucket")
            .env("OSS_TEST_ACCESS_KEY_ID", "test")
            .env("OSS_TEST_ACCESS_KEY_SECRET", "test")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_sdks_work_with_the_server() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let bucket = Bucket::new().await;
    let ran = bucket
        .command(&python)
        .args([
            "sdk.py",
            &bucket.server.endpoint(),
            "bucket",
            "test",
            "test",
        ])
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_example_reads_what_it_wrote() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let bucket = Bucket::new().await;
    let program = "import seed\n\
        from Crypto.PublicKey import RSA\n\
        key = RSA.generate(2048)\n\
        bucket = seed.bucket()\n\
        seed.write_object(bucket, 'dir/文件.txt', b'test content', key.public_key().export_key())\n\
        assert bucket.get_object('dir/文件.txt').read() != b'test content'\n\
        assert seed.read_object(bucket, 'dir/文件.txt', key.export_key()) == b'test content'\n";
    let ran = bucket
        .command(&python)
        .args(["-c", program])
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A mount and the seed's example, on one bucket with one key pair.
#[test]
fn the_seeds_example_opens_what_a_mount_wrote_and_a_mount_what_the_example_wrote() {
    if !can_mount() {
        return;
    }
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let rig = Rig::new();
    let seed = |action: &str, name: &str, key: &Path, input: &[u8]| {
        let key = key.to_str().unwrap();
        run_on(&rig, &python, "seed.py", &[action, name, key], input)
    };
    let public = rig.path("key.pub");
    let mount = rig.mount("mnt", &["--metadata-ttl", "0"]);
    // Sizes around blocks and parts; the largest is uploaded in parts.
    for size in [1, 15, 16, 17, 4096, 70_000, (8 << 20) + 5] {
        let content = fixture::noise(size as u64, size);
        let ours = format!("ours-{size}");
        fixture::write_and_close(&mount.path.join(&ours), &content).unwrap();
        assert!(seed("read", &ours, &rig.key(), b"") == content, "{ours}");
        let theirs = format!("theirs-{size}");
        seed("write", &theirs, &public, &content);
        assert!(
            fixture::read(&mount.path.join(&theirs)).unwrap() == content,
            "{theirs}"
        );
    }
    mount.end_well();
}
