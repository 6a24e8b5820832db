//! Listings, checked before any other code sees them.
//!
//! A page is external input: other clients may have stored objects under any bytes, and the server itself may
//! be mistaken or hostile. So, for every store and every caller:
//!
//! - each entry is below the requested prefix, and its name, its size and its ETag are valid. Other entries are
//!   hidden and counted; the rest of the page is used;
//! - entries are in order, after `start_after` and after the previous pages. A page that goes back, a repeated
//!   token, or more than [`MAX_BARREN`] consecutive pages without an entry end the listing with an error: a listing
//!   that is followed token by token ends;
//! - no page has more entries than requested.
//!
//! A [`PageToken`] carries the state of the check from one page to the next.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::error::{Error, Result};
use super::key::ObjectKey;
use super::meta::ETag;
use crate::base::log_limit::LogLimit;

/// The maximum number of consecutive pages that contain nothing but name another page. The service sends some
/// after many deletions.
pub const MAX_BARREN: u32 = 32;

/// The minimum interval between log lines about hidden entries.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold keys that have a `/` after the prefix into [`ListPage::prefixes`].
    pub delimited: bool,
    /// Only keys after this one, in byte order. Ignored when `token` is given.
    pub start_after: Option<String>,
    /// From the previous page's [`ListPage::next`].
    pub token: Option<PageToken>,
    /// 1 to 1000; 0 means 1000.
    pub max_keys: u16,
}

#[derive(Clone, Debug)]
pub struct ListedObject {
    pub key: String,
    /// In bytes.
    pub size: u64,
    pub etag: ETag,
    /// Whole seconds.
    pub last_modified: SystemTime,
    /// `Standard`, `IA`, `Archive`, ...; empty if the store does not say.
    pub storage_class: String,
}

/// One page of a listing, checked by [`check`]. `objects` and `prefixes` are each in byte order, below the
/// requested prefix, and after those of the previous pages.
#[derive(Clone, Debug)]
pub struct ListPage {
    pub objects: Vec<ListedObject>,
    /// With the trailing `/`.
    pub prefixes: Vec<String>,
    /// The token for the next page; none on the last one.
    pub next: Option<PageToken>,
    /// The server's clock in the response, in whole seconds.
    pub date: SystemTime,
    /// Entries that exist but are not shown, because their names or sizes are invalid.
    pub hidden: usize,
}

/// The position at which a listing continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The store's own token.
    token: String,
    /// The greatest name so far, as bytes: names that are not UTF-8 have their place in the order too.
    last: Vec<u8>,
    /// Consecutive pages that contained nothing.
    barren: u32,
}

impl PageToken {
    pub fn as_str(&self) -> &str {
        &self.token
    }
}

/// A page as a store parsed it from a response. Its prefix, its order and its position after the previous
/// page are not checked yet.
#[derive(Clone, Debug)]
pub struct RawPage {
    pub objects: Vec<RawObject>,
    pub prefixes: Vec<Vec<u8>>,
    pub next: Option<String>,
    pub date: SystemTime,
}

/// An entry as received.
#[derive(Clone, Debug)]
pub struct RawObject {
    /// Not always UTF-8. Empty if the entry has none.
    pub key: Vec<u8>,
    /// In bytes. None if it is missing or invalid.
    pub size: Option<u64>,
    pub etag: ETag,
    /// None counts as the time of the response, so that the object never appears older than it is.
    pub last_modified: Option<SystemTime>,
    pub storage_class: String,
}

/// Why a listing cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the listing is not in order")]
    Disorder,
    #[error("the listing goes back to an earlier position")]
    Loop,
    #[error("{MAX_BARREN} consecutive pages of the listing contain nothing but name another page")]
    Endless,
    #[error("a page of the listing has more entries than requested")]
    TooLong,
}

/// Checks one page, the response to `request`.
///
/// # Errors
/// [`Error::Other`] with a [`Fault`].
pub fn check(request: &ListRequest, page: RawPage, hidden: &Hidden) -> Result<ListPage> {
    checked(request, page, hidden).map_err(Error::other)
}

fn checked(
    request: &ListRequest,
    page: RawPage,
    hidden: &Hidden,
) -> std::result::Result<ListPage, Fault> {
    let max = match request.max_keys {
        0 => 1000,
        max => usize::from(max.min(1000)),
    };
    if page.objects.len() > max || page.prefixes.len() > max {
        return Err(Fault::TooLong);
    }
    let (behind, barren) = match (&request.token, &request.start_after) {
        (Some(token), _) => (&*token.last, token.barren),
        (None, Some(start)) => (start.as_bytes(), 0),
        (None, None) => (&b""[..], 0),
    };
    let mut order = Order {
        first: behind,
        // The keys below a prefix may be after the start, and the prefix itself before it.
        started_within: request.token.is_none(),
        last: behind.to_vec(),
        came: false,
    };
    let prefix = request.prefix.as_bytes();
    let mut scan = Scan {
        prefix,
        delimited: request.delimited,
        count: 0,
        example: None,
    };
    let mut objects = Vec::with_capacity(page.objects.len());
    let mut previous = behind.to_vec();
    for object in page.objects {
        if !scan.is_below(&object.key) {
            continue;
        }
        order.object(&object.key, &mut previous)?;
        let name = scan.name(object.key, false);
        let size = object.size.filter(|_| is_tag(object.etag.as_str()));
        if let Some((key, size)) = name.and_then(|key| scan.sized(key, size)) {
            objects.push(ListedObject {
                key,
                size,
                etag: object.etag,
                last_modified: object.last_modified.unwrap_or(page.date),
                storage_class: object.storage_class,
            });
        }
    }
    let mut prefixes = Vec::with_capacity(page.prefixes.len());
    let mut previous = Vec::new();
    for folder in page.prefixes {
        if !scan.is_below(&folder) {
            continue;
        }
        if order.prefix(&folder, &mut previous)? {
            prefixes.extend(scan.name(folder, true));
        }
    }
    let next = match page.next {
        None => None,
        Some(token) => {
            let same = request.token.as_ref().is_some_and(|t| t.token == token);
            let barren = if order.came { 0 } else { barren + 1 };
            if same {
                return Err(Fault::Loop);
            }
            if barren > MAX_BARREN {
                return Err(Fault::Endless);
            }
            Some(PageToken {
                token,
                last: order.last,
                barren,
            })
        }
    };
    hidden.tell(&request.prefix, scan.count, scan.example.as_deref());
    Ok(ListPage {
        objects,
        prefixes,
        next,
        date: page.date,
        hidden: scan.count,
    })
}

/// Whether an ETag can be sent back in a header. A missing one is detected by the caller.
fn is_tag(tag: &str) -> bool {
    const LONGEST: usize = 1024;
    tag.len() <= LONGEST && tag.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// An entry, in the order of its bytes.
struct Order<'a> {
    first: &'a [u8],
    started_within: bool,
    last: Vec<u8>,
    /// A new entry.
    came: bool,
}

impl Order<'_> {
    fn object(&mut self, key: &[u8], previous: &mut Vec<u8>) -> std::result::Result<(), Fault> {
        if key <= &**previous {
            // The first entry of an undelimited listing has no predecessor, and may be anything.
            return Err(Fault::Disorder);
        }
        *previous = key.to_vec();
        self.reached(key);
        Ok(())
    }

    /// False for an entry that the previous page ended with: some servers send it again.
    fn prefix(
        &mut self,
        folder: &[u8],
        previous: &mut Vec<u8>,
    ) -> std::result::Result<bool, Fault> {
        let in_order = previous.is_empty() || folder > &**previous;
        let again = !self.started_within && folder == self.first;
        let around_start = self.started_within && self.first.starts_with(folder);
        if !in_order || !(folder > self.first || again || around_start) {
            return Err(Fault::Disorder);
        }
        *previous = folder.to_vec();
        if again {
            return Ok(false);
        }
        self.reached(folder);
        Ok(true)
    }

    fn reached(&mut self, name: &[u8]) {
        self.came = true;
        if name > &*self.last {
            self.last = name.to_vec();
        }
    }
}

/// Finds entries that cannot be shown.
struct Scan<'a> {
    prefix: &'a [u8],
    delimited: bool,
    count: usize,
    example: Option<String>,
}

impl Scan<'_> {
    fn hide(&mut self, name: &[u8]) {
        self.count += 1;
        let example = || String::from_utf8_lossy(name).escape_debug().to_string();
        self.example.get_or_insert_with(example);
    }

    fn is_below(&mut self, name: &[u8]) -> bool {
        let below = !name.is_empty() && name.starts_with(self.prefix);
        if !below {
            self.hide(name);
        }
        below
    }

    /// A name below the prefix, if it can be shown.
    fn name(&mut self, name: Vec<u8>, folder: bool) -> Option<String> {
        let rest = &name[self.prefix.len()..];
        let slash = rest.iter().position(|byte| *byte == b'/');
        let possible = name.len() <= ObjectKey::MAX_LEN
            && match (self.delimited, folder) {
                (true, false) => slash.is_none(),
                (true, true) => slash.is_some_and(|at| at + 1 == rest.len()),
                (false, folder) => !folder,
            };
        match String::from_utf8(name) {
            Ok(name) if possible => Some(name),
            Ok(name) => {
                self.hide(name.as_bytes());
                None
            }
            Err(error) => {
                self.hide(error.as_bytes());
                None
            }
        }
    }

    fn sized(&mut self, key: String, size: Option<u64>) -> Option<(String, u64)> {
        if size.is_none() {
            self.hide(key.as_bytes());
        }
        Some((key, size?))
    }
}

/// Counts hidden entries, and logs them occasionally.
#[derive(Clone, Default)]
pub struct Hidden(Arc<HiddenCount>);

#[derive(Default)]
struct HiddenCount {
    count: AtomicU64,
    log: LogLimit,
}

impl Hidden {
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    fn tell(&self, prefix: &str, count: usize, example: Option<&str>) {
        let Some(example) = example else { return };
        self.0.count.fetch_add(count as u64, Ordering::Relaxed);
        if self.0.log.admits(Instant::now(), LOG_INTERVAL) {
            warn!(
                "{count} entries of a listing of \"{}\" are not shown, among them \"{example}\": their names, \
                 sizes or tags cannot be right ({} in all since the start)",
                prefix.escape_debug(),
                self.count()
            );
        }
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hidden({})", self.count())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn page(objects: &[&[u8]], prefixes: &[&[u8]], next: Option<&str>) -> RawPage {
        RawPage {
            objects: (objects.iter())
                .map(|key| RawObject {
                    key: key.to_vec(),
                    size: Some(1),
                    etag: ETag::new("E"),
                    last_modified: Some(UNIX_EPOCH),
                    storage_class: String::new(),
                })
                .collect(),
            prefixes: prefixes.iter().map(|prefix| prefix.to_vec()).collect(),
            next: next.map(str::to_owned),
            date: UNIX_EPOCH,
        }
    }

    fn request(prefix: &str, delimited: bool) -> ListRequest {
        ListRequest {
            prefix: prefix.to_owned(),
            delimited,
            ..ListRequest::default()
        }
    }

    fn names(page: &ListPage) -> Vec<&str> {
        let objects = page.objects.iter().map(|object| &*object.key);
        objects.chain(page.prefixes.iter().map(|p| &**p)).collect()
    }

    /// Objects, prefixes, shown entries, and the number of hidden ones.
    type EntryCase<'a> = (&'a [&'a [u8]], &'a [&'a [u8]], &'a [&'a str], usize);

    #[test]
    fn an_invalid_entry_is_hidden_and_the_rest_is_used() {
        let long = [b"d/".as_slice(), &[b'x'; 1022]].concat();
        let too_long: &[&[u8]] = &[b"d/a", &long];
        let cases: &[EntryCase] = &[
            (
                &[b"d/", b"d/a", b"d/b"],
                &[b"d/c/"],
                &["d/", "d/a", "d/b", "d/c/"],
                0,
            ),
            (&[b"d/a", b"d/b\xff", b"d/c"], &[], &["d/a", "d/c"], 1),
            (&[b"d/a"], &[b"d/\xfe/", b"d/\xff/"], &["d/a"], 2),
            // Not below the prefix, at any position.
            (
                &[b"", b"e/a", b"d", b"d/a", b"../x"],
                &[b"e/", b""],
                &["d/a"],
                6,
            ),
            // Not at this level.
            (&[b"d/a/b", b"d/c"], &[b"d/e", b"d/f/g/"], &["d/c"], 3),
            (too_long, &[], &["d/a"], 1),
        ];
        for (objects, prefixes, shown, count) in cases {
            let hidden = Hidden::default();
            let page = check(&request("d/", true), page(objects, prefixes, None), &hidden).unwrap();
            assert_eq!(names(&page), *shown);
            assert_eq!(page.hidden, *count);
            assert_eq!(hidden.count(), *count as u64);
        }
        // Prefixes of a listing that requested none.
        let hidden = Hidden::default();
        let flat = check(
            &request("", false),
            page(&[b"a/b"], &[b"c/"], None),
            &hidden,
        )
        .unwrap();
        assert_eq!((names(&flat), flat.hidden), (vec!["a/b"], 1));
        // An ETag that no header can carry.
        for tag in ["E\n1", "E\u{e9}", &"E".repeat(1025)] {
            let mut page = page(&[b"a", b"b"], &[], None);
            page.objects[0].etag = ETag::new(tag);
            let rest = check(&request("", true), page, &hidden).unwrap();
            assert_eq!((names(&rest), rest.hidden), (vec!["b"], 1));
        }
        // No size.
        let mut unsized_ = page(&[b"a", b"b"], &[], None);
        unsized_.objects[0].size = None;
        let rest = check(&request("", true), unsized_, &hidden).unwrap();
        assert_eq!((names(&rest), rest.hidden), (vec!["b"], 1));
    }

    #[test]
    fn entries_are_in_order_and_after_the_start_of_the_listing() {
        let fault = |request: &ListRequest, objects: &[&[u8]], prefixes: &[&[u8]]| {
            checked(request, page(objects, prefixes, None), &Hidden::default()).err()
        };
        let all = request("", true);
        assert_eq!(fault(&all, &[b"a", b"b"], &[b"a/", b"c/"]), None);
        assert_eq!(fault(&all, &[b"b", b"a"], &[]), Some(Fault::Disorder));
        assert_eq!(fault(&all, &[b"a", b"a"], &[]), Some(Fault::Disorder));
        assert_eq!(fault(&all, &[], &[b"b/", b"a/"]), Some(Fault::Disorder));
        assert_eq!(fault(&all, &[], &[b"a/", b"a/"]), Some(Fault::Disorder));
        // Hidden names must keep the order too.
        assert_eq!(fault(&all, &[b"b\xff", b"b"], &[]), Some(Fault::Disorder));
        let after = ListRequest {
            start_after: Some("d/e".to_owned()),
            ..all.clone()
        };
        assert_eq!(fault(&after, &[b"f"], &[b"d/", b"e/"]), None);
        assert_eq!(fault(&after, &[b"d"], &[]), Some(Fault::Disorder));
        assert_eq!(fault(&after, &[], &[b"c/"]), Some(Fault::Disorder));
        let many: Vec<Vec<u8>> = (0..11).map(|n| format!("k{n:04}").into_bytes()).collect();
        let many: Vec<&[u8]> = many.iter().map(|key| &**key).collect();
        let few = ListRequest {
            max_keys: 10,
            ..all
        };
        assert_eq!(fault(&few, &many[..10], &[]), None);
        assert_eq!(fault(&few, &many, &[]), Some(Fault::TooLong));
    }

    /// Follows a listing to its end: returns the number of pages, and what ended it.
    fn follow(delimited: bool, mut answer: impl FnMut(usize) -> RawPage) -> (usize, Option<Fault>) {
        let mut request = request("", delimited);
        for n in 0..10_000 {
            match checked(&request, answer(n), &Hidden::default()) {
                Err(fault) => return (n, Some(fault)),
                Ok(page) if page.next.is_none() => return (n, None),
                Ok(page) => request.token = page.next,
            }
        }
        panic!("the listing does not end");
    }

    #[test]
    fn a_listing_that_is_followed_ends() {
        let key = |n: usize| format!("k{n:06}").into_bytes();
        let token = |n: usize| format!("t{n}");
        // The same page forever, under one token or always new ones.
        let (pages, fault) = follow(true, |_| page(&[b"a"], &[], Some("t")));
        assert_eq!((pages, fault), (1, Some(Fault::Disorder)));
        let (pages, fault) = follow(true, |n| page(&[b"a"], &[], Some(&token(n))));
        assert_eq!((pages, fault), (1, Some(Fault::Disorder)));
        let (pages, fault) = follow(true, |n| page(&[], &[b"a/"], Some(&token(n))));
        assert_eq!(
            (pages, fault),
            (1 + MAX_BARREN as usize, Some(Fault::Endless))
        );
        // The same token, with always new names.
        let (pages, fault) = follow(true, |n| page(&[&key(n)], &[], Some("t")));
        assert_eq!((pages, fault), (1, Some(Fault::Loop)));
        // Tokens in a cycle.
        let (_, fault) = follow(true, |n| page(&[&key(n % 3)], &[], Some(&token(n % 3))));
        assert_eq!(fault, Some(Fault::Disorder));
        let (_, fault) = follow(true, |n| page(&[], &[], Some(&token(n % 3))));
        assert_eq!(fault, Some(Fault::Endless));
        // Pages without an entry, or with none that is shown and none at a new position.
        let (pages, fault) = follow(true, |n| page(&[], &[], Some(&token(n))));
        assert_eq!((pages, fault), (MAX_BARREN as usize, Some(Fault::Endless)));
        let (pages, fault) = follow(true, |n| page(&[b""], &[], Some(&token(n))));
        assert_eq!((pages, fault), (MAX_BARREN as usize, Some(Fault::Endless)));
    }

    #[test]
    fn honest_listings_are_followed_to_their_end() {
        let key = |n: usize| format!("k{n:06}").into_bytes();
        let token = |n: usize| format!("t{n}");
        let next = |n: usize, pages: usize| (n < pages).then(|| token(n));
        for delimited in [false, true] {
            let (pages, fault) = follow(delimited, |n| {
                page(&[&key(n)], &[], next(n, 100).as_deref())
            });
            assert_eq!((pages, fault), (100, None));
        }
        // Some pages contain nothing, repeatedly.
        let (pages, fault) = follow(true, |n| match n % 4 {
            0 => page(&[&key(n)], &[], next(n, 400).as_deref()),
            _ => page(&[], &[], next(n, 400).as_deref()),
        });
        assert_eq!((pages, fault), (400, None));
        // Thousands of names that are not shown, but are new.
        let (pages, fault) = follow(true, |n| {
            let bad = [key(n), vec![0xff]].concat();
            page(&[&bad], &[], next(n, 100).as_deref())
        });
        assert_eq!((pages, fault), (100, None));
        // A prefix that ends a page begins the next.
        let (pages, fault) = follow(true, |n| {
            let folder = |n| [key(n), b"/".to_vec()].concat();
            page(&[], &[&folder(n), &folder(n + 1)], next(n, 100).as_deref())
        });
        assert_eq!((pages, fault), (100, None));
    }
}
