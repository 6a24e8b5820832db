//! What every source of credentials can do.

use std::sync::Arc;

use async_trait::async_trait;

use super::access_key::AccessKey;
use super::error::Error;

#[async_trait]
pub trait Source: Send + Sync {
    /// For messages, after "credentials from": `the environment`, `the file /etc/ossvault/key`.
    fn name(&self) -> String;

    /// The key that it gives now. It ends within the source's own deadline.
    ///
    /// # Errors
    /// There is no key, or it has expired.
    async fn fetch(&self) -> Result<Arc<AccessKey>, Error>;

    /// Whether it can ever give another key.
    fn renews(&self) -> bool {
        true
    }

    /// Whether [`Source::changed`] has to be asked from time to time.
    fn is_watched(&self) -> bool {
        false
    }

    /// Whether it has probably been given another key since the last [`Source::fetch`]. Cheap, and asked every few
    /// seconds.
    async fn changed(&self) -> bool {
        false
    }
}
