//! The ordered index of a bucket: key to facts and the place of the log line that tells the rest. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::record::{Change, Content, Facts};

/// Where a line is in the log, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub offset: u64,
    pub len: u32,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub facts: Facts,
    pub line: Line,
}

/// Keys as bytes: the bound after a folded prefix need not be UTF-8.
#[derive(Default)]
pub struct Index {
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Bytes of log lines that still tell of an object; the rest of the log is waste.
    live: u64,
}

/// What to list. Everything empty lists from the start.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    pub prefix: &'a str,
    /// Empty folds nothing.
    pub delimiter: &'a str,
    pub from: From,
    pub max: usize,
}

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    #[default]
    Start,
    /// After this key.
    After(String),
    /// After everything that begins with this.
    Behind(String),
}

pub struct Page {
    pub objects: Vec<(String, Facts)>,
    pub prefixes: Vec<String>,
    /// Where the next page begins; none on the last one.
    pub next: Option<From>,
}

impl Index {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key.as_bytes())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.entries.values().map(|entry| entry.line)
    }

    pub fn apply(&mut self, change: Change, line: Line) {
        let before = match change {
            Change::Put {
                key,
                facts,
                content,
            } => {
                // The name of the content is read again with the line: a bucket of many objects
                // should not hold every name twice.
                let _: Content = content;
                self.live += u64::from(line.len) + 1;
                self.entries
                    .insert(key.into_bytes().into(), Entry { facts, line })
            }
            Change::Delete { key } => self.entries.remove(key.as_bytes()),
        };
        if let Some(before) = before {
            self.live -= u64::from(before.line.len) + 1;
        }
    }

    pub fn list(&self, query: &Query<'_>) -> Page {
        let mut page = Page {
            objects: Vec::new(),
            prefixes: Vec::new(),
            next: None,
        };
        let prefix = query.prefix.as_bytes();
        let mut start = match &query.from {
            From::After(key) if key.as_bytes() >= prefix => {
                Bound::Excluded(key.clone().into_bytes())
            }
            From::Behind(lead)
                if !lead.is_empty() && behind(lead.as_bytes()).as_slice() > prefix =>
            {
                Bound::Included(behind(lead.as_bytes()))
            }
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut last = From::Start;
        'folds: loop {
            let from = start.as_ref().map(|key| key.as_slice());
            for (key, entry) in self.entries.range::<[u8], _>((from, Bound::Unbounded)) {
                let Some(rest) = key.strip_prefix(prefix) else {
                    break 'folds;
                };
                if page.objects.len() + page.prefixes.len() == query.max {
                    page.next = Some(last);
                    break 'folds;
                }
                let name = String::from_utf8_lossy(key);
                match find(rest, query.delimiter.as_bytes()) {
                    Some(at) => {
                        let fold = &name[..prefix.len() + at + query.delimiter.len()];
                        page.prefixes.push(fold.to_string());
                        last = From::Behind(fold.to_string());
                        start = Bound::Included(behind(fold.as_bytes()));
                        continue 'folds;
                    }
                    None => {
                        page.objects
                            .push((name.clone().into_owned(), entry.facts.clone()));
                        last = From::After(name.into_owned());
                    }
                }
            }
            break;
        }
        page
    }
}

/// The first byte string that is after all that begin with `lead`, which is UTF-8 and not empty: its last
/// byte is never 0xff.
fn behind(lead: &[u8]) -> Vec<u8> {
    let mut bound = lead.to_vec();
    if let Some(last) = bound.last_mut() {
        *last = last.saturating_add(1);
    }
    bound
}

fn find(text: &[u8], delimiter: &[u8]) -> Option<usize> {
    match delimiter {
        [] => None,
        [byte] => text.iter().position(|b| b == byte),
        _ => text.windows(delimiter.len()).position(|w| w == delimiter),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Tag;
    use super::*;

    fn index(keys: &[&str]) -> Index {
        let mut index = Index::default();
        for key in keys {
            index.apply(
                Change::Put {
                    key: key.to_string(),
                    facts: Facts {
                        modified: 0,
                        size: 0,
                        crc64: 0,
                        tag: Tag {
                            digest: [0; 16],
                            parts: 0,
                        },
                        multipart: false,
                        infrequent: false,
                    },
                    content: Content::Empty,
                },
                Line { offset: 0, len: 9 },
            );
        }
        index
    }

    fn all(index: &Index, prefix: &str, delimiter: &str, from: From, max: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut from = from;
        loop {
            let page = index.list(&Query {
                prefix,
                delimiter,
                from,
                max,
            });
            assert!(page.objects.len() + page.prefixes.len() <= max);
            let mut here: Vec<String> = page.objects.into_iter().map(|o| o.0).collect();
            here.extend(page.prefixes);
            here.sort();
            names.extend(here);
            match page.next {
                Some(next) => from = next,
                None => return names,
            }
        }
    }

    #[test]
    fn pages_of_any_size_give_the_same_listing() {
        let index = index(&[
            "a", "b/", "b/1", "b/2", "b0", "c/x/1", "c/x/2", "c/y", "d", "ü/z",
        ]);
        type Case<'a> = (&'a str, &'a str, From, &'a [&'a str]);
        let cases: &[Case] = &[
            ("", "/", From::Start, &["a", "b/", "b0", "c/", "d", "ü/"]),
            ("b/", "/", From::Start, &["b/", "b/1", "b/2"]),
            ("c/", "/", From::Start, &["c/x/", "c/y"]),
            ("c/", "", From::Start, &["c/x/1", "c/x/2", "c/y"]),
            (
                "",
                "/",
                From::After("b/1".into()),
                &["b/", "b0", "c/", "d", "ü/"],
            ),
            ("", "/", From::Behind("b/".into()), &["b0", "c/", "d", "ü/"]),
            (
                "c/",
                "",
                From::After("a".into()),
                &["c/x/1", "c/x/2", "c/y"],
            ),
            ("c/", "", From::After("x".into()), &[]),
            (
                "",
                "x/",
                From::Start,
                &["a", "b/", "b/1", "b/2", "b0", "c/x/", "c/y", "d", "ü/z"],
            ),
            ("zz", "/", From::Start, &[]),
        ];
        for (prefix, delimiter, from, wanted) in cases {
            for max in [1, 2, 3, 1000] {
                assert_eq!(
                    &all(&index, prefix, delimiter, from.clone(), max),
                    wanted,
                    "{prefix:?} {delimiter:?} {from:?} {max}"
                );
            }
        }
    }

    #[test]
    fn live_bytes_follow_replacement_and_deletion() {
        let mut index = index(&["a", "a", "b"]);
        assert_eq!(index.live_bytes(), 20);
        index.apply(
            Change::Delete { key: "a".into() },
            Line { offset: 0, len: 5 },
        );
        index.apply(
            Change::Delete { key: "x".into() },
            Line { offset: 0, len: 5 },
        );
        assert_eq!(index.live_bytes(), 10);
    }
}
