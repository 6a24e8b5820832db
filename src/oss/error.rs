//! What can go wrong between the client and the service.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Misconfigured(String),
}
