//! The keys of a role, assumed with the key of another source.

use std::sync::Arc;

use async_trait::async_trait;

use super::access_key::AccessKey;
use super::error::Error;
use super::network::Network;
use super::source::Source;
use super::sts::{self, Role};

pub struct AssumedRole {
    base: Box<dyn Source>,
    role: Role,
    network: Network,
    /// Where the role's configuration names them.
    region: Option<String>,
    vpc: bool,
}

impl AssumedRole {
    pub fn new(base: Box<dyn Source>, role: Role, network: Network) -> AssumedRole {
        AssumedRole {
            base,
            role,
            network,
            region: None,
            vpc: false,
        }
    }

    /// With STS of this region.
    pub(super) fn at(self, region: Option<String>, vpc: bool) -> AssumedRole {
        AssumedRole {
            region,
            vpc,
            ..self
        }
    }
}

#[async_trait]
impl Source for AssumedRole {
    fn name(&self) -> String {
        format!(
            "the role {}, assumed with {}",
            self.role.arn,
            self.base.name()
        )
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let key = self.base.fetch().await?;
        let endpoint = self.network.sts(self.region.as_deref(), self.vpc);
        let endpoint = endpoint.map_err(|fault| fault.of(self.name()))?;
        let patience = self.network.patience();
        let key = sts::assume_role(&endpoint, &self.role, &key, patience).await;
        key.map(Arc::new).map_err(|fault| fault.of(self.name()))
    }

    fn is_watched(&self) -> bool {
        self.base.is_watched()
    }

    async fn changed(&self) -> bool {
        self.base.changed().await
    }
}
