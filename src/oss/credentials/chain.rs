//! Chooses where keys come from.
//!
//! What was named on the command line or in a configuration file goes before the environment, and that before the
//! files that the provider's programs leave in well-known places. The choice is made once, by what is there, without
//! trying: a source that is there and does not work is an error, and nothing else is used in its place. The metadata
//! service is only asked if it was named: whatever runs on an instance could be given the instance's rights unasked,
//! and on every other machine a mount would wait for an address that nothing answers at.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::arn;
use super::assume_role::AssumedRole;
use super::command::{CommandLine, Program};
use super::environment::{self, Fixed};
use super::error::{Error, Fault};
use super::file::KeyFile;
use super::file::read::{Rules, Trusted};
use super::metadata::Instance;
use super::network::{Network, Settings};
use super::oidc;
use super::source::Source;
use super::sts::{self, Role};
use super::uri::Uri;

/// A source that needs nothing else to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Environment,
    /// The metadata service: of this role, or of the one that the instance has.
    Ecs(Option<String>),
    Oidc,
    Uri,
}

impl Named {
    /// # Errors
    /// The names that there are.
    pub fn parse(text: &str) -> Result<Named, &'static str> {
        Ok(match text.split_once(':') {
            None if text == "environment" => Named::Environment,
            None if text == "ecs" => Named::Ecs(None),
            None if text == "oidc" => Named::Oidc,
            None if text == "uri" => Named::Uri,
            Some(("ecs", role)) if arn::is_name(role) => Named::Ecs(Some(role.to_owned())),
            _ => return Err("environment, ecs, ecs:ROLE, oidc or uri"),
        })
    }
}

/// A role to assume on top of a source.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleArn(String);

impl RoleArn {
    /// # Errors
    /// The expected form.
    pub fn parse(text: &str) -> Result<RoleArn, &'static str> {
        match arn::is_role(text) {
            true => Ok(RoleArn(text.to_owned())),
            false => Err("the ARN of a role, like acs:ram::1234567890123456:role/NAME"),
        }
    }
}

impl fmt::Debug for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a session.
///
/// # Errors
/// The expected form.
pub fn session(text: &str) -> Result<String, &'static str> {
    match arn::is_session(text) {
        true => Ok(text.to_owned()),
        false => Err("2 to 64 letters, digits and .@_-"),
    }
}

/// The name of a profile.
///
/// # Errors
/// The expected form.
pub fn profile(text: &str) -> Result<String, &'static str> {
    match arn::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name of letters, digits and ._-"),
    }
}

/// What was configured.
pub struct Given<'a> {
    /// Absolute.
    pub file: Option<PathBuf>,
    pub command: Option<CommandLine>,
    pub named: Option<Named>,
    pub profile: Option<&'a str>,
    pub role: Option<RoleArn>,
    pub session: Option<&'a str>,
    pub sts_endpoint: Option<&'a str>,
    /// In place of the metadata service's address, for tests.
    pub metadata: Option<&'a str>,
    /// The timeout of requests.
    pub timeout: Duration,
    /// The bucket that keys are for.
    pub bucket: &'a str,
    /// Who may have access to files; none is anybody.
    pub trusted: Option<Trusted>,
    /// A path for messages.
    pub shown: fn(&Path) -> String,
    /// The environment, secrets included.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub exists: &'a dyn Fn(&Path) -> bool,
}

impl Given<'_> {
    fn value(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn says_true(&self, name: &str) -> bool {
        self.value(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn key_file(&self, path: PathBuf, group: bool, network: &Network) -> Box<dyn Source> {
        Box::new(KeyFile {
            shown: (self.shown)(&path),
            path,
            rules: match self.trusted {
                Some(trusted) => Rules::Private { trusted, group },
                None => Rules::Open,
            },
            profile: self.profile.map(str::to_owned),
            bucket: self.bucket.to_owned(),
            network: network.clone(),
            seen: Mutex::new(None),
        })
    }
}

fn none(why: &str) -> Error {
    Fault::unusable(why).of("nowhere")
}

/// The source that counts. Nothing is read from it yet, except from the environment.
///
/// # Errors
/// There is none, or what names it is not of its form.
pub fn choose(given: &Given<'_>) -> Result<Box<dyn Source>, Error> {
    let network = Network::new(Settings {
        sts_endpoint: given.sts_endpoint.map(str::to_owned),
        sts_region: given.value("ALIBABA_CLOUD_STS_REGION"),
        vpc: given.says_true("ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED"),
        metadata: given.metadata.map(str::to_owned),
        timeout: given.timeout,
    });
    let base = match configured(given, &network)? {
        Some(source) => source,
        None => match found(given, &network)? {
            Some(source) => source,
            None => {
                return Err(none(
                    "there are none: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (and OSS_SESSION_TOKEN for \
                 temporary ones), or give --credential-file, --credential-command or --credential-source",
                ));
            }
        },
    };
    Ok(match &given.role {
        None => base,
        Some(RoleArn(arn)) => {
            let role = Role {
                arn: arn.clone(),
                session: given.session.unwrap_or(sts::SESSION).to_owned(),
                life: sts::LIFE,
                policy: None,
                external_id: None,
            };
            Box::new(AssumedRole::new(base, role, network))
        }
    })
}

fn configured(given: &Given<'_>, network: &Network) -> Result<Option<Box<dyn Source>>, Error> {
    if let Some(path) = &given.file {
        return Ok(Some(given.key_file(path.clone(), false, network)));
    }
    if let Some(line) = &given.command {
        let program = Program::new("--credential-command", line.clone(), network.clone());
        return Ok(Some(Box::new(program)));
    }
    let source = match &given.named {
        None => return Ok(None),
        Some(Named::Environment) => environment(given)?,
        Some(Named::Ecs(role)) => Some(instance(given, role.clone(), network)?),
        Some(Named::Oidc) => of_oidc(given, network)?,
        Some(Named::Uri) => of_uri(given, network),
    };
    let missing = match given.named {
        Some(Named::Oidc) => {
            "--credential-source oidc needs ALIBABA_CLOUD_ROLE_ARN, ALIBABA_CLOUD_OIDC_PROVIDER_ARN and \
             ALIBABA_CLOUD_OIDC_TOKEN_FILE"
        }
        Some(Named::Uri) => "--credential-source uri needs ALIBABA_CLOUD_CREDENTIALS_URI",
        _ => "--credential-source environment needs OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET",
    };
    source.map(Some).ok_or_else(|| none(missing))
}

fn environment(given: &Given<'_>) -> Result<Option<Box<dyn Source>>, Error> {
    let key = environment::find(given.variable)?;
    Ok(key.map(|key| Box::new(Fixed::of_environment(key)) as Box<dyn Source>))
}

fn of_oidc(given: &Given<'_>, network: &Network) -> Result<Option<Box<dyn Source>>, Error> {
    let oidc = oidc::of_variables(given.variable, network)?;
    Ok(oidc.map(|oidc| Box::new(oidc) as Box<dyn Source>))
}

fn of_uri(given: &Given<'_>, network: &Network) -> Option<Box<dyn Source>> {
    let uri = given.value("ALIBABA_CLOUD_CREDENTIALS_URI")?;
    Some(Box::new(Uri::new(uri.into(), network.clone())))
}

fn instance(
    given: &Given<'_>,
    role: Option<String>,
    network: &Network,
) -> Result<Box<dyn Source>, Error> {
    if given.says_true("ALIBABA_CLOUD_ECS_METADATA_DISABLED") {
        return Err(none(
            "the metadata service is named, and ALIBABA_CLOUD_ECS_METADATA_DISABLED forbids it",
        ));
    }
    Ok(Box::new(Instance::new(role, network.clone())?))
}

/// The environment, then the files in well-known places.
fn found(given: &Given<'_>, network: &Network) -> Result<Option<Box<dyn Source>>, Error> {
    if given.profile.is_none() {
        if let Some(source) = environment(given)? {
            return Ok(Some(source));
        }
        if let Some(source) = of_oidc(given, network)? {
            return Ok(Some(source));
        }
        if let Some(source) = of_uri(given, network) {
            return Ok(Some(source));
        }
        if let Some(role) = given.value("ALIBABA_CLOUD_ECS_METADATA")
            && !given.says_true("ALIBABA_CLOUD_ECS_METADATA_DISABLED")
        {
            return instance(given, Some(role), network).map(Some);
        }
    }
    let home = given.value("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute());
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    // The files that have profiles come first: one may have been named.
    let mut files = vec![
        (in_home(".aliyun/config.json"), false),
        (in_home(".ossutilconfig"), false),
    ];
    if given.profile.is_none() {
        files.push((in_home(".passwd-ossfs"), false));
        files.push((Some("/etc/passwd-ossfs".into()), true));
    }
    let mut files = files
        .into_iter()
        .filter_map(|(path, group)| Some((path?, group)));
    let file = files.find(|(path, _)| (given.exists)(path));
    Ok(file.map(|(path, group)| given.key_file(path, group, network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of what is chosen from these variables and files.
    fn chosen(
        variables: &[(&str, &str)],
        files: &[&str],
        change: impl Fn(&mut Given<'_>),
    ) -> String {
        let variable = |name: &str| {
            let mut all = variables.iter().chain(&[("HOME", "/home/me")]);
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let exists = |path: &Path| files.iter().any(|file| path == Path::new(file));
        let mut given = Given {
            file: None,
            command: None,
            named: None,
            profile: None,
            role: None,
            session: None,
            sts_endpoint: None,
            metadata: None,
            timeout: Duration::from_secs(5),
            bucket: "bucket",
            trusted: None,
            shown: |path| path.display().to_string(),
            variable: &variable,
            exists: &exists,
        };
        change(&mut given);
        match choose(&given) {
            Ok(source) => source.name(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_was_named_goes_before_the_environment_and_that_before_files() {
        let key = [("OSS_ACCESS_KEY_ID", "i"), ("OSS_ACCESS_KEY_SECRET", "s")];
        let oidc = [
            ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/pod"),
            (
                "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
                "acs:ram::1:oidc-provider/p",
            ),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", "/var/run/token"),
        ];
        let uri = [("ALIBABA_CLOUD_CREDENTIALS_URI", "http://localhost/hunter2")];
        let ecs = [("ALIBABA_CLOUD_ECS_METADATA", "web")];
        let no_ecs = [("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")];
        let all_files = [
            "/home/me/.aliyun/config.json",
            "/home/me/.ossutilconfig",
            "/home/me/.passwd-ossfs",
            "/etc/passwd-ossfs",
        ];
        let all = [&key[..], &oidc, &uri, &ecs].concat();
        let nothing = |_: &mut Given<'_>| {};
        assert_eq!(chosen(&all, &all_files, nothing), "the environment");
        let pod = "the role acs:ram::1:role/pod, assumed with an identity token";
        assert_eq!(chosen(&all[2..], &all_files, nothing), pod);
        assert_eq!(
            chosen(&all[5..], &all_files, nothing),
            "the credentials URI"
        );
        let web = "the metadata service, role web";
        assert_eq!(chosen(&ecs, &all_files, nothing), web);
        // Two of the three variables are a role for something else.
        let first = format!("the file {}", all_files[0]);
        assert_eq!(chosen(&oidc[..2], &all_files, nothing), first);
        assert_eq!(chosen(&[ecs, no_ecs].concat(), &all_files, nothing), first);
        for n in 0..all_files.len() {
            let expected = format!("the file {}", all_files[n]);
            assert_eq!(chosen(&[], &all_files[n..], nothing), expected);
        }
        assert!(chosen(&[], &[], nothing).contains("there are none: set OSS_ACCESS_KEY_ID"));

        let line = CommandLine::parse("prog hunter2").unwrap();
        assert_eq!(
            chosen(&all, &all_files, |given| given.file = Some("/k".into())),
            "the file /k"
        );
        assert_eq!(
            chosen(&all, &all_files, |given| given.command = Some(line.clone())),
            "--credential-command"
        );
        for (name, expected) in [
            ("environment", "the environment"),
            ("ecs", "the metadata service"),
            ("ecs:db", "the metadata service, role db"),
            ("oidc", pod),
            ("uri", "the credentials URI"),
        ] {
            let named = Named::parse(name).unwrap();
            let found = chosen(&all, &all_files, |given| given.named = Some(named.clone()));
            assert_eq!(found, expected);
            let lacking = chosen(&no_ecs, &all_files, |given| {
                given.named = Some(named.clone())
            });
            assert!(lacking.contains("credentials from nowhere"), "{lacking}");
        }
        for name in ["", "ecs:", "ecs:../x", "hunter2", "ECS"] {
            assert!(Named::parse(name).is_err());
        }
        // A profile is of a file that has profiles.
        assert_eq!(
            chosen(&all, &all_files, |given| given.profile = Some("work")),
            first
        );
    }

    #[test]
    fn a_role_goes_on_top_of_any_source() {
        let key = [("OSS_ACCESS_KEY_ID", "i"), ("OSS_ACCESS_KEY_SECRET", "s")];
        let role = RoleArn::parse("acs:ram::1:role/r").unwrap();
        assert_eq!(
            chosen(&key, &[], |given| given.role = Some(role.clone())),
            "the role acs:ram::1:role/r, assumed with the environment"
        );
        assert!(RoleArn::parse("r").is_err());
        assert!(session("a b").is_err() && profile("a/b").is_err());
    }

    #[test]
    fn what_is_not_of_its_form_is_not_shown() {
        for variables in [
            &[("OSS_ACCESS_KEY_ID", "hunter2")][..],
            &[("ALIBABA_CLOUD_ECS_METADATA", "hunter2/..")],
            &[
                ("ALIBABA_CLOUD_ROLE_ARN", "hunter2"),
                (
                    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
                    "acs:ram::1:oidc-provider/p",
                ),
                ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", "/var/run/token"),
            ],
        ] {
            let error = chosen(variables, &[], |_| {});
            assert!(error.starts_with("credentials from"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
