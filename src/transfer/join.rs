//! Brings the two sides of a transfer together, each in the byte order of its keys. Pure.
//!
//! A directory sorts as its name followed by `/`, and so do listings of a bucket. A file `a` and a directory `a/` of the
//! same name are therefore not beside each other: `a-b` and `a.txt` come between them. A file is held until the order has
//! passed the place where a directory of its name would be, so that whoever decides about a name knows everything about
//! it. What is held at one time are names that begin with each other: no more than the longest key has bytes.

/// What one side has under a name. A mount shows the directory where there are both.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Side<T> {
    pub file: Option<T>,
    pub directory: Option<T>,
}

impl<T> Default for Side<T> {
    fn default() -> Side<T> {
        Side {
            file: None,
            directory: None,
        }
    }
}

impl<T> Side<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none() && self.directory.is_none()
    }

    fn add(&mut self, is_directory: bool, entry: T) {
        match is_directory {
            true => self.directory = Some(entry),
            false => self.file = Some(entry),
        }
    }
}

/// What both sides have under a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pair<T> {
    /// Without a slash at its end.
    pub path: String,
    pub from: Side<T>,
    pub to: Side<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    From,
    To,
}

#[derive(Debug)]
pub(crate) struct Join<T> {
    held: Vec<Pair<T>>,
}

impl<T> Default for Join<T> {
    fn default() -> Join<T> {
        Join { held: Vec::new() }
    }
}

/// Where a path is in the order.
pub(crate) fn sort_key(path: &str, is_directory: bool) -> String {
    match is_directory {
        true => format!("{path}/"),
        false => path.to_owned(),
    }
}

impl<T> Join<T> {
    /// Adds the next entry of either side, the smaller one first. What is complete is appended to `ready`.
    pub(crate) fn add(
        &mut self,
        of: Of,
        path: &str,
        is_directory: bool,
        entry: T,
        ready: &mut Vec<Pair<T>>,
    ) {
        let place = sort_key(path, is_directory);
        while let Some(pair) = self.held.pop_if(|pair| !may_complete(&pair.path, &place)) {
            ready.push(pair);
        }
        if self.held.last().is_none_or(|pair| pair.path != path) {
            self.held.push(Pair {
                path: path.to_owned(),
                from: Side::default(),
                to: Side::default(),
            });
        }
        if let Some(pair) = self.held.last_mut() {
            let side = match of {
                Of::From => &mut pair.from,
                Of::To => &mut pair.to,
            };
            side.add(is_directory, entry);
        }
    }

    /// At the end of both sides.
    pub(crate) fn finish(&mut self, ready: &mut Vec<Pair<T>>) {
        while let Some(pair) = self.held.pop() {
            ready.push(pair);
        }
    }
}

/// Whether an entry of this name may be at `place`, or behind it in the order.
fn may_complete(path: &str, place: &str) -> bool {
    match place.strip_prefix(path) {
        None => false,
        Some("" | "/") => true,
        Some(rest) => rest.as_bytes()[0] < b'/',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs both sides through the join, as the engine does.
    fn joined(from: &[&str], to: &[&str]) -> Vec<String> {
        let mut join = Join::default();
        let mut ready = Vec::new();
        let (mut from, mut to) = (from.iter().peekable(), to.iter().peekable());
        loop {
            let of = match (from.peek(), to.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a <= b => Of::From,
                (Some(_), None) => Of::From,
                _ => Of::To,
            };
            let place = match of {
                Of::From => from.next(),
                Of::To => to.next(),
            };
            let place = place.unwrap();
            let path = place.trim_end_matches('/');
            join.add(of, path, place.ends_with('/'), (), &mut ready);
        }
        join.finish(&mut ready);
        let side = |side: &Side<()>| match (&side.file, &side.directory) {
            (None, None) => "-",
            (Some(()), None) => "f",
            (None, Some(())) => "d",
            (Some(()), Some(())) => "fd",
        };
        ready
            .iter()
            .map(|pair| format!("{} {} {}", pair.path, side(&pair.from), side(&pair.to)))
            .collect()
    }

    #[test]
    fn everything_of_a_name_comes_together() {
        for (from, to, expected) in [
            (
                &["a", "b"][..],
                &["b", "c"][..],
                &["a f -", "b f f", "c - f"][..],
            ),
            (&["a"], &["a/", "a/x"], &["a f d", "a/x - f"]),
            (&["a/", "a/x"], &["a"], &["a d f", "a/x f -"]),
            (
                &["a", "a-b", "a.txt"],
                &["a-b", "a/", "a/x"],
                &["a-b f f", "a.txt f -", "a f d", "a/x - f"],
            ),
            (&["a", "a/", "a/x"], &[], &["a fd -", "a/x f -"]),
            (
                &["a-", "a-/", "a-/x", "a/"],
                &["a"],
                &["a- fd -", "a-/x f -", "a d f"],
            ),
            (&[], &[], &[]),
            (
                &["a0", "a1"],
                &["a", "a/", "a0"],
                &["a - fd", "a0 f f", "a1 f -"],
            ),
        ] {
            assert_eq!(joined(from, to), expected, "{from:?} {to:?}");
        }
    }

    /// A directory comes before what is in it.
    #[test]
    fn no_entry_comes_before_its_directory() {
        let pairs = joined(
            &["a", "a-/", "a-/b", "a-/b/", "a-/b/c", "a/", "a/z"],
            &["a-/b-", "a/", "b"],
        );
        let mut seen: Vec<&str> = Vec::new();
        for pair in &pairs {
            let path = pair.split(' ').next().unwrap();
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(seen.contains(&parent), "{path} in {pairs:?}");
            }
            seen.push(path);
        }
    }
}
