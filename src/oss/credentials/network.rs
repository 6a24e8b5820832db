//! Where services that give keys are, and how long they may take.

use std::sync::Arc;
use std::time::Duration;

use super::arn;
use super::error::Fault;

/// The address of the metadata service, the same on every instance.
const METADATA: &str = "http://100.100.100.200";
/// The longest wait for a source, whatever the timeout of requests is: they wait for it.
const LONGEST: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Settings>);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Of STS, in place of the public one's: a host name, or a URL.
    pub sts_endpoint: Option<String>,
    /// The region of the public STS; none is the central one.
    pub sts_region: Option<String>,
    /// Inside a virtual private cloud, STS has a name of its own.
    pub vpc: bool,
    /// In place of the metadata service's address, for tests.
    pub metadata: Option<String>,
    /// Of requests. A source may take a little less, so that whoever waits for it learns what is wrong with it.
    pub timeout: Duration,
}

impl Network {
    pub fn new(settings: Settings) -> Network {
        Network(Arc::new(settings))
    }

    /// How long one source may take.
    pub(super) fn patience(&self) -> Duration {
        (self.0.timeout / 4 * 3).min(LONGEST)
    }

    pub(super) fn metadata(&self) -> &str {
        let given = self.0.metadata.as_deref();
        given.unwrap_or(METADATA).trim_end_matches('/')
    }

    /// The URL of STS, for a source that names its region or for all others.
    ///
    /// # Errors
    /// The region is none.
    pub(super) fn sts(&self, region: Option<&str>, vpc: bool) -> Result<String, Fault> {
        if let Some(endpoint) = &self.0.sts_endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            return Ok(match endpoint.contains("://") {
                true => endpoint.to_owned(),
                false => format!("https://{endpoint}"),
            });
        }
        let region = region.or(self.0.sts_region.as_deref());
        let service = match vpc || self.0.vpc {
            true => "sts-vpc",
            false => "sts",
        };
        match region.filter(|region| !region.is_empty()) {
            None => Ok("https://sts.aliyuncs.com".to_owned()),
            Some(region) if arn::is_name(region) => {
                Ok(format!("https://{service}.{region}.aliyuncs.com"))
            }
            Some(_) => Err(Fault::unusable("the region of STS is not a region's name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sts_is_where_it_was_said_to_be() {
        for (given, region, own, vpc, expected) in [
            (None, None, None, false, Some("https://sts.aliyuncs.com")),
            (
                None,
                Some("cn-beijing"),
                None,
                false,
                Some("https://sts.cn-beijing.aliyuncs.com"),
            ),
            (
                None,
                Some("cn-beijing"),
                Some("lab"),
                true,
                Some("https://sts-vpc.lab.aliyuncs.com"),
            ),
            (None, None, Some("a.evil/"), false, None),
            (
                Some("sts.example.com"),
                None,
                Some("lab"),
                true,
                Some("https://sts.example.com"),
            ),
            (
                Some("http://127.0.0.1:1/"),
                None,
                None,
                false,
                Some("http://127.0.0.1:1"),
            ),
        ] {
            let network = Network::new(Settings {
                sts_endpoint: given.map(str::to_owned),
                sts_region: region.map(str::to_owned),
                vpc,
                metadata: None,
                timeout: Duration::from_secs(5),
            });
            assert_eq!(network.sts(own, false).ok().as_deref(), expected);
        }
    }
}
