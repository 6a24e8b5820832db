//! Every source gives a key with which files are written and read.

use std::fs;
use std::process::Command;

use super::cloud::{BASE_ID, BASE_SECRET, ID, PROVIDER, ROLE, SECRET};
use super::{Place, aliyun, base_key, oidc_variables, said};
use crate::fixture::{BUCKET, set_mode};

/// Writes a file with one run of the program and reads it with another.
#[track_caller]
fn works(place: &Place, what: &str, prepare: &dyn Fn(&mut Command)) {
    let key = place.rig.key();
    let key = ["--private-key", key.to_str().unwrap()];
    let local = place.path("file");
    fs::write(&local, what).unwrap();
    let remote = format!("oss://{BUCKET}/{}", what.replace(' ', "-"));
    let mut put = place.command(&["put", local.to_str().unwrap(), &remote]);
    prepare(put.args(key));
    let (code, text) = said(put.env("RUST_LOG", "debug"));
    assert_eq!(code, Some(0), "{what}: {text}");
    let mut cat = place.command(&["cat", &remote]);
    prepare(cat.args(key));
    let (code, text) = said(&mut cat);
    assert_eq!((code, &*text), (Some(0), what), "{what}");
}

#[test]
fn a_file_in_any_known_form_gives_the_key() {
    let place = Place::new();
    let token = place.cloud.state().issue();
    let base = format!(r#""access_key_id":"{BASE_ID}","access_key_secret":"{BASE_SECRET}""#);
    let own = format!(r#""access_key_id":"{ID}","access_key_secret":"{SECRET}""#);
    let identity = place.path("identity");
    let program = place.program("give", &format!("cat <<'.'\n{}\n.", place.key()));
    for (what, content) in [
        ("json", place.key()),
        (
            "json of sts",
            format!(r#"{{"RequestId":"R","Credentials":{}}}"#, place.key()),
        ),
        (
            "ossutil",
            format!(
                "[Credentials]\nlanguage=EN\naccessKeyID={ID}\naccessKeySecret={SECRET}\nstsToken={token}\n"
            ),
        ),
        (
            "ossutil with a role",
            format!(
                "[Credentials]\nmode=RamRoleArn\naccessKeyID={BASE_ID}\naccessKeySecret={BASE_SECRET}\nramRoleArn={ROLE}\n"
            ),
        ),
        (
            "ossutil of an instance",
            "[default]\nmode=EcsRamRole\necsRoleName=web\n".to_owned(),
        ),
        (
            "aliyun StsToken",
            aliyun("StsToken", &format!(r#"{own},"sts_token":"{token}""#)),
        ),
        (
            "aliyun RamRoleArn",
            aliyun(
                "RamRoleArn",
                &format!(
                    r#"{base},"ram_role_arn":"{ROLE}","ram_session_name":"s1","policy":"{{}}""#
                ),
            ),
        ),
        (
            "aliyun EcsRamRole",
            aliyun("EcsRamRole", r#""ram_role_name":"""#),
        ),
        (
            "aliyun CredentialsURI",
            aliyun(
                "CredentialsURI",
                &format!(r#""credentials_uri":"{}/uri""#, place.cloud.services()),
            ),
        ),
        (
            "aliyun OIDC",
            aliyun(
                "OIDC",
                &format!(
                    r#""ram_role_arn":"{ROLE}","oidc_provider_arn":"{PROVIDER}","oidc_token_file":"{}""#,
                    identity.display()
                ),
            ),
        ),
        (
            "aliyun External",
            aliyun(
                "External",
                &format!(r#""process_command":"{} 'an argument'""#, program.display()),
            ),
        ),
    ] {
        let file = place.private("credentials", content);
        works(&place, what, &|command| {
            command.arg("--credential-file").arg(&file);
        });
    }
}

#[test]
fn a_key_in_a_file_of_ossfs_is_that_of_the_bucket() {
    let place = Place::new();
    place.cloud.state().accept("");
    let lines = format!("other:x:y\n{BUCKET}:{ID}:{SECRET}\nx:y\n");
    let file = place.private("passwd", &lines);
    works(&place, "passwd", &|command| {
        command.arg("--credential-file").arg(&file);
    });
    place.private("home/.passwd-ossfs", &lines);
    works(&place, "passwd at home", &|_| {});
}

#[test]
fn programs_services_and_the_environment_give_keys() {
    let place = Place::new();
    let token = place.cloud.state().issue();
    let program = place.program(
        "give",
        &format!("echo ignored >&2; cat <<'.'\n{}\n.", place.key()),
    );
    let source = |name: &'static str| {
        move |command: &mut Command| {
            command.args(["--credential-source", name]);
        }
    };
    works(&place, "command", &|command| {
        command
            .arg("--credential-command")
            .arg(format!("'{}' $HOME", program.display()));
    });
    works(&place, "instance", &source("ecs"));
    works(&place, "instance with a role", &source("ecs:web"));
    works(&place, "named by a variable", &|command| {
        command.env("ALIBABA_CLOUD_ECS_METADATA", "web");
    });
    works(&place, "oidc", &|command| {
        command.envs(oidc_variables(&place.path("identity")));
    });
    works(&place, "uri", &|command| {
        command.env(
            "ALIBABA_CLOUD_CREDENTIALS_URI",
            format!("{}/uri", place.cloud.services()),
        );
    });
    works(&place, "environment", &|command| {
        command
            .env("ALIBABA_CLOUD_ACCESS_KEY_ID", ID)
            .env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET)
            .env("ALIBABA_CLOUD_SECURITY_TOKEN", &token);
    });
}

#[test]
fn a_role_is_assumed_on_top_of_any_source() {
    let place = Place::new();
    let file = place.private("base", base_key());
    let program = place.program("give", &format!("echo '{}'", base_key()));
    let assumed = |prepare: &dyn Fn(&mut Command), what: &str| {
        let before = place.cloud.state().asked.len();
        works(&place, what, &|command| {
            command.args(["--role-arn", ROLE, "--role-session-name", "a.b@c"]);
            prepare(command);
        });
        let state = place.cloud.state();
        let asked = state.asked[before..].iter();
        let roles = asked.filter(|line| line.contains("RoleArn=") && line.contains("=a.b%40c"));
        assert_eq!(roles.count(), 2, "{what}");
    };
    assumed(
        &|command| {
            command
                .env("OSS_ACCESS_KEY_ID", BASE_ID)
                .env("OSS_ACCESS_KEY_SECRET", BASE_SECRET);
        },
        "of the environment",
    );
    assumed(
        &|command| {
            command.arg("--credential-file").arg(&file);
        },
        "of a file",
    );
    assumed(
        &|command| {
            command.arg("--credential-command").arg(&program);
        },
        "of a program",
    );
    // With a key that is temporary itself.
    assumed(
        &|command| {
            command.args(["--credential-source", "ecs"]);
        },
        "of an instance",
    );
}

#[test]
fn options_go_before_the_environment_and_that_before_files() {
    let place = Place::new();
    let good = place.private("good", place.key());
    let bad = place.private("bad", r#"{"AccessKeyId":"x","AccessKeySecret":"y"}"#);
    let runs = |prepare: &dyn Fn(&mut Command)| {
        let mut command = place.listing();
        prepare(&mut command);
        said(&mut command).0
    };
    const REFUSED: Option<i32> = Some(32);
    let of_bad = |command: &mut Command| {
        command
            .env("OSS_ACCESS_KEY_ID", "x")
            .env("OSS_ACCESS_KEY_SECRET", "y");
    };
    assert_eq!(runs(&|_| ()), REFUSED);
    assert_eq!(runs(&of_bad), REFUSED);
    assert_eq!(
        runs(&|command| {
            of_bad(command);
            command.env("OSSVAULT_CREDENTIAL_FILE", &good);
        }),
        Some(0)
    );
    // Of what a user's file says, the path begins where the file is.
    fs::create_dir_all(place.path("home/.config/ossvault")).unwrap();
    fs::copy(&good, place.path("home/.config/ossvault/key.json")).unwrap();
    let config = place.path("home/.config/ossvault/config.toml");
    fs::write(&config, "[defaults]\ncredential-file = \"key.json\"\n").unwrap();
    assert_eq!(runs(&of_bad), Some(0));
    assert_eq!(
        runs(&|command| {
            command.arg("--credential-file").arg(&bad);
        }),
        REFUSED
    );
    fs::remove_file(&config).unwrap();
    // The file of `aliyun` is used if there is nothing else.
    let own = format!(
        r#""access_key_id":"{ID}","access_key_secret":"{SECRET}","sts_token":"{}""#,
        place.cloud.state().issue()
    );
    let profiles = aliyun("StsToken", &own).replace("default", "work");
    place.private("home/.aliyun/config.json", profiles);
    assert_eq!(runs(&|_| ()), Some(0));
    assert_eq!(runs(&of_bad), REFUSED);
    assert_eq!(
        runs(&|command| {
            of_bad(command);
            command.args(["--credential-profile", "work"]);
        }),
        Some(0)
    );
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let place = Place::new();
    let file = place.private("credentials", place.key());
    let mut command = place.listing();
    command.arg("--credential-file").arg(&file);
    for (mode, expected) in [(0o600, Some(0)), (0o640, Some(32)), (0o604, Some(32))] {
        set_mode(&file, mode);
        let (code, text) = said(&mut command);
        assert_eq!(code, expected, "{mode:o}: {text}");
        assert_eq!(code == Some(32), text.contains("run `chmod 600`"), "{text}");
    }
    let (code, text) = said(command.arg("--insecure-credential-permissions"));
    assert_eq!(code, Some(0), "{text}");

    let open = place.path("open");
    fs::create_dir(&open).unwrap();
    set_mode(&open, 0o777);
    place.private("open/credentials", place.key());
    let mut command = place.listing();
    let (code, text) = said(
        command
            .arg("--credential-file")
            .arg(open.join("credentials")),
    );
    assert_eq!(code, Some(32), "{text}");
    assert!(text.contains("other users can replace"), "{text}");
}
