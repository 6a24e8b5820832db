//! One budget of bytes for everything the mount holds in memory.
//!
//! Read-ahead, cached blocks, staged bytes, parts in flight and listings all take their memory
//! here. What makes it hard: a request that waits for memory must not be one that others wait for.
//! So a request takes its whole share at once and holds nothing of it while it waits; who came
//! first is served first, and a small request never slips past a large one that waits; and a fixed
//! slice is kept for [`Class::Drain`], the work that makes memory free again, so that draining goes
//! on when every other byte is dirty.
//!
//! [`Core`] is arithmetic and queues, without clock or waker; [`MemoryBudget`] adds the waiting.
//! It always holds that `used` is the sum of all live [`Reservation`]s and at most the limit, but for what was
//! [charged](MemoryBudget::charge).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{oneshot, watch};

use crate::base::sync::lock;

/// The slice kept for [`Class::Drain`] is an eighth of the limit, within these bounds: below 4 MiB
/// a few uploads reading spilled bytes would stand in each other's way, above 64 MiB it lies idle.
const DRAIN_RESERVE_MIN: u64 = 4 << 20;
const DRAIN_RESERVE_MAX: u64 = 64 << 20;

/// What a request for memory is for; decides how far it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All of the limit but the slice kept for draining.
    Normal,
    /// Work that ends in memory being given back: reading spilled bytes for an upload, answering a
    /// read. May use the kept slice, and does not queue behind [`Class::Normal`].
    Drain,
    /// Memory that no read waits for: granted only while less than three quarters are in use and no request
    /// waits. Ask with [`MemoryBudget::try_reserve_for`]; waiting, it is as [`Class::Normal`].
    Prefetch,
}

/// See the module's documentation. A clone is the same budget.
#[derive(Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

struct Shared {
    /// A leaf: nothing else is locked, dropped or woken while it is held.
    state: Mutex<State>,
    /// Counts the requests that had to wait.
    pressure: watch::Sender<u64>,
}

struct State {
    core: Core,
    /// By ticket: exactly those that stand in the core's queues.
    waiting: HashMap<u64, oneshot::Sender<Reservation>>,
}

impl MemoryBudget {
    /// `limit` in bytes.
    pub fn new(limit: u64) -> MemoryBudget {
        MemoryBudget {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    core: Core::new(limit),
                    waiting: HashMap::new(),
                }),
                pressure: watch::Sender::new(0),
            }),
        }
    }

    /// In bytes.
    pub fn limit(&self) -> u64 {
        self.lock().core.limit
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.lock().core.used
    }

    /// The most that a request of this class is ever granted, in bytes; larger ones are cut to it.
    pub fn allowance(&self, class: Class) -> u64 {
        self.lock().core.allowance(class)
    }

    /// How many bytes must become free before all requests that wait now are served; 0 when none waits.
    pub fn wanted(&self) -> u64 {
        self.lock().core.wanted()
    }

    /// Seven eighths of what [`Class::Normal`] may use are in use: time to spill ahead of demand.
    pub fn is_tight(&self) -> bool {
        let state = self.lock();
        state.core.used > state.core.allowance(Class::Normal) / 8 * 7
    }

    /// As [`MemoryBudget::try_reserve_for`] with [`Class::Normal`].
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.try_reserve_for(Class::Normal, bytes)
    }

    /// `bytes`, or the class's allowance when that is less; `None` when it would have to wait,
    /// also when it would fit but others have waited before.
    pub fn try_reserve_for(&self, class: Class, bytes: u64) -> Option<Reservation> {
        let mut state = self.lock();
        let bytes = bytes.min(state.core.allowance(class));
        state.core.try_take(class, bytes).then(|| Reservation {
            budget: self.clone(),
            bytes,
        })
    }

    /// Counts memory that is in use whatever is free, in bytes: what is remembered of names. It is taken from what
    /// others would have had next, so its owner keeps it to a small share of the limit.
    pub fn charge(&self, bytes: u64) -> Reservation {
        self.lock().core.charge(bytes);
        Reservation {
            budget: self.clone(),
            bytes,
        }
    }

    /// As [`MemoryBudget::reserve_for`] with [`Class::Normal`].
    pub fn reserve(&self, bytes: u64) -> impl Future<Output = Reservation> + Send + use<> {
        self.reserve_for(Class::Normal, bytes)
    }

    /// `bytes`, or the class's allowance when that is less, as soon as all of it is free and those
    /// who waited before are served. Has no deadline of its own. Dropping the future leaves the queue.
    pub fn reserve_for(
        &self,
        class: Class,
        bytes: u64,
    ) -> impl Future<Output = Reservation> + Send + use<> {
        let budget = self.clone();
        // A prefetch that waits has a reader behind it, so it queues as Normal.
        let class = match class {
            Class::Normal | Class::Prefetch => Class::Normal,
            Class::Drain => Class::Drain,
        };
        async move {
            let (receiver, _place) = {
                let mut state = budget.lock();
                let bytes = bytes.min(state.core.allowance(class));
                if state.core.try_take(class, bytes) {
                    drop(state);
                    return Reservation { budget, bytes };
                }
                let ticket = state.core.enqueue(class, bytes);
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                let place = Place {
                    budget: budget.clone(),
                    ticket,
                };
                (receiver, place)
            };
            budget.shared.pressure.send_modify(|count| *count += 1);
            receiver
                .await
                .expect("the sender is dropped only after granting, or by the place we hold")
        }
    }

    /// Tells an owner of memory that could be freed when a request has to wait for some. Each owner
    /// has its own; it misses nothing while its owner is busy.
    pub fn pressure(&self) -> Pressure {
        Pressure {
            receiver: self.shared.pressure.subscribe(),
            _budget: self.clone(),
        }
    }

    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut state = self.lock();
        state.core.give_back(bytes);
        self.serve(state);
    }

    /// Grants what can be granted now. Hands over after unlocking: a waiter that has gone meanwhile
    /// lets its reservation drop, which comes back here.
    fn serve(&self, mut state: MutexGuard<'_, State>) {
        let mut granted = Vec::new();
        while let Some((ticket, bytes)) = state.core.grant() {
            if let Some(sender) = state.waiting.remove(&ticket) {
                granted.push((sender, bytes));
            } else {
                state.core.give_back(bytes);
            }
        }
        drop(state);
        for (sender, bytes) in granted {
            let budget = self.clone();
            drop(sender.send(Reservation { budget, bytes }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lock().core, f)
    }
}

/// A place in the queue, given up on drop.
struct Place {
    budget: MemoryBudget,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        let sender = state.waiting.remove(&self.ticket);
        if state.core.cancel(self.ticket) {
            // Those behind may fit now.
            self.budget.serve(state);
        } else {
            drop(state);
        }
        drop(sender);
    }
}

/// See [`MemoryBudget::pressure`].
pub struct Pressure {
    receiver: watch::Receiver<u64>,
    /// Keeps the sender alive, so that waiting cannot fail.
    _budget: MemoryBudget,
}

impl Pressure {
    /// Returns when a request has had to wait since the last call, or since this was made. Ask
    /// [`MemoryBudget::wanted`] how much is to be freed: others may have done it already.
    pub async fn wait(&mut self) {
        // Fails only without a sender, and we hold the budget that owns it.
        let _ = self.receiver.changed().await;
    }
}

/// Bytes of a budget, given back on drop.
pub struct Reservation {
    budget: MemoryBudget,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Moves `bytes`, or all there are when that is less, into a reservation of their own.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation {
            budget: self.budget.clone(),
            bytes,
        }
    }

    /// Joins `other` to this one. Both must be of the same budget.
    pub fn absorb(&mut self, mut other: Reservation) {
        debug_assert!(Arc::ptr_eq(&self.budget.shared, &other.budget.shared));
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Counts exactly `bytes` from now on: less is given back, more is charged (see [`MemoryBudget::charge`]).
    pub fn resize(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.budget.lock().core.charge(bytes - self.bytes);
            self.bytes = bytes;
        } else {
            self.shrink_to(bytes);
        }
    }

    /// Gives back all above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.give_back(surplus);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

/// The numbers and the queues. Requests given to it are already cut to their class's allowance.
#[derive(Debug)]
struct Core {
    limit: u64,
    /// The slice kept for [`Class::Drain`].
    kept: u64,
    used: u64,
    drain: VecDeque<Waiter>,
    normal: VecDeque<Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: u64,
}

impl Core {
    fn new(limit: u64) -> Core {
        Core {
            limit,
            kept: (limit / 8)
                .clamp(DRAIN_RESERVE_MIN, DRAIN_RESERVE_MAX)
                .min(limit / 2),
            used: 0,
            drain: VecDeque::new(),
            normal: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// What a class can have when no other of its class has any: for draining the kept slice
    /// alone, since the rest may be dirty and wait for the draining.
    fn allowance(&self, class: Class) -> u64 {
        match class {
            Class::Normal | Class::Prefetch => self.limit - self.kept,
            Class::Drain => self.kept,
        }
    }

    fn try_take(&mut self, class: Class, bytes: u64) -> bool {
        let may = match class {
            Class::Normal => {
                self.drain.is_empty() && self.normal.is_empty() && self.fits(class, bytes)
            }
            Class::Drain => self.drain.is_empty() && self.fits(class, bytes),
            Class::Prefetch => {
                self.drain.is_empty()
                    && self.normal.is_empty()
                    && self.used.saturating_add(bytes) <= self.limit / 4 * 3
            }
        };
        if may || bytes == 0 {
            self.used += bytes;
            return true;
        }
        false
    }

    fn charge(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }

    fn fits(&self, class: Class, bytes: u64) -> bool {
        let end = match class {
            Class::Normal | Class::Prefetch => self.limit - self.kept,
            Class::Drain => self.limit,
        };
        self.used.saturating_add(bytes) <= end
    }

    fn enqueue(&mut self, class: Class, bytes: u64) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let queue = match class {
            Class::Normal | Class::Prefetch => &mut self.normal,
            Class::Drain => &mut self.drain,
        };
        queue.push_back(Waiter { ticket, bytes });
        ticket
    }

    /// Whether the ticket was still waiting.
    fn cancel(&mut self, ticket: u64) -> bool {
        for queue in [&mut self.drain, &mut self.normal] {
            if let Some(place) = queue.iter().position(|waiter| waiter.ticket == ticket) {
                queue.remove(place);
                return true;
            }
        }
        false
    }

    fn give_back(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used);
        self.used = self.used.saturating_sub(bytes);
    }

    /// The next waiter that can be served, its bytes taken. Draining first: the others live on it.
    fn grant(&mut self) -> Option<(u64, u64)> {
        let class = if self.drain.is_empty() {
            Class::Normal
        } else {
            Class::Drain
        };
        let first = match class {
            Class::Drain => self.drain.front(),
            _ => self.normal.front(),
        }?;
        if !self.fits(class, first.bytes) {
            return None;
        }
        let waiter = match class {
            Class::Drain => self.drain.pop_front(),
            _ => self.normal.pop_front(),
        }?;
        self.used += waiter.bytes;
        Some((waiter.ticket, waiter.bytes))
    }

    fn wanted(&self) -> u64 {
        let sum = |queue: &VecDeque<Waiter>| queue.iter().map(|waiter| waiter.bytes).sum::<u64>();
        let (drain, normal) = (sum(&self.drain), sum(&self.normal));
        let end = if normal > 0 {
            self.limit - self.kept
        } else {
            self.limit
        };
        match drain + normal {
            0 => 0,
            asked => (self.used + asked).saturating_sub(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_slice_for_draining_follows_the_limit_within_bounds() {
        for (limit, kept) in [
            (0, 0),
            (2 * MIB, MIB),
            (16 * MIB, 4 * MIB),
            (128 * MIB, 16 * MIB),
            (512 * MIB, 64 * MIB),
            (8192 * MIB, 64 * MIB),
        ] {
            let budget = MemoryBudget::new(limit);
            assert_eq!(budget.allowance(Class::Drain), kept, "{limit}");
            assert_eq!(budget.allowance(Class::Normal), limit - kept, "{limit}");
        }
    }

    #[test]
    fn what_is_charged_is_taken_from_what_others_would_have_had() {
        let budget = MemoryBudget::new(16 * MIB);
        let taken = budget.try_reserve(10 * MIB).expect("free");
        let mut charged = budget.charge(8 * MIB);
        assert_eq!(budget.used(), 18 * MIB, "above the limit for a while");
        assert!(budget.try_reserve(1).is_none());
        let mut waiting = Box::pin(budget.reserve(6 * MIB));
        assert!(poll(waiting.as_mut()).is_pending());
        drop(taken);
        assert!(poll(waiting.as_mut()).is_pending());
        charged.resize(5 * MIB);
        assert!(poll(waiting.as_mut()).is_ready());
        charged.resize(7 * MIB);
        drop(charged);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_above_what_can_be_had_is_cut_and_granted() {
        let budget = MemoryBudget::new(16 * MIB);
        for (class, granted) in [
            (Class::Normal, 12 * MIB),
            (Class::Drain, 4 * MIB),
            (Class::Prefetch, 12 * MIB),
        ] {
            let all = budget.try_reserve_for(class, u64::MAX).expect("free");
            assert_eq!(all.bytes(), granted, "{class:?}");
            drop(all);
            let mut waiting = Box::pin(budget.reserve_for(class, u64::MAX));
            assert!(poll(waiting.as_mut()).is_ready(), "{class:?}");
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn each_class_goes_as_far_as_it_may() {
        for (used, class, bytes, granted) in [
            (0, Class::Normal, 12, true),
            (0, Class::Normal, 13, true), // cut
            (8, Class::Normal, 4, true),
            (8, Class::Normal, 5, false),
            (12, Class::Normal, 0, true),
            (12, Class::Drain, 4, true),
            (12, Class::Drain, 3, true),
            (8, Class::Prefetch, 4, true),
            (8, Class::Prefetch, 5, false),
        ] {
            let budget = MemoryBudget::new(16 * MIB);
            let _used = budget.try_reserve(used * MIB);
            assert_eq!(
                budget.try_reserve_for(class, bytes * MIB).is_some(),
                granted,
                "{used} {class:?} {bytes}"
            );
        }
    }

    #[test]
    fn who_came_first_is_served_first_and_nobody_slips_past() {
        let budget = MemoryBudget::new(16 * MIB);
        let mut held = budget.try_reserve(10 * MIB).expect("free");
        let mut large = Box::pin(budget.reserve(8 * MIB));
        let mut small = Box::pin(budget.reserve(MIB));
        assert!(poll(large.as_mut()).is_pending());
        assert!(
            poll(small.as_mut()).is_pending(),
            "would fit, but is second"
        );
        assert!(
            budget.try_reserve(MIB).is_none(),
            "would fit, but others wait"
        );
        assert!(budget.try_reserve_for(Class::Prefetch, MIB).is_none());
        assert_eq!(budget.used(), 10 * MIB, "those who wait hold nothing");
        assert_eq!(budget.wanted(), 7 * MIB);

        held.shrink_to(4 * MIB);
        let Poll::Ready(first) = poll(large.as_mut()) else {
            panic!("8 of 12 are free");
        };
        assert!(poll(small.as_mut()).is_pending());
        drop(first);
        assert!(poll(small.as_mut()).is_ready());
    }

    #[test]
    fn draining_goes_on_when_all_else_is_taken() {
        let budget = MemoryBudget::new(16 * MIB);
        let _dirty = budget.try_reserve(12 * MIB).expect("free");
        let mut normal = Box::pin(budget.reserve(MIB));
        assert!(poll(normal.as_mut()).is_pending());
        let strip = budget
            .try_reserve_for(Class::Drain, 4 * MIB)
            .expect("kept for it");
        let mut drain = Box::pin(budget.reserve_for(Class::Drain, MIB));
        assert!(poll(drain.as_mut()).is_pending());
        drop(strip);
        assert!(poll(drain.as_mut()).is_ready());
        assert!(poll(normal.as_mut()).is_pending());
    }

    #[test]
    fn a_waiter_that_goes_leaves_the_queue_and_lets_the_next_one_in() {
        let budget = MemoryBudget::new(16 * MIB);
        let held = budget.try_reserve(10 * MIB).expect("free");
        let mut large = Box::pin(budget.reserve(8 * MIB));
        let mut small = Box::pin(budget.reserve(2 * MIB));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending());
        drop(large);
        // Granted while it is not polled; dropped with the grant inside.
        assert_eq!(budget.used(), 12 * MIB);
        drop(small);
        assert_eq!(budget.used(), 10 * MIB);
        drop(held);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.wanted(), 0);
        assert!(budget.lock().waiting.is_empty());
    }

    #[test]
    fn a_prefetch_that_waits_counts_as_normal() {
        let budget = MemoryBudget::new(16 * MIB);
        let _held = budget.try_reserve(10 * MIB).expect("free");
        let mut waiting = Box::pin(budget.reserve_for(Class::Prefetch, 2 * MIB));
        assert!(budget.try_reserve_for(Class::Prefetch, 3 * MIB).is_none());
        assert!(poll(waiting.as_mut()).is_ready());
    }

    #[test]
    fn pressure_is_told_when_somebody_waits_and_only_then() {
        let budget = MemoryBudget::new(16 * MIB);
        let mut pressure = budget.pressure();
        let _held = budget.try_reserve(12 * MIB);
        assert!(budget.try_reserve(1).is_none());
        assert!(poll(std::pin::pin!(pressure.wait())).is_pending());
        let mut waiting = Box::pin(budget.reserve(1));
        assert!(poll(waiting.as_mut()).is_pending());
        assert!(poll(std::pin::pin!(pressure.wait())).is_ready());
        assert!(poll(std::pin::pin!(pressure.wait())).is_pending());
    }

    #[test]
    fn reservations_split_and_join_without_gain_or_loss() {
        let budget = MemoryBudget::new(16 * MIB);
        let mut all = budget.try_reserve(100).expect("free");
        let some = all.split(30);
        assert_eq!((all.bytes(), some.bytes(), budget.used()), (70, 30, 100));
        let rest = all.split(1000);
        assert_eq!((all.bytes(), rest.bytes()), (0, 70));
        all.absorb(some);
        all.absorb(rest);
        assert_eq!((all.bytes(), budget.used()), (100, 100));
        all.shrink_to(200);
        all.shrink_to(1);
        assert_eq!(budget.used(), 1);
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_who_wait_are_all_served_within_the_limit() {
        let budget = MemoryBudget::new(16 * MIB);
        let mut tasks = Vec::new();
        for n in 0..200_u64 {
            let budget = budget.clone();
            tasks.push(tokio::spawn(async move {
                let class = if n % 5 == 0 {
                    Class::Drain
                } else {
                    Class::Normal
                };
                let mine = budget.reserve_for(class, (n % 13 + 1) * MIB).await;
                assert!(budget.used() <= budget.limit());
                tokio::task::yield_now().await;
                drop(mine);
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(budget.used(), 0);
    }
}
