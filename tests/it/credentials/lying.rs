//! Services, files and programs that do not do what they should: one line says what is wrong, in time, and without a
//! secret.

use std::process::Command;
use std::time::{Duration, Instant};

use super::cloud::{ID, Manner, ROLE, SECRET};
use super::{Place, aliyun, base_key, oidc_variables, said};

#[test]
fn a_service_that_lies_is_found_out_in_time() {
    let place = Place::new();
    let base = place.private("base", base_key());
    let identity = place.path("identity");
    let role = |command: &mut Command| {
        command.arg("--credential-file").arg(&base);
        command.args(["--role-arn", ROLE]);
    };
    let instance = |command: &mut Command| {
        command.args(["--credential-source", "ecs:web"]);
    };
    let oidc = |command: &mut Command| {
        command.envs(oidc_variables(&identity));
    };
    let uri = |command: &mut Command| {
        let uri = format!("{}/uri", place.cloud.services());
        command.env("ALIBABA_CLOUD_CREDENTIALS_URI", uri);
    };
    type Prepare<'a> = &'a dyn Fn(&mut Command);
    let sources: [(&str, Prepare<'_>); 4] = [
        ("role", &role),
        ("instance", &instance),
        ("oidc", &oidc),
        ("uri", &uri),
    ];
    // Exit codes: 32 is for credentials, 34 for what does not answer.
    for (manner, expected, words) in [
        (Manner::Honest, 0, ""),
        (
            Manner::Slow(Duration::from_secs(30)),
            34,
            "no answer within 0.8 s",
        ),
        (Manner::Malformed, 32, ""),
        (Manner::Partial, 32, "AccessKeySecret is missing or empty"),
        (Manner::Huge, 32, ""),
        (Manner::Expired, 32, "they expired at 20"),
        // The life of a key counts, not what the clocks say.
        (Manner::Clock(7200), 0, ""),
        (Manner::Clock(-7200), 0, ""),
        (Manner::Refuses(403, "NoPermission"), 32, "status 403"),
        (Manner::Refuses(503, "ServiceUnavailable"), 34, "status 503"),
        (Manner::Redirects, 32, "status 302"),
    ] {
        for (name, prepare) in sources {
            place.cloud.state().manner = manner;
            let mut command = place.listing();
            prepare(command.args(["--timeout", "1"]));
            let began = Instant::now();
            let (code, text) = said(&mut command);
            assert_eq!(code, Some(expected), "{name}, {manner:?}: {text}");
            assert!(
                began.elapsed() < Duration::from_secs(15),
                "{name}, {manner:?}"
            );
            assert!(text.contains(words), "{name}, {manner:?}: {text}");
            if expected != 0 {
                let line = "ossvault: there is no access key for oss://bucket: credentials from";
                assert!(text.contains(line), "{name}, {manner:?}: {text}");
            }
        }
    }
    place.cloud.state().manner = Manner::Refuses(403, "NoPermission");
    let mut command = place.listing();
    role(&mut command);
    let (_, text) = said(&mut command);
    let expected = "(NoPermission), request A1-R; the role must trust who assumes it";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_program_is_asked_in_vain_for_no_longer_than_the_timeout() {
    let place = Place::new();
    for (script, expected, words) in [
        (
            "echo 'open the browser' >&2; echo s3cretMarker0451; sleep 60",
            34,
            "did not end within 0.8 s and was killed; it says on stderr: open the browser",
        ),
        (
            "echo s3cretMarker0451; echo 'no session' >&2; exit 7",
            32,
            "exit status: 7; it says on stderr: no session",
        ),
        (
            "echo s3cretMarker0451",
            32,
            "its output: line 1, column 1: this is not JSON",
        ),
        (
            "echo '{\"AccessKeyId\":\"s3cretMarker0451\"}'",
            32,
            "its output: AccessKeySecret is missing",
        ),
        (
            "yes s3cretMarker0451 | head -c 100000",
            32,
            "larger than 64 KiB",
        ),
        ("exec <&- >&- 2>&-; sleep 60", 34, "says nothing on stderr"),
    ] {
        let program = place.program("give", script);
        let mut command = place.listing();
        command
            .args(["--timeout", "1", "--credential-command"])
            .arg(program);
        let began = Instant::now();
        let (code, text) = said(&mut command);
        assert_eq!(code, Some(expected), "{script}: {text}");
        assert!(text.contains(words), "{script}: {text}");
        assert!(began.elapsed() < Duration::from_secs(15), "{script}");
    }
}

#[test]
fn a_file_that_is_wrong_is_described_and_not_shown() {
    let place = Place::new();
    let expired = r#"{"AccessKeyId":"s3cret0451","AccessKeySecret":"s3cret0451","Expiration":"2020-01-01T00:00:00Z"}"#;
    for (content, words) in [
        ("", "no key for this bucket"),
        (
            "s3cretMarker0451",
            "line 1: neither ID:SECRET nor BUCKET:ID:SECRET",
        ),
        (
            "{\"AccessKeyId\": s3cretMarker0451}",
            "line 1, column 17: this is not JSON",
        ),
        (
            "{\"AccessKeyId\": \"s3cretMarker0451\"}",
            "AccessKeySecret is missing",
        ),
        (expired, "expired at 2020-01-01T00:00:00Z"),
        (
            "[Credentials]\naccessKeyID=s3cretMarker0451\n",
            "accessKeySecret is missing",
        ),
        (
            &*aliyun("CloudSSO", "\"x\":1"),
            "the mode CloudSSO is not supported",
        ),
        (
            &*aliyun("AK", "\"access_key_id\":\"s3cret0451\""),
            "access_key_secret is missing",
        ),
        (&*"[".repeat(60_000), "section has no end"),
        (&*"{\"a\":".repeat(10_000), "line 1, column"),
        (&*"s3cretMarker0451:".repeat(10_000), "larger than 64 KiB"),
    ] {
        let file = place.private("credentials", content);
        let mut command = place.listing();
        let (code, text) = said(command.arg("--credential-file").arg(&file));
        let start = &content[..content.len().min(60)];
        assert_eq!(code, Some(32), "{start}: {text}");
        assert!(text.contains(words), "{start}: {text}");
        assert!(text.contains(&*file.to_string_lossy()), "{text}");
    }
}

/// With nothing that ever worked, waiting would only hide what is wrong.
#[test]
fn a_key_that_was_never_accepted_is_not_waited_for() {
    let place = Place::new();
    let fresh = format!(
        r#"echo "{{\"AccessKeyId\":\"{ID}\",\"AccessKeySecret\":\"{SECRET}\",\"SecurityToken\":\"t$(date +%N)\"}}""#
    );
    let old = place.private("credentials", place.key());
    place.cloud.state().end_tokens();
    let program = place.program("give", &fresh);
    for (option, path, most) in [
        ("--credential-file", old, 1),
        ("--credential-command", program, 4),
    ] {
        place.cloud.state().refused.clear();
        let mut command = place.listing();
        let began = Instant::now();
        let (code, text) = said(command.arg(option).arg(path));
        assert_eq!(code, Some(32), "{option}: {text}");
        assert!(text.contains("SecurityTokenExpired"), "{option}: {text}");
        assert!(
            text.contains("the temporary credentials have expired"),
            "{option}: {text}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{option}");
        let refused: u64 = place.cloud.state().refused.values().sum();
        assert_eq!(refused, most, "{option}");
    }
}

/// Plain http is for this machine and the metadata service.
#[test]
fn keys_do_not_travel_in_the_clear() {
    let place = Place::new();
    let config = aliyun(
        "CredentialsURI",
        r#""credentials_uri":"http://192.0.2.1/s3cret0451""#,
    );
    let file = place.private("credentials", config);
    let mut command = place.listing();
    let began = Instant::now();
    let (code, text) = said(command.arg("--credential-file").arg(&file));
    assert_eq!(code, Some(32), "{text}");
    assert!(text.contains("plain http"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn doctor_says_what_is_wrong_with_the_credentials() {
    let place = Place::new();
    let program = place.program("give", "echo 'log in first' >&2; exit 1");
    let mut command = place.command(&["doctor", "oss://bucket", "--quick"]);
    command.arg("--credential-command").arg(&program);
    let (code, text) = said(&mut command);
    assert_eq!(code, Some(45), "{text}");
    let line = text.lines().find(|line| line.contains(" credentials "));
    let line = line.unwrap_or_default();
    assert!(
        line.starts_with("FAILED") && line.contains("log in first"),
        "{text}"
    );
    assert!(text.contains("docs/credentials.md"), "{text}");
}
