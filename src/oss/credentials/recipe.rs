//! What a file says about where its key comes from: the key itself, or another source.

use zeroize::Zeroizing;

use super::access_key::AccessKey;
use super::assume_role::AssumedRole;
use super::command::{CommandLine, Program};
use super::environment::Fixed;
use super::error::{Error, Fault};
use super::metadata::Instance;
use super::network::Network;
use super::oidc::Oidc;
use super::source::Source;
use super::sts::Role;
use super::uri::Uri;

pub(super) enum Recipe {
    Key(AccessKey),
    Role {
        base: Box<Recipe>,
        role: Role,
        region: Option<String>,
        vpc: bool,
    },
    Instance(Option<String>),
    Oidc(Oidc),
    Uri(Zeroizing<String>),
    Program(CommandLine),
}

impl Recipe {
    /// # Errors
    /// A value that is checked before it is used is not of its form.
    pub(super) fn source(self, network: &Network) -> Result<Box<dyn Source>, Error> {
        Ok(match self {
            Recipe::Key(key) => Box::new(Fixed::new("the file", key)),
            Recipe::Role {
                base,
                role,
                region,
                vpc,
            } => {
                let base = base.source(network)?;
                Box::new(AssumedRole::new(base, role, network.clone()).at(region, vpc))
            }
            Recipe::Instance(role) => Box::new(Instance::new(role, network.clone())?),
            Recipe::Oidc(oidc) => Box::new(oidc),
            Recipe::Uri(uri) => Box::new(Uri::new(uri, network.clone())),
            Recipe::Program(line) => Box::new(Program::new("its command", line, network.clone())),
        })
    }
}

/// The error for a mode that there is not here.
pub(super) fn unknown_mode(mode: &str, known: &str) -> Fault {
    let plain = mode.len() <= 32 && mode.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mode = match plain {
        true => format!("the mode {mode}"),
        false => "its mode".to_owned(),
    };
    Fault::unusable(format!("{mode} is not supported: there are {known}"))
}
