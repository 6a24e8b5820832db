//! Reading a directory that is too large to be remembered: two of its pages at a time.
//!
//! An offset is the index of a name, as in any open directory. Where each page began is kept, so that a program that
//! goes back finds the page again; of very many pages, only some places are kept, and those between are counted
//! off anew. Pure: it says which page is wanted, and is given it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::scan::EntryKind;
use crate::fs::resolver::directory_scan::Page;

/// Pages kept: the kernel goes back by less than one.
const PAGES: usize = 2;
/// Places kept.
const PLACES: usize = 4096;

pub struct PageWindow<T> {
    /// In order, without a gap.
    pages: VecDeque<Kept<T>>,
    /// Where pages begin: the index of their first name, and what leads to them.
    places: Vec<(u64, Option<T>)>,
    /// How many names there are in all, once the last page has come.
    end: Option<u64>,
}

struct Kept<T> {
    first: u64,
    page: Page<T>,
}

impl<T> Kept<T> {
    fn end(&self) -> u64 {
        self.first + self.page.names.len() as u64
    }
}

/// What is known of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seek<T> {
    /// The name, and when its page was requested.
    Entry(Name, EntryKind, Instant),
    End,
    /// This page must be read, whose first name has that index.
    Wanted(u64, Option<T>),
}

impl<T: Clone> PageWindow<T> {
    /// `first`: the index of the first name of the first page, which is at `rest`.
    pub fn new(first: u64, rest: Option<T>) -> PageWindow<T> {
        PageWindow {
            pages: VecDeque::new(),
            places: vec![(first, rest)],
            end: None,
        }
    }

    pub fn seek(&self, index: u64) -> Seek<T> {
        if self.end.is_some_and(|end| index >= end) {
            return Seek::End;
        }
        for kept in &self.pages {
            if (kept.first..kept.end()).contains(&index) {
                let (name, kind) = &kept.page.names[(index - kept.first) as usize];
                return Seek::Entry(name.clone(), *kind, kept.page.sent);
            }
        }
        // From the last place before it, or from what is kept onward where that is nearer.
        let before = self.places.partition_point(|(first, _)| *first <= index);
        let (first, rest) = &self.places[before.saturating_sub(1)];
        if let Some(last) = self.pages.back()
            && (*first..=index).contains(&last.end())
            && let Some(next) = &last.page.next
        {
            return Seek::Wanted(last.end(), Some(next.clone()));
        }
        Seek::Wanted(*first, rest.clone())
    }

    /// The page that [`PageWindow::seek`] wanted.
    pub fn put(&mut self, first: u64, page: Page<T>) {
        if self.pages.back().is_none_or(|last| last.end() != first) {
            self.pages.clear();
        }
        let kept = Kept { first, page };
        match &kept.page.next {
            None => self.end = Some(kept.end()),
            Some(next) => {
                let last = self.places.last().map_or(0, |(last, _)| *last);
                if kept.end() > last {
                    self.places.push((kept.end(), Some(next.clone())));
                }
            }
        }
        if self.places.len() > PLACES {
            let mut index = 0;
            self.places.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.pages.push_back(kept);
        if self.pages.len() > PAGES {
            self.pages.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `count` names, the page that begins at this token.
    fn page(count: u64, token: &Option<String>, size: u64) -> Page<String> {
        let first: u64 = token.as_deref().map_or(0, |token| token.parse().unwrap());
        let end = (first + size).min(count);
        let names = (first..end).map(|name| (Name::from(name.to_string()), EntryKind::Directory));
        Page {
            names: names.collect(),
            sent: Instant::now(),
            next: (end < count).then(|| end.to_string()),
        }
    }

    /// Returns how many pages had to be read for it.
    fn read(
        window: &mut PageWindow<String>,
        index: u64,
        count: u64,
        size: u64,
    ) -> (Option<u64>, usize) {
        for reads in 0.. {
            match window.seek(index) {
                Seek::Entry(name, ..) => return (Some(name.parse().unwrap()), reads),
                Seek::End => return (None, reads),
                Seek::Wanted(first, rest) => window.put(first, page(count, &rest, size)),
            }
        }
        unreachable!()
    }

    #[test]
    fn every_index_is_its_name_in_whatever_order_they_are_read() {
        let mut window = PageWindow::new(0, None);
        let mut reads = 0;
        for index in 0..1050 {
            let (name, read) = read(&mut window, index, 1050, 100);
            assert_eq!(name, Some(index));
            reads += read;
        }
        assert_eq!(reads, 11, "each page once");
        assert_eq!(read(&mut window, 1050, 1050, 100), (None, 0));
        assert_eq!(window.end, Some(1050));
        for (index, most) in [
            (1049, 0),
            (990, 0),
            (5, 1),
            (105, 1),
            (500, 1),
            (5, 1),
            (1049, 1),
        ] {
            let (name, read) = read(&mut window, index, 1050, 100);
            assert_eq!(name, Some(index));
            assert!(read <= most, "{index}: {read}");
        }
        assert!(window.pages.len() <= PAGES);
    }

    #[test]
    fn what_is_kept_of_endless_pages_is_bounded() {
        let mut window = PageWindow::new(0, None);
        for index in 0..3 * PLACES as u64 {
            assert_eq!(read(&mut window, index, u64::MAX, 1).0, Some(index));
        }
        assert!(window.places.len() <= PLACES);
        for index in [0, 1, 2 * PLACES as u64 + 1] {
            let (name, read) = read(&mut window, index, u64::MAX, 1);
            assert!(name == Some(index) && read <= 8, "{index}: {read}");
        }
    }

    #[test]
    fn a_page_without_names_leads_to_the_next() {
        let mut window = PageWindow::new(7, Some("hidden".into()));
        let empty = |next: Option<&str>| Page::<String> {
            names: Vec::new(),
            sent: Instant::now(),
            next: next.map(str::to_owned),
        };
        assert_eq!(window.seek(7), Seek::Wanted(7, Some("hidden".into())));
        window.put(7, empty(Some("more")));
        assert_eq!(window.seek(7), Seek::Wanted(7, Some("more".into())));
        window.put(7, empty(None));
        assert_eq!(window.seek(7), Seek::End);
    }
}
