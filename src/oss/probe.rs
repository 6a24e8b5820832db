//! One request without a signature: whether anything answers at an endpoint, and what its clock says.

use std::time::{Duration, Instant, SystemTime};

use super::client::{Client, transport};
use super::error::Error;
use super::headers::header;
use crate::base::time;

/// Longer than any answer takes over a working link.
const PATIENCE: Duration = Duration::from_secs(15);

/// What answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: u16,
    pub server: Option<String>,
    /// Its clock, in whole seconds, and this machine's at that moment.
    pub clocks: Option<(SystemTime, SystemTime)>,
    pub took: Duration,
}

impl Client {
    /// A HEAD of the bucket, without credentials: the service refuses it, and says what time it is.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Stalled`], [`Error::Misconfigured`] for a certificate that is not accepted.
    pub async fn probe(&self) -> Result<Answered, Error> {
        const OPERATION: &str = "probe";
        let began = Instant::now();
        let url = self.endpoint().url(None, &[])?;
        let request = reqwest::Request::new(reqwest::Method::HEAD, url);
        let limit = PATIENCE.min(self.settings().timeout);
        let answer = tokio::time::timeout(limit, self.http().execute(request)).await;
        let answer = answer
            .map_err(|_| Error::Stalled {
                operation: OPERATION,
                after: limit,
            })?
            .map_err(|error| transport(OPERATION, error))?;
        let now = SystemTime::now();
        let date = header(answer.headers(), "date").and_then(time::parse_http);
        Ok(Answered {
            status: answer.status().as_u16(),
            server: header(answer.headers(), "server").map(str::to_owned),
            clocks: date.map(|theirs| (theirs, now)),
            took: began.elapsed(),
        })
    }

    /// Whether requests go through a proxy that the environment names.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] for a variable that names no proxy.
    pub fn is_proxied(&self) -> Result<bool, Error> {
        let endpoint = self.endpoint();
        let variable = |name: &str| std::env::var(name).ok();
        Ok(!endpoint.is_loopback()
            && super::proxy::from_environment(endpoint.is_https(), variable)?)
    }
}
