//! The keys of a role, for a workload whose platform vouches for it: pods in Kubernetes.
//!
//! The platform replaces the token in the file well before it expires, so that the file is read for each fetch. It is
//! not subject to the rules of files with keys: the platform sets its mode, and other users of a pod's file system are
//! the pod itself.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::access_key::AccessKey;
use super::arn;
use super::error::{Error, Fault};
use super::file::read::{self, Rules};
use super::network::Network;
use super::source::Source;
use super::sts::{self, Role};

pub struct Oidc {
    pub(super) role: Role,
    pub(super) provider: String,
    pub(super) token_file: PathBuf,
    pub(super) network: Network,
    pub(super) region: Option<String>,
    pub(super) vpc: bool,
}

/// The variables that Kubernetes sets for a pod whose service account may assume a role. None unless all are set.
///
/// # Errors
/// One of them is not of its form; it is not shown.
pub(super) fn of_variables(
    variable: &dyn Fn(&str) -> Option<String>,
    network: &Network,
) -> Result<Option<Oidc>, Error> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (Some(arn), Some(provider), Some(file)) = (
        variable("ALIBABA_CLOUD_ROLE_ARN"),
        variable("ALIBABA_CLOUD_OIDC_PROVIDER_ARN"),
        variable("ALIBABA_CLOUD_OIDC_TOKEN_FILE"),
    ) else {
        return Ok(None);
    };
    let session = variable("ALIBABA_CLOUD_ROLE_SESSION_NAME");
    let oidc = Oidc {
        role: Role {
            arn,
            session: session.unwrap_or_else(|| sts::SESSION.to_owned()),
            life: sts::LIFE,
            policy: None,
            external_id: None,
        },
        provider,
        token_file: file.into(),
        network: network.clone(),
        region: None,
        vpc: false,
    };
    let checked = oidc.check("ALIBABA_CLOUD_ROLE_ARN", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN");
    checked.map_err(|fault| fault.of("the environment"))?;
    Ok(Some(oidc))
}

impl Oidc {
    /// # Errors
    /// A value is not of its form: by these names.
    pub(super) fn check(&self, role: &str, provider: &str) -> Result<(), Fault> {
        if !arn::is_role(&self.role.arn) {
            let form = "is not the ARN of a role, like acs:ram::1234567890123456:role/NAME";
            return Err(Fault::unusable(format!("{role} {form}")));
        }
        if !arn::is_oidc_provider(&self.provider) {
            let form = "is not the ARN of an identity provider, like \
                        acs:ram::1234567890123456:oidc-provider/NAME";
            return Err(Fault::unusable(format!("{provider} {form}")));
        }
        match arn::is_session(&self.role.session) {
            true => Ok(()),
            false => Err(Fault::unusable(
                "the name of the session has other characters than letters, digits and .@_-, or more than 64",
            )),
        }
    }

    async fn key(&self) -> Result<AccessKey, Fault> {
        let content = read::content(self.token_file.clone(), Rules::Open).await;
        let content = content.map_err(|fault| Fault {
            why: format!("the token file: {}", fault.why),
            ..fault
        })?;
        let token = std::str::from_utf8(&content.bytes).map(str::trim);
        let token = token.unwrap_or_default();
        // Three parts in the alphabet of base64url, with points between them.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=".contains(&byte);
        if token.is_empty() || !token.bytes().all(plain) {
            return Err(Fault::unusable("the token file holds no token"));
        }
        let token = Zeroizing::new(token.to_owned());
        let endpoint = self.network.sts(self.region.as_deref(), self.vpc)?;
        let patience = self.network.patience();
        sts::assume_role_with_oidc(&endpoint, &self.role, &self.provider, &token, patience).await
    }
}

#[async_trait]
impl Source for Oidc {
    fn name(&self) -> String {
        format!("the role {}, assumed with an identity token", self.role.arn)
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let key = self.key().await;
        key.map(Arc::new).map_err(|fault| fault.of(self.name()))
    }
}
