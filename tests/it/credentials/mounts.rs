//! Mounts whose keys end: requests wait, nothing is lost, and all goes on by itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cloud::Manner;
use super::{Place, holds_nothing, oidc_variables};
use crate::fixture::{BUCKET, can_mount, eventually, is_mount_point, noise, ossvault};

/// A mount through the gate; its end is checked, and its log for secrets.
struct Mount<'a> {
    place: &'a Place,
    path: PathBuf,
    child: Option<Child>,
}

impl Place {
    fn mount_command(&self, options: &[&str]) -> Command {
        let path = self.path("mnt");
        fs::create_dir_all(&path).unwrap();
        let mut command = self.command(&["mount", &format!("oss://{BUCKET}")]);
        command
            .arg(&path)
            .arg("--private-key")
            .arg(self.rig.key())
            .arg("--cache-dir")
            .arg(self.path("cache"))
            .arg("--log-file")
            .arg(self.path("log"))
            .args(options);
        command
    }

    /// In the foreground, with requests in its log.
    fn mount(&self, options: &[&str]) -> Mount<'_> {
        self.started(self.mount_command(options))
    }

    fn started(&self, mut command: Command) -> Mount<'_> {
        let child = command
            .args(["--foreground", "-vv"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mount = Mount {
            place: self,
            path: self.path("mnt"),
            child: Some(child),
        };
        eventually("the mount serves", || is_mount_point(&mount.path));
        mount
    }
}

impl Mount<'_> {
    fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    fn end_well(mut self) {
        let mut child = self.child.take().unwrap();
        let ended = ossvault().arg("umount").arg(&self.path).output().unwrap();
        assert!(ended.status.success(), "{ended:?}\n{}", self.log());
        assert!(child.wait().unwrap().success(), "{}", self.log());
        holds_nothing(&self.log());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            eprintln!("{}", self.log());
            let _ = child.kill();
            let _ = child.wait();
            let _ = ossvault()
                .args(["umount", "--lazy"])
                .arg(&self.path)
                .output();
        }
    }
}

/// What the token that ended was used for before does not matter, and only one new one is asked for.
#[test]
fn many_requests_whose_token_ends_share_one_new_one_and_lose_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mount = place.mount(&["--credential-source", "ecs:web"]);
    let path = |n: usize| mount.path.join(format!("file{n}"));
    let content = |n: usize| noise(n as u64, 200_000 + n);
    for n in 0..8 {
        fs::write(path(n), content(n)).unwrap();
    }
    for round in 1..=2 {
        let issued = place.cloud.state().issued();
        place.cloud.state().end_tokens();
        std::thread::scope(|scope| {
            for n in 0..24 {
                let (path, content) = (path(n), content(n));
                let round = round * 100;
                scope.spawn(move || match n < 8 {
                    true => assert_eq!(fs::read(&path).unwrap(), content),
                    false => fs::write(path.with_extension(round.to_string()), content).unwrap(),
                });
            }
        });
        let state = place.cloud.state();
        assert_eq!(state.issued(), issued + 1, "one new token in round {round}");
        assert!(!state.refused.is_empty());
    }
    for round in [100, 200] {
        for n in 8..24 {
            let path = path(n).with_extension(round.to_string());
            assert_eq!(fs::read(&path).unwrap(), content(n), "{}", path.display());
            assert!(
                !place
                    .rig
                    .ciphertext(path.file_name().unwrap().to_str().unwrap())
                    .is_empty()
            );
        }
    }
    mount.end_well();
    place.rig.assert_no_unfinished_uploads();
}

#[test]
fn a_token_is_renewed_before_it_expires_while_nothing_happens() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.cloud.state().life = Some(Duration::from_secs(8));
    let mount = place.mount(&["--credential-source", "ecs:web"]);
    let issued = place.cloud.state().issued();
    eventually("two renewals", || {
        place.cloud.state().issued() >= issued + 2
    });
    fs::write(mount.path.join("file"), "content").unwrap();
    assert!(place.cloud.state().refused.is_empty());
    let log = mount.log();
    assert!(
        log.contains("credentials from the metadata service, role web: the access key STS.…"),
        "{log}"
    );
    assert!(
        log.contains("credentials from the metadata service, role web: renewed"),
        "{log}"
    );
    mount.end_well();
}

#[test]
fn a_file_that_is_replaced_by_a_swapped_link_is_read_again() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.cloud.state().life = None;
    // As secret stores do it: a link to a folder, which is swapped.
    for name in ["one", "two"] {
        fs::create_dir(place.path(name)).unwrap();
        place.private(&format!("{name}/key"), place.key());
    }
    symlink("one", place.path("data")).unwrap();
    let file = place.path("data/key");
    let mount = place.mount(&["--credential-file", file.to_str().unwrap()]);
    fs::write(mount.path.join("before"), "content").unwrap();
    symlink("two", place.path("new")).unwrap();
    fs::rename(place.path("new"), place.path("data")).unwrap();
    let mut n = 0;
    eventually("the new token is in use", || {
        n += 1;
        fs::write(mount.path.join(format!("file{n}")), "content").unwrap();
        place.cloud.state().passed.len() == 2
    });
    assert!(place.cloud.state().refused.is_empty());
    mount.end_well();
}

#[test]
fn a_mount_waits_for_its_source_and_heals_by_itself() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mount = place.mount(&["--credential-source", "ecs:web", "--timeout", "4"]);
    fs::write(mount.path.join("old"), "content").unwrap();

    // The source is away for less than the timeout: the call takes longer, and that is all.
    place.cloud.state().manner = Manner::Refuses(500, "InternalError");
    place.cloud.state().end_tokens();
    let file = mount.path.join("waited");
    let writer = std::thread::spawn(move || fs::write(file, "content"));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!writer.is_finished(), "it waits");
    place.cloud.state().manner = Manner::Honest;
    writer.join().unwrap().unwrap();
    assert!(!place.rig.ciphertext("waited").is_empty());

    // For longer: the call fails, what was written stays and is uploaded later.
    let mut options = File::options();
    let options = options.create_new(true).read(true).write(true);
    let mut file = options.open(mount.path.join("kept")).unwrap();
    file.write_all(b"kept content").unwrap();
    place.cloud.state().manner = Manner::Refuses(500, "InternalError");
    place.cloud.state().end_tokens();
    let began = Instant::now();
    file.sync_all().expect_err("no key within the timeout");
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(began.elapsed() < Duration::from_secs(20));
    let mut content = [0; 12];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"kept content");
    let log = mount.log();
    let said = "credentials from the metadata service, role web: status 500; the access key STS.… is no longer valid, and requests wait for another";
    assert!(log.contains(said), "{log}");
    place.cloud.state().manner = Manner::Honest;
    eventually("what was staged is in the bucket", || {
        place.rig.keys().contains(&"kept".to_owned())
    });
    assert_eq!(place.rig.ciphertext("kept").len(), content.len());
    drop(file);
    assert_eq!(fs::read(mount.path.join("old")).unwrap(), b"content");
    let log = mount.log();
    assert!(log.contains("role web: available again"), "{log}");
    assert!(log.matches("is no longer valid").count() <= 2, "{log}");
    mount.end_well();
}

/// The platform replaces the identity token, and the old one is worth nothing then.
#[test]
fn a_role_of_a_pod_is_assumed_again_with_the_identity_token_that_is_there_then() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut command = place.mount_command(&[]);
    command.envs(oidc_variables(&place.path("identity")));
    let mount = place.started(command);
    fs::write(mount.path.join("before"), "content").unwrap();
    {
        let mut state = place.cloud.state();
        state.identity = "eyJs3cret.Other.0451".to_owned();
        state.end_tokens();
        fs::write(place.path("other"), &state.identity).unwrap();
    }
    fs::rename(place.path("other"), place.path("identity")).unwrap();
    fs::write(mount.path.join("after"), "content").unwrap();
    assert_eq!(place.rig.keys(), ["after", "before"]);
    mount.end_well();
}

/// The daemon has neither the caller's working directory nor the secrets of its environment.
#[test]
fn a_mount_in_the_background_renews_from_relative_paths() {
    if !can_mount() {
        return;
    }
    for source in [
        "--credential-file=../given/key",
        "--credential-command=../given/program",
    ] {
        let place = Place::new();
        place.cloud.state().life = None;
        fs::create_dir(place.path("given")).unwrap();
        place.private("given/key", place.key());
        place.program(
            "given/program",
            "cat \"$(dirname \"$0\")\"/key\n! env | grep 0451 >&2",
        );
        let mut command = place.mount_command(&[source]);
        let started = command
            .env("OSS_ACCESS_KEY_ID", "s3cret0451")
            .env("OSS_ACCESS_KEY_SECRET", "s3cret0451")
            .output()
            .unwrap();
        assert!(started.status.success(), "{started:?}");
        let path = place.path("mnt");
        fs::write(path.join("before"), "content").unwrap();
        // What is to be read again is there before the old token ends.
        place.cloud.state().end_tokens();
        place.private("given/new", place.key());
        fs::rename(place.path("given/new"), place.path("given/key")).unwrap();
        fs::write(path.join("after"), "content").unwrap();
        let ended = ossvault().arg("umount").arg(&path).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(place.rig.keys(), ["after", "before"]);
        holds_nothing(&fs::read_to_string(place.path("log")).unwrap_or_default());
    }
}
