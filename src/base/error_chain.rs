//! An error and what caused it: in one line, and found again under whatever lies over it.

use std::error::Error;
use std::sync::Arc;

/// The cause of an error, kept for the log; shared, because one answer may end several waiting calls.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The first of an error and its causes of type `E` of which `pick` makes something. Shared and boxed causes
/// are looked into: as links of a chain they have a type of their own.
pub fn find_cause<'a, E: Error + 'static, T>(
    error: &'a (dyn Error + 'static),
    pick: &impl Fn(&'a E) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<Cause>() {
            return find_cause(&**cause, pick);
        }
        let found = error.downcast_ref::<E>();
        let found = found.or_else(|| error.downcast_ref::<Box<E>>().map(|boxed| &**boxed));
        if let Some(found) = found.and_then(pick) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error and its causes, `a: b: c`. A cause that the text has already is left out: some say theirs themselves.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
