//! Possible secrets are never repeated: not in messages, not in help, not in the environment of any process.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{PROGRAM, clean, is_root, set_mode};

/// A word that is not a path, region or number, and could be a passphrase or a token.
const WORD: &str = "s3cret=Marker/0451+";

/// A key in place of the name of its file.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMIIs3cretMarker0451\nAAAAs3cretMarker0451\n-----END PRIVATE KEY-----";

/// Credentials in a URL.
const URL: &str = "https://user:s3cretMarker0451@oss-cn-hangzhou.aliyuncs.com";

const COMMANDS: [&str; 11] = [
    "keygen",
    "mount",
    "umount",
    "serve",
    "demo",
    "info",
    "doctor",
    "verify",
    "restore-envelopes",
    "rewrap",
    "adopt",
];

/// Options whose values are names of files and folders, or of things in a bucket. A word in them is shown,
/// because users must see which file is meant; a key or credentials are not.
const NAMES: [&str; 18] = [
    "--config",
    "--credential-file",
    "--private-key",
    "--public-key",
    "--writing-key",
    "--new-private-key",
    "--new-passphrase-file",
    "--passphrase-file",
    "--log-file",
    "--cache-dir",
    "--dir",
    "--compare",
    "--manifest",
    "--digests",
    "--report",
    "--save-envelopes",
    "--embedded-server",
    "--prefix",
];

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        fs::copy(
            crate::formats::vectors().join("keys/rsa2048.pkcs8.pem"),
            folder.path().join("key"),
        )
        .unwrap();
        set_mode(&folder.path().join("key"), 0o600);
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // In its own session it has no terminal for the prompt.
        let mut command = Command::new("setsid");
        command
            .args(["--wait", PROGRAM])
            .args(arguments)
            .current_dir(self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        clean(&mut command);
        command
    }

    /// Its complete output.
    fn says(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The arguments without which a command does not get as far as checking the others. Nothing in them
/// succeeds.
fn required(command: &str) -> Vec<&'static str> {
    let oss = ["--endpoint", "http://127.0.0.1:9", "--timeout", "0.1"];
    let mut arguments = match command {
        "keygen" => vec!["nodir/key", "--no-passphrase", "--bits", "2048"],
        "mount" => vec!["oss://bucket", "mnt", "--private-key", "key"],
        "umount" => vec!["mnt"],
        "serve" => vec!["--dir", "absent", "--listen", "192.0.2.1:1"],
        "demo" => vec!["key/below"],
        "info" => vec!["oss://bucket/object"],
        "restore-envelopes" => vec!["absent", "oss://bucket"],
        "rewrap" => vec![
            "oss://bucket",
            "--private-key",
            "key",
            "--public-key",
            "absent",
        ],
        _ => vec!["oss://bucket", "--private-key", "key"],
    };
    if !["keygen", "umount", "serve", "demo"].contains(&command) {
        arguments.extend(oss);
    }
    arguments
}

/// The options of a command that take a value, according to its help.
fn options(place: &Place, command: &str) -> Vec<String> {
    let help = place.says(&mut place.command(&[command, "--help"]));
    let mut found = Vec::new();
    for line in help.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let option = words.iter().find(|word| word.starts_with("--"));
        if let Some(option) = option
            && line.trim_start().starts_with('-')
            && line.contains('<')
        {
            found.push(option.split(['[', '=']).next().unwrap().to_owned());
        }
    }
    found
}

fn hidden() -> [&'static str; 6] {
    [
        "--metadata-endpoint",
        "--part-size",
        "--stream-after",
        "--copy-limit",
        "--embedded-server",
        "--latency-ms",
    ]
}

#[track_caller]
fn holds_nothing(text: &str, what: &str) {
    for word in ["s3cret", "0451"] {
        assert!(!text.contains(word), "{what}: {text}");
    }
}

#[test]
fn no_message_repeats_an_option_or_argument_that_may_be_a_secret() {
    let place = Place::new();
    let mut tried = 0;
    for command in COMMANDS {
        let mut all = options(&place, command);
        if command != "umount" && command != "demo" {
            assert!(!all.is_empty(), "{command}");
        }
        all.extend(hidden().map(str::to_owned));
        // One that does not exist.
        all.push("--s3cretMarker0451".to_owned());
        for option in &all {
            for value in [WORD, PEM, URL] {
                let shown = value == WORD && NAMES.contains(&option.as_str());
                let mut line = vec![command];
                let one = format!("{option}={value}");
                let required = required(command);
                let given = required.iter().position(|word| word == option);
                for (at, word) in required.iter().enumerate() {
                    if given.is_none_or(|given| at != given && at != given + 1) {
                        line.push(word);
                    }
                }
                // A key begins with dashes.
                match value == URL {
                    true => line.extend([option.as_str(), value]),
                    false => line.push(&one),
                }
                let said = place.says(&mut credentials(place.command(&line)));
                tried += 1;
                if !shown {
                    holds_nothing(&said, &format!("{command} {option}"));
                }
            }
        }
        for value in [PEM, URL] {
            for line in [
                vec![command, value, "mnt"],
                vec![command, "mnt", value],
                vec![value],
            ] {
                let said = place.says(&mut credentials(place.command(&line)));
                holds_nothing(&said, &format!("{command} with an argument"));
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

fn credentials(mut command: Command) -> Command {
    command
        .env("OSS_ACCESS_KEY_ID", "id")
        .env("OSS_ACCESS_KEY_SECRET", "secret");
    command
}

#[test]
fn no_message_repeats_a_variable_that_may_hold_a_secret() {
    let place = Place::new();
    for variable in [
        "OSSVAULT_PRIVATE_KEY",
        "OSSVAULT_PUBLIC_KEY",
        "OSSVAULT_PASSPHRASE",
        "OSS_ACCESS_KEY_ID",
        "OSS_ACCESS_KEY_SECRET",
        "OSS_SESSION_TOKEN",
        "OSS_TEST_ACCESS_KEY_ID",
        "OSS_TEST_ACCESS_KEY_SECRET",
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        "ALIBABA_CLOUD_SECURITY_TOKEN",
        "ALIBABA_CLOUD_CREDENTIALS_URI",
        "ALIBABA_CLOUD_ECS_METADATA",
        "ALIBABA_CLOUD_ROLE_ARN",
        "ALIBABA_CLOUD_STS_REGION",
        "OSS_ENDPOINT",
        "OSS_REGION",
        "OSS_TEST_ENDPOINT",
        "RUST_LOG",
        "OSSVAULT_CTR",
        "http_proxy",
    ] {
        for value in [WORD, PEM, URL] {
            // The name of a file is shown; that of an endpoint is a host name.
            if value == WORD && variable.ends_with("_KEY") && variable.starts_with("OSSVAULT_P") {
                continue;
            }
            for command in ["keygen", "mount", "serve", "info", "verify"] {
                let mut line = vec![command];
                line.extend(required(command));
                if variable.starts_with("OSSVAULT_P") {
                    line.retain(|word| !word.ends_with("-key") && *word != "key");
                }
                if variable.contains("ENDPOINT") {
                    line.retain(|word| *word != "--endpoint" && !word.starts_with("http:"));
                }
                let mut command = credentials(place.command(&line));
                let said = place.says(command.env(variable, value));
                holds_nothing(&said, &format!("{variable} with {line:?}"));
            }
            for command in ["mount", "adopt"] {
                let said = place.says(place.command(&[command, "--help"]).env(variable, value));
                holds_nothing(&said, &format!("{variable} with --help"));
            }
        }
    }
}

/// The output of `script` when a mount that goes to the background runs it to get a passphrase.
fn asked_for_a_passphrase(place: &Place, uid: Option<u32>, script: &str) {
    let protected = place.path("protected");
    fs::copy(
        crate::formats::vectors().join("keys/rsa2048.pkcs8.scrypt-aes256.enc.pem"),
        &protected,
    )
    .unwrap();
    set_mode(&protected, 0o600);
    if let Some(uid) = uid {
        for name in ["protected", "mnt", ""] {
            std::os::unix::fs::chown(place.path(name), Some(uid), Some(uid)).unwrap();
        }
    }
    fs::write(place.path("script"), script).unwrap();
    let mut command = place.command(&[
        "mount",
        "oss://bucket",
        "mnt",
        "--private-key",
        "protected",
        "--endpoint",
        "http://127.0.0.1:9",
        "--timeout",
        "0.1",
        "--cache-dir",
        "cache",
        "--passphrase-command",
        ". ./script",
    ]);
    for (name, value) in [
        ("OSSVAULT_PASSPHRASE", "s3cretMarker0451"),
        ("OSS_ACCESS_KEY_ID", "s3cretMarker0451"),
        ("OSS_ACCESS_KEY_SECRET", "s3cretMarker0451"),
        ("OSS_SESSION_TOKEN", "s3cretMarker0451"),
        ("OSS_TEST_ACCESS_KEY_SECRET", "s3cretMarker0451"),
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s3cretMarker0451"),
        ("ALIBABA_CLOUD_SECURITY_TOKEN", "s3cretMarker0451"),
        ("ALIBABA_CLOUD_CREDENTIALS_URI", "https://s3cretMarker0451"),
        ("OSS_HARMLESS", "harmless"),
    ] {
        command.env(name, value);
    }
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let output = command.output().unwrap();
    assert!(
        place.path("done").exists(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Regression: they stayed in /proc/PID/environ of the daemon and of the waiting parent, and the passphrase
/// command inherited them.
#[test]
fn secrets_leave_the_environment_of_every_process() {
    if !is_root() {
        eprintln!("skipped: only root may look into the environment of the processes");
        return;
    }
    let place = Place::new();
    asked_for_a_passphrase(
        &place,
        None,
        "cat /proc/self/environ > command
         cat /proc/$PPID/environ > daemon
         parent=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status)
         cat /proc/$parent/environ > parent
         touch done
         echo no",
    );
    for name in ["command", "daemon", "parent"] {
        let environment = fs::read(place.path(name)).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(
            environment.contains("OSS_HARMLESS=harmless"),
            "{name}: {environment}"
        );
        holds_nothing(&environment, name);
    }
}

/// The waiting parent also holds the secrets, to pass them on.
#[test]
fn other_processes_of_the_user_cannot_inspect_daemon_and_parent() {
    const SOMEBODY: u32 = 65_533;
    if !is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let place = Place::new();
    set_mode(Path::new(place.0.path()), 0o755);
    asked_for_a_passphrase(
        &place,
        Some(SOMEBODY),
        "parent=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$PPID/status)
         for process in $PPID $parent; do
             cat /proc/$process/environ > environment 2>/dev/null && touch readable
             grep -q 'Max core file size *0 ' /proc/$process/limits || touch dumps
         done
         touch done
         echo no",
    );
    assert!(!place.path("readable").exists());
    assert!(!place.path("dumps").exists());
}
