//! The configuration of ossutil, an INI file: the section `[Credentials]` of version 1, or the profiles of version 2.
//!
//! Versions and manuals spell the names in several ways, which differ in case and in `-` and `_` alone.

use std::collections::BTreeMap;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::super::access_key::{AccessKey, Names};
use super::super::arn;
use super::super::error::Fault;
use super::super::recipe::{Recipe, unknown_mode};
use super::super::sts::{self, Role};

const NAMES: Names = Names {
    id: "accessKeyID",
    secret: "accessKeySecret",
    token: "stsToken",
};

type Section = BTreeMap<String, Zeroizing<String>>;

/// # Errors
/// The file is not INI, there is no such section, or a value is missing or not of its form. None is shown.
pub(super) fn recipe(text: &str, profile: Option<&str>, now: SystemTime) -> Result<Recipe, Fault> {
    let sections = sections(text)?;
    let section = match profile {
        Some(profile) => sections
            .get(&format!("profile {profile}"))
            .or_else(|| sections.get(profile))
            .ok_or_else(|| Fault::unusable("it has no such profile"))?,
        None => ["credentials", "default"]
            .iter()
            .find_map(|name| sections.get(*name))
            .ok_or_else(|| {
                Fault::unusable("it has neither the section [Credentials] nor [default]")
            })?,
    };
    of_section(section, now)
}

fn of_section(section: &Section, now: SystemTime) -> Result<Recipe, Fault> {
    let value = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| section.get(*name));
        values.find(|value| !value.is_empty()).cloned()
    };
    let text = |names: &[&str]| value(names).map(|value| value.to_string());
    let key = |token: bool| {
        let values = [
            value(&["accesskeyid", "accessid"]),
            value(&["accesskeysecret"]),
            token
                .then(|| value(&["ststoken", "securitytoken"]))
                .flatten(),
        ];
        AccessKey::checked(NAMES, values, None, now)
    };
    let mode = text(&["mode"]);
    Ok(
        match mode.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("ststoken") => Recipe::Key(key(true)?),
            Some("ak") => Recipe::Key(key(false)?),
            Some("ecsramrole") => Recipe::Instance(text(&["ecsrolename", "ramrolename"])),
            Some("ramrolearn") => {
                let role = text(&["ramrolearn", "rolearn"]).filter(|role| arn::is_role(role));
                let session = text(&["rolesessionname"]).unwrap_or_else(|| sts::SESSION.to_owned());
                if !arn::is_session(&session) {
                    return Err(Fault::unusable(
                        "roleSessionName is not the name of a session",
                    ));
                }
                let life = text(&["tokentimeout"]).and_then(|life| life.parse().ok());
                Recipe::Role {
                    base: Box::new(Recipe::Key(key(true)?)),
                    role: Role {
                        arn: role.ok_or_else(|| {
                            Fault::unusable("ramRoleArn is not the ARN of a role")
                        })?,
                        session,
                        life: life.unwrap_or(sts::LIFE),
                        policy: None,
                        external_id: text(&["externalid"]),
                    },
                    region: text(&["stsregion"]),
                    vpc: false,
                }
            }
            Some(_) => {
                let known = "AK, StsToken, RamRoleArn and EcsRamRole";
                return Err(unknown_mode(mode.as_deref().unwrap_or_default(), known));
            }
        },
    )
}

/// By their names in lower case; so are the names in them, of letters and digits alone.
fn sections(text: &str) -> Result<BTreeMap<String, Section>, Fault> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut at: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |what: &str| Fault::unusable(format!("line {}: {what}", number + 1));
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').map(str::trim);
            let name = name.ok_or_else(|| wrong("a section has no end"))?;
            let known = ["credentials", "default"];
            let lower = name.to_ascii_lowercase();
            let name = match known.contains(&&*lower) {
                true => lower,
                false => name.to_owned(),
            };
            // `[Default]` of version 1 has options, beside `[Credentials]`.
            sections.entry(name.clone()).or_default();
            at = Some(name);
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("neither a section nor NAME=VALUE"))?;
        let section = at
            .as_ref()
            .and_then(|at| sections.get_mut(at))
            .ok_or_else(|| wrong("a value before the first section"))?;
        let name = name.chars().filter(char::is_ascii_alphanumeric);
        let name = name.collect::<String>().to_ascii_lowercase();
        section.insert(name, Zeroizing::new(value.trim().to_owned()));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, profile: Option<&str>) -> Result<String, String> {
        let recipe = recipe(text, profile, SystemTime::now()).map_err(|fault| fault.why)?;
        let shown = |key: &AccessKey| {
            assert_eq!(key.secret(), "hunter2");
            format!("{} {}", key.id(), key.token().unwrap_or("-"))
        };
        Ok(match recipe {
            Recipe::Key(key) => shown(&key),
            Recipe::Instance(role) => format!("instance {}", role.unwrap_or_default()),
            Recipe::Role {
                base, role, region, ..
            } => match *base {
                Recipe::Key(key) => format!(
                    "{} {} {} {} by {}",
                    role.arn,
                    role.session,
                    role.life,
                    region.unwrap_or_default(),
                    shown(&key)
                ),
                _ => panic!("{text}"),
            },
            _ => panic!("{text}"),
        })
    }

    #[test]
    fn both_versions_are_read_in_every_spelling() {
        let keys = "accessKeyID=id\naccessKeySecret = hunter2\n";
        let key = |rest: &str| format!("[Credentials]\n{keys}{rest}");
        for (text, profile, expected) in [
            (key("language=EN\nendpoint=oss-cn-hangzhou.aliyuncs.com\n"), None, Ok("id -")),
            (key("stsToken=tok\n"), None, Ok("id tok")),
            (key("stsToken=\n"), None, Ok("id -")),
            (key("mode=AK\nstsToken=tok\n"), None, Ok("id -")),
            (key("mode = StsToken\nstsToken=tok\n"), None, Ok("id tok")),
            (key("mode=EcsRamRole\necsRoleName=web\n"), None, Ok("instance web")),
            (
                key("mode=RamRoleArn\nramRoleArn=acs:ram::1:role/r\nstsRegion=cn-x\ntokenTimeout=900\n"),
                None,
                Ok("acs:ram::1:role/r ossvault 900 cn-x by id -"),
            ),
            (
                "; c\n[Default]\nloglevel=info\n\n[Credentials]\r\naccess_key_id=id\r\naccess-key-secret=hunter2\r\n"
                    .to_owned(),
                None,
                Ok("id -"),
            ),
            (format!("[default]\n{keys}region=cn-x\n[profile dev]\naccessKeyId=dev\naccessKeySecret=hunter2"), None, Ok("id -")),
            (format!("[default]\n{keys}[profile dev]\naccessKeyId=dev\naccessKeySecret=hunter2"), Some("dev"), Ok("dev -")),
            (format!("[dev]\n{keys}"), Some("dev"), Ok("id -")),
            (format!("[dev]\n{keys}"), Some("prod"), Err("no such profile")),
            (format!("[dev]\n{keys}"), None, Err("neither the section")),
            (key("mode=Process\n"), None, Err("the mode Process is not supported")),
            (key("mode=hunter2 x\n"), None, Err("its mode is not supported")),
            (key("mode=RamRoleArn\nramRoleArn=hunter2\n"), None, Err("ramRoleArn is not")),
            (key("hunter2\n"), None, Err("line 4: neither a section")),
            ("hunter2=1\n[Credentials]".to_owned(), None, Err("line 1: a value before")),
            ("[hunter2\n".to_owned(), None, Err("line 1: a section has no end")),
            ("[Credentials]\naccessKeyID=hunter2\n".to_owned(), None, Err("accessKeySecret is missing")),
        ] {
            match (found(&text, profile), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(expected)) => {
                    assert!(why.contains(expected), "{text}: {why}");
                    assert!(!why.contains("hunter2"), "{why}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
