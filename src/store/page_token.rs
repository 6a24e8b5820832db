//! Where a listing goes on, from one page to the next.

/// Made by [`listing`](super::listing) for a page that it has checked, which compares the next page with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The store's own.
    pub(super) token: String,
    /// The greatest name so far, as bytes: names that are no UTF-8 have their place in the order too.
    pub(super) last: Vec<u8>,
    /// Pages in a row that brought nothing.
    pub(super) barren: u32,
}

impl PageToken {
    pub fn as_str(&self) -> &str {
        &self.token
    }
}
