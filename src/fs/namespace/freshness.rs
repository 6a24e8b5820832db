//! How recent what is known of a directory is, and when it is listed again: a pure policy.

use std::time::{Duration, Instant};

/// How long what is cached counts.
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    pub objects: Duration,
    pub directories: Duration,
}

impl Ttl {
    /// How long it counts that a directory is there: never less than its attributes do.
    pub fn of_directories(&self) -> Duration {
        self.directories.max(self.objects)
    }
}

/// A call that waited for a response reads it from the cache within this time.
pub const LOOKED_AT: Duration = Duration::from_secs(1);
/// A directory of no more names is listed anew with one request.
const ONE_PAGE: usize = 1000;
/// How long one traversal may take for each name: so much older may be what it is shown.
const TRAVERSAL_PER_NAME: Duration = Duration::from_millis(1);
/// The last whole listing of a directory.
#[derive(Debug, Default)]
pub struct Freshness {
    /// When its request was sent. None: there was none, or it counts no more.
    pub complete: Option<Instant>,
    /// How long it took.
    pub took: Duration,
    /// How many pages it had; at least so many where only the first was read, and none before.
    pub pages: u32,
    /// The directory has more names than are remembered, so that it is read page by page.
    pub too_large: bool,
    /// Names requested alone since it expired.
    requested: u32,
    traversal: Option<Traversal>,
}

/// A program reads the directory, and looks up the names in it.
#[derive(Clone, Copy, Debug)]
struct Traversal {
    began: Instant,
    /// When a name was read or looked up last.
    last: Instant,
}

impl Freshness {
    /// Of a directory that we made just now: known whole. To list it will take as long as it took to list its
    /// parent.
    pub fn of_new_directory(parent: &Freshness, now: Instant) -> Freshness {
        Freshness {
            complete: Some(now),
            took: parent.took,
            pages: 1,
            ..Freshness::default()
        }
    }

    /// The directory was listed whole, with a request that was sent at `sent`.
    pub fn listed(&mut self, sent: Instant, pages: u32) {
        self.complete = Some(sent);
        self.pages = pages;
        self.too_large = false;
        self.requested = 0;
    }

    /// Whether the last whole listing is recent enough for a call that began at `start`.
    pub fn is_fresh(&self, ttl: Ttl, start: Instant) -> bool {
        self.complete
            .is_some_and(|complete| fresh(complete, ttl.objects, start))
    }

    /// Whether one request would make the whole of it fresh again, and it is not.
    pub fn is_stale_page(&self, ttl: Ttl, start: Instant) -> bool {
        self.is_one_page() && !self.is_fresh(ttl, start)
    }

    /// Whether the directory should be listed anew now, so that lookups of its names need not wait
    /// when the last listing expires: one page only, unless one name after another is looked up, and no sooner than
    /// that takes, twice over.
    pub fn wants_refreshing(&self, ttl: Ttl, walked: bool, now: Instant) -> bool {
        let ahead = (2 * self.took).min(ttl.objects / 4);
        let walked = walked && !self.is_traversed(ttl.objects, now);
        (self.is_one_page() || (walked && self.took < ttl.objects / 4))
            && self.complete.is_some_and(|complete| {
                !fresh(complete, ttl.objects - ahead, now) && fresh(complete, ttl.objects, now)
            })
    }

    /// Whether a whole listing is one request, as far as is known.
    pub fn is_one_page(&self) -> bool {
        self.pages <= 1 && !self.too_large
    }

    /// Counts a name that is requested alone. True once such requests cost more than a full listing; that
    /// never is where a listing takes more than half its lifetime.
    pub fn should_list_again(&mut self, ttl: Ttl) -> bool {
        self.requested += 1;
        self.requested > 2 * self.pages && self.took < ttl.objects / 2
    }

    // ---- traversals ----

    /// A program begins to read the directory from its beginning.
    pub fn begin_traversal(&mut self, now: Instant) {
        self.traversal = Some(Traversal {
            began: now,
            last: now,
        });
    }

    /// The reading goes on.
    pub fn continue_traversal(&mut self, ttl: Duration, now: Instant) {
        if self.is_traversed(ttl, now)
            && let Some(traversal) = &mut self.traversal
        {
            traversal.last = traversal.last.max(now);
        }
    }

    fn is_traversed(&self, ttl: Duration, now: Instant) -> bool {
        self.traversal
            .is_some_and(|traversal| fresh(traversal.last, ttl.max(LOOKED_AT), now))
    }

    /// How long what was listed counts for a program that goes through a directory of many pages.
    pub fn lifetime_in_traversal(&self, names: usize, ttl: Duration, now: Instant) -> Duration {
        match self.is_traversed(ttl, now) && names > ONE_PAGE {
            true => TRAVERSAL_PER_NAME * names as u32,
            false => Duration::ZERO,
        }
    }

    /// When the traversal that goes on began.
    pub fn traversed_since(&self) -> Option<Instant> {
        self.traversal.map(|traversal| traversal.began)
    }
}

/// Whether what was true at `checked` counts for a call that began at `start`.
pub fn fresh(checked: Instant, lifetime: Duration, start: Instant) -> bool {
    checked + lifetime >= start
}
