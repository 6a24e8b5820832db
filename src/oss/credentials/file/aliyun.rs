//! The configuration of the `aliyun` command, `~/.aliyun/config.json`: profiles, each with a mode that says where its
//! key comes from.

use std::time::SystemTime;

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::super::access_key::{AccessKey, Names};
use super::super::arn;
use super::super::command::CommandLine;
use super::super::error::Fault;
use super::super::json::{self, Secret};
use super::super::network::Network;
use super::super::oidc::Oidc;
use super::super::recipe::{Recipe, unknown_mode};
use super::super::sts::{self, Role};

const NAMES: Names = Names {
    id: "access_key_id",
    secret: "access_key_secret",
    token: "sts_token",
};

const MODES: &str = "AK, StsToken, RamRoleArn, EcsRamRole, OIDC, CredentialsURI and External";

#[derive(Deserialize)]
struct Config {
    current: Option<String>,
    profiles: Vec<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    name: Option<String>,
    mode: Option<String>,
    access_key_id: Option<Secret>,
    access_key_secret: Option<Secret>,
    sts_token: Option<Secret>,
    ram_role_arn: Option<String>,
    ram_session_name: Option<String>,
    ram_role_name: Option<String>,
    expired_seconds: Option<u64>,
    policy: Option<String>,
    external_id: Option<String>,
    sts_region: Option<String>,
    enable_vpc: Option<bool>,
    oidc_provider_arn: Option<String>,
    oidc_token_file: Option<String>,
    credentials_uri: Option<Secret>,
    process_command: Option<Secret>,
}

/// Whether a JSON file is such a configuration, rather than a key.
pub(super) fn is_config(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shape {
        profiles: Option<IgnoredAny>,
    }
    json::parse::<Shape>(bytes).is_ok_and(|shape| shape.profiles.is_some())
}

/// The profile of this name, or the current one.
///
/// # Errors
/// The file is not of this form, or has no such profile; or the profile's mode is unknown, or lacks a value that it
/// needs. No value is shown.
pub(super) fn recipe(
    bytes: &[u8],
    profile: Option<&str>,
    network: &Network,
    now: SystemTime,
) -> Result<Recipe, Fault> {
    let config: Config = json::parse(bytes)?;
    let current = config.current.as_deref().filter(|name| !name.is_empty());
    let name = profile.or(current).unwrap_or("default");
    let mut profiles = config.profiles.into_iter();
    let found = profiles.find(|candidate| candidate.name.as_deref() == Some(name));
    let found = found.ok_or_else(|| match profile {
        Some(_) => Fault::unusable("it has no such profile"),
        None => Fault::unusable("it has no profile of the name that it says is the current one"),
    })?;
    of_profile(found, network, now)
}

fn of_profile(profile: Profile, network: &Network, now: SystemTime) -> Result<Recipe, Fault> {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let missing = |name: &str| Fault::unusable(format!("{name} is missing or empty"));
    let mode = given(profile.mode);
    let key = |token: Option<Secret>| {
        let values = [profile.access_key_id, profile.access_key_secret, token];
        AccessKey::checked(
            NAMES,
            values.map(|value| value.map(|secret| secret.0)),
            None,
            now,
        )
    };
    let session = given(profile.ram_session_name).unwrap_or_else(|| sts::SESSION.to_owned());
    let role = Role {
        arn: given(profile.ram_role_arn).unwrap_or_default(),
        session,
        life: profile
            .expired_seconds
            .filter(|life| *life > 0)
            .unwrap_or(sts::LIFE),
        policy: given(profile.policy),
        external_id: given(profile.external_id),
    };
    let region = given(profile.sts_region);
    let vpc = profile.enable_vpc.unwrap_or_default();
    Ok(match mode.as_deref() {
        None | Some("AK") => Recipe::Key(key(None)?),
        Some("StsToken") => match profile.sts_token {
            Some(token) if !token.0.is_empty() => Recipe::Key(key(Some(token))?),
            _ => return Err(missing("sts_token")),
        },
        Some("RamRoleArn") => {
            if !arn::is_role(&role.arn) {
                return Err(Fault::unusable("ram_role_arn is not the ARN of a role"));
            }
            if !arn::is_session(&role.session) {
                return Err(Fault::unusable(
                    "ram_session_name is not the name of a session",
                ));
            }
            Recipe::Role {
                base: Box::new(Recipe::Key(key(profile.sts_token)?)),
                role,
                region,
                vpc,
            }
        }
        Some("EcsRamRole") => Recipe::Instance(given(profile.ram_role_name)),
        Some("OIDC") => {
            let oidc = Oidc {
                role,
                provider: given(profile.oidc_provider_arn).unwrap_or_default(),
                token_file: given(profile.oidc_token_file)
                    .ok_or_else(|| missing("oidc_token_file"))?
                    .into(),
                network: network.clone(),
                region,
                vpc,
            };
            oidc.check("ram_role_arn", "oidc_provider_arn")?;
            Recipe::Oidc(oidc)
        }
        Some("CredentialsURI") => Recipe::Uri(text(profile.credentials_uri, "credentials_uri")?),
        Some("External") => {
            let line = text(profile.process_command, "process_command")?;
            Recipe::Program(CommandLine::parse(&line).map_err(|expected| {
                Fault::unusable(format!("process_command: expected {expected}"))
            })?)
        }
        Some(mode) => return Err(unknown_mode(mode, MODES)),
    })
}

fn text(value: Option<Secret>, name: &str) -> Result<Zeroizing<String>, Fault> {
    let value = value
        .map(|value| value.0)
        .filter(|value| !value.trim().is_empty());
    value.ok_or_else(|| Fault::unusable(format!("{name} is missing or empty")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::network::Settings;
    use super::*;

    fn found(profile: &str) -> Result<String, String> {
        let network = Network::new(Settings {
            sts_endpoint: None,
            sts_region: None,
            vpc: false,
            metadata: None,
            timeout: Duration::from_secs(5),
        });
        let config = format!(
            r#"{{"current":"work","profiles":[{{"name":"other","mode":"AK"}},{{"name":"work",{profile}}}],"meta_path":""}}"#
        );
        assert!(is_config(config.as_bytes()));
        let recipe = recipe(config.as_bytes(), None, &network, SystemTime::now());
        Ok(match recipe.map_err(|fault| fault.why)? {
            Recipe::Key(key) => format!("{} {}", key.id(), key.token().unwrap_or("-")),
            Recipe::Role {
                role,
                region,
                vpc,
                base,
            } => {
                assert!(matches!(*base, Recipe::Key(_)));
                let (policy, id) = (
                    role.policy.unwrap_or_default(),
                    role.external_id.unwrap_or_default(),
                );
                format!(
                    "{} {} {} {policy} {id} {region:?} {vpc}",
                    role.arn, role.session, role.life
                )
            }
            Recipe::Instance(role) => format!("instance {role:?}"),
            Recipe::Oidc(oidc) => {
                format!("{} {} {:?}", oidc.role.arn, oidc.provider, oidc.token_file)
            }
            Recipe::Uri(uri) => uri.to_string(),
            Recipe::Program(line) => format!("{line:?}"),
        })
    }

    #[test]
    fn every_mode_is_read_and_nothing_is_shown_of_what_is_wrong() {
        let keys = r#""access_key_id":"id","access_key_secret":"hunter2""#;
        let with = |mode: &str, rest: &str| format!(r#""mode":"{mode}",{keys}{rest}"#);
        let role = r#","ram_role_arn":"acs:ram::1:role/r""#;
        for (profile, expected) in [
            (with("AK", r#","sts_token":"old""#), Ok("id -")),
            (with("StsToken", r#","sts_token":"tok""#), Ok("id tok")),
            (with("StsToken", ""), Err("sts_token is missing")),
            (
                with(
                    "RamRoleArn",
                    &format!(
                        r#"{role},"ram_session_name":"s1","expired_seconds":900,"policy":"p","external_id":"e","sts_region":"cn-x","enable_vpc":true"#
                    ),
                ),
                Ok(r#"acs:ram::1:role/r s1 900 p e Some("cn-x") true"#),
            ),
            (
                with("RamRoleArn", role),
                Ok("acs:ram::1:role/r ossvault 3600   None false"),
            ),
            (
                with("RamRoleArn", r#","ram_role_arn":"hunter2""#),
                Err("ram_role_arn is not"),
            ),
            (
                with(
                    "RamRoleArn",
                    &format!(r#"{role},"ram_session_name":"hunter 2""#),
                ),
                Err("ram_session_name is not"),
            ),
            (
                with("EcsRamRole", r#","ram_role_name":"web""#),
                Ok(r#"instance Some("web")"#),
            ),
            (with("EcsRamRole", ""), Ok("instance None")),
            (
                with(
                    "OIDC",
                    &format!(
                        r#"{role},"oidc_provider_arn":"acs:ram::1:oidc-provider/p","oidc_token_file":"/t""#
                    ),
                ),
                Ok(r#"acs:ram::1:role/r acs:ram::1:oidc-provider/p "/t""#),
            ),
            (with("OIDC", role), Err("oidc_token_file is missing")),
            (
                with("OIDC", &format!(r#"{role},"oidc_token_file":"/hunter2""#)),
                Err("oidc_provider_arn is not"),
            ),
            (
                with(
                    "CredentialsURI",
                    r#","credentials_uri":"http://localhost/x""#,
                ),
                Ok("http://localhost/x"),
            ),
            (
                with("CredentialsURI", ""),
                Err("credentials_uri is missing"),
            ),
            (
                with("External", r#","process_command":"prog 'a b'""#),
                Ok("CommandLine(2 words)"),
            ),
            (
                with("External", r#","process_command":"prog 'hunter2""#),
                Err("process_command: expected"),
            ),
            (
                with("CloudSSO", ""),
                Err("the mode CloudSSO is not supported"),
            ),
            (with("hunter2 !", ""), Err("its mode is not supported")),
            (
                r#""mode":"AK","access_key_id":"hunter2""#.to_owned(),
                Err("access_key_secret is missing"),
            ),
            (r#""mode":7"#.to_owned(), Err("line 1, column")),
        ] {
            match (found(&profile), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{profile}"),
                (Err(why), Err(expected)) => {
                    assert!(why.contains(expected), "{profile}: {why}");
                    assert!(!why.contains("hunter"), "{why}");
                }
                (found, _) => panic!("{profile}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_profile_that_is_not_there_is_said_to_be_missing() {
        let network = Network::new(Settings {
            sts_endpoint: None,
            sts_region: None,
            vpc: false,
            metadata: None,
            timeout: Duration::from_secs(5),
        });
        for (config, profile, expected) in [
            (
                r#"{"current":"hunter2","profiles":[]}"#,
                None,
                "says is the current one",
            ),
            (
                r#"{"profiles":[{"name":"a"}]}"#,
                Some("hunter2"),
                "no such profile",
            ),
            (r#"{"profiles":{"hunter2":1}}"#, None, "line 1, column"),
        ] {
            let recipe = recipe(config.as_bytes(), profile, &network, SystemTime::now());
            let why = recipe.err().unwrap().why;
            assert!(why.contains(expected), "{why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(!is_config(br#"{"AccessKeyId":"a"}"#));
    }
}
