//! Whether programs were shown anything of a version.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether programs may have bytes of a version, from a reader of it or from the kernel's pages. Those who
/// have the file open stay with a version that was shown, and move on from one that was not: then nothing of
/// it is shown any more.
#[derive(Default)]
pub(super) struct Shown(AtomicU8);

impl Shown {
    const UNSEEN: u8 = 0;
    const SEEN: u8 = 1;
    const RETIRED: u8 = 2;

    /// False if it was retired.
    pub(super) fn see(&self) -> bool {
        self.settle(Shown::SEEN) != Shown::RETIRED
    }

    /// False if it was seen.
    pub(super) fn retire(&self) -> bool {
        self.settle(Shown::RETIRED) != Shown::SEEN
    }

    pub(super) fn was_seen(&self) -> bool {
        self.0.load(Ordering::Acquire) == Shown::SEEN
    }

    /// No open handle was shown anything of it. False if it was retired.
    pub(super) fn forget(&self) -> bool {
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        let forgotten = self
            .0
            .compare_exchange(Shown::SEEN, Shown::UNSEEN, set, get);
        forgotten != Err(Shown::RETIRED)
    }

    /// What it is from now on: the first who settles it decides.
    fn settle(&self, wanted: u8) -> u8 {
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.compare_exchange(Shown::UNSEEN, wanted, set, get) {
            Ok(_) => wanted,
            Err(before) => before,
        }
    }
}
