use super::super::inode_order;
use super::*;

const TTL: Duration = Duration::from_secs(1);

fn probe(steps: &mut Sequence, at: usize, distance: u32) -> Vec<String> {
    let name = format!("{at:03}");
    let names: Vec<_> = (at + 1..200)
        .map(|number| Name::from(format!("{number:03}").as_str()))
        .collect();
    let following = names.iter().map(|name| (name, Some(&())));
    let probed = steps.probe(&name, distance, following);
    probed.iter().map(|(name, ())| name.to_string()).collect()
}

/// A lookup of a name that is next in order, or of one somewhere else.
fn look(name: &str, requested: bool, follows: bool) -> Step<'_> {
    Step {
        name,
        requested,
        follows,
        ino: 0,
    }
}

fn names() -> Vec<String> {
    (0..1000).map(|number| format!("{number:03}")).collect()
}

/// A directory of a thousand files or directories whose answers come at once.
struct Directory {
    walk: AccessPattern,
    names: Vec<Name>,
    known: std::collections::HashSet<Name>,
    probes: usize,
    misses: usize,
    now: Instant,
}

impl Directory {
    fn new() -> Directory {
        Directory {
            walk: AccessPattern::default(),
            names: names().iter().map(|name| Name::from(&**name)).collect(),
            known: std::collections::HashSet::new(),
            probes: 0,
            misses: 0,
            now: Instant::now(),
        }
    }

    fn look(&mut self, at: usize, directory: bool) {
        self.look_at(at, 0, directory);
    }

    fn look_at(&mut self, at: usize, ino: u64, directory: bool) {
        self.now += Duration::from_micros(100);
        let name = self.names[at].clone();
        let requested = !self.known.contains(&name);
        self.misses += usize::from(requested);
        let steps = match directory {
            true => &self.walk.directories,
            false => &self.walk.files,
        };
        let follows = at > 0 && steps.previous() == Some(&self.names[at - 1]);
        let step = Step {
            ino,
            ..look(&name, requested, follows)
        };
        let distance = match directory {
            true => self.walk.on_directory_lookup(step, TTL, self.now),
            false => self.walk.on_file_lookup(step, TTL, self.now),
        };
        self.known.insert(name.clone());
        let Some(distance) = distance else { return };
        let steps = match directory {
            true => &mut self.walk.directories,
            false => &mut self.walk.files,
        };
        let known = &self.known;
        if steps.is_by_inode() {
            let numbered = |(at, name): (usize, &Name)| (inode(at), name.clone());
            let plan = |after| {
                let names = self.names.iter().enumerate().map(numbered);
                inode_order::plan(names, after)
            };
            let sent =
                steps.probe_by_inode(distance, plan, |name| (!known.contains(name)).then_some(()));
            for (name, ()) in sent {
                self.probes += 1;
                steps.probe_ended(&name);
                self.known.insert(name);
            }
            return;
        }
        let following = self.names[at + 1..].iter();
        let following = following.map(|name| (name, (!known.contains(name)).then_some(&())));
        let sent = steps.probe(&name, distance, following);
        for (name, ()) in sent {
            self.probes += 1;
            steps.probe_ended(&name);
            self.known.insert(name);
        }
    }

    /// What was known has expired.
    fn expire(&mut self) {
        self.known.clear();
    }
}

/// The number of the inode of the name at `at`: in no order.
fn inode(at: usize) -> u64 {
    (at as u64 * 619 + 1) % 1009
}

/// As if shuffled.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(|step| step * 619 % 1000)
}

#[test]
fn a_walk_shows_with_its_second_lookup_in_order_that_asks() {
    let now = Instant::now();
    let mut walk = AccessPattern::default();
    assert_eq!(walk.on_file_lookup(look("a", false, false), TTL, now), None);
    assert_eq!(walk.on_file_lookup(look("b", true, false), TTL, now), None);
    assert_eq!(
        walk.on_file_lookup(look("c", true, true), TTL, now),
        Some(4)
    );
    for name in names().iter().take(20) {
        walk.on_file_lookup(look(name, true, true), TTL, now);
    }
    let far = walk.on_file_lookup(look("z", true, true), TTL, now);
    assert_eq!(far, Some(Sequence::MOST));
    assert!(walk.is_sequential(TTL, now));
    assert!(!walk.is_sequential(TTL, now + 2 * TTL));
}

#[test]
fn who_walks_in_order_waits_for_the_first_few_only() {
    for directory in [false, true] {
        for read in [false, true] {
            let mut world = Directory::new();
            if read {
                world.walk.begin_reading(world.now);
            }
            for at in 0..1000 {
                world.look(at, directory);
            }
            assert!(world.misses <= 3, "{directory} {read}: {}", world.misses);
            assert_eq!(world.probes + world.misses, 1000, "each is asked once");
        }
    }
}

#[test]
fn who_looks_here_and_there_is_hardly_asked_ahead_for() {
    for directory in [false, true] {
        let mut world = Directory::new();
        for _ in 0..10 {
            for at in scattered(300) {
                world.look(at, directory);
            }
            world.expire();
        }
        let (probes, misses) = (world.probes, world.misses);
        assert!(
            probes <= 30,
            "{directory}: {probes} probes, {misses} lookups"
        );
        // Nor after a walk through it: what that has earned is soon spent.
        for at in 0..1000 {
            world.look(at, directory);
        }
        world.expire();
        let before = world.probes;
        for _ in 0..10 {
            for at in scattered(300) {
                world.look(at, directory);
            }
            world.expire();
        }
        let wasted = world.probes - before;
        assert!(wasted <= 400, "{directory}: {wasted} probes");
    }
}

/// find sorts large directories by inode numbers, which are in no order.
#[test]
fn who_reads_a_directory_and_looks_at_all_of_it_in_another_order_is_asked_ahead_for() {
    let mut world = Directory::new();
    world.walk.begin_reading(world.now);
    for at in scattered(1000) {
        world.look(at, false);
    }
    assert!(world.misses <= 100, "{}", world.misses);
    assert_eq!(world.probes + world.misses, 1000, "each is asked once");
}

/// Out of order by name, each lookup would have to wait, as what is probed around it expires before it is wanted.
#[test]
fn who_goes_by_inode_numbers_is_asked_ahead_for_in_their_order() {
    let mut order: Vec<usize> = (0..1000).collect();
    order.sort_by_key(|at| inode(*at));
    let mut world = Directory::new();
    world.walk.begin_reading(world.now);
    for at in order {
        world.look_at(at, inode(at), false);
    }
    assert!(world.misses <= 20, "{}", world.misses);
    assert_eq!(world.probes + world.misses, 1000, "each is asked once");
}

#[test]
fn a_walk_that_begins_anew_after_the_lifetime_is_asked_ahead_for_at_once() {
    let mut world = Directory::new();
    for _ in 0..3 {
        for at in 0..100 {
            world.look(at, true);
        }
        world.expire();
        world.walk.on_listed();
    }
    assert!(world.misses <= 9, "{}", world.misses);
}

#[test]
fn who_read_the_directory_is_expected_to_look_at_its_entries() {
    let now = Instant::now();
    let mut walk = AccessPattern::default();
    walk.begin_reading(now);
    assert_eq!(
        walk.on_file_lookup(look("a", true, false), TTL, now),
        Some(8)
    );
    let mut walk = AccessPattern::default();
    walk.begin_reading(now);
    let late = now + 2 * TTL;
    assert_eq!(walk.on_file_lookup(look("a", true, false), TTL, late), None);
}

/// To read fifteen thousand names took longer than a lifetime: the walk that followed was not expected.
#[test]
fn a_reading_that_takes_longer_than_a_lifetime_counts_from_its_end() {
    let now = Instant::now();
    let mut walk = AccessPattern::default();
    walk.begin_reading(now);
    let later = now + 3 * TTL;
    walk.read_on(later);
    assert_eq!(
        walk.on_file_lookup(look("a", true, false), TTL, later),
        Some(8)
    );
}

#[test]
fn directories_are_asked_ahead_as_far_as_the_walker_comes_in_time() {
    for (pace, ahead) in [(1, Some(8)), (100, Some(5)), (300, Some(1)), (600, None)] {
        let mut walk = AccessPattern::default();
        let mut now = Instant::now();
        let mut last = None;
        for name in ["a", "b", "c"] {
            now += Duration::from_millis(pace);
            last = walk.on_directory_lookup(look(name, true, name != "a"), TTL, now);
            // Lookups below the directory are no step further.
            let inside = walk.on_directory_lookup(look(name, true, true), TTL, now);
            assert_eq!(inside, None);
        }
        assert_eq!(last, ahead, "{pace} ms");
        let entered = walk.last_child_dir(TTL, now + TTL);
        assert_eq!(entered.map(Name::to_string).as_deref(), Some("c"));
        assert_eq!(walk.last_child_dir(TTL, now + 4 * TTL), None);
    }
}

#[test]
fn opens_after_lookups_show_a_reader() {
    let now = Instant::now();
    let mut walk = AccessPattern::default();
    assert!(walk.expects_opens());
    for name in ["a", "b", "c"] {
        walk.on_file_lookup(look(name, true, true), TTL, now);
    }
    assert!(!walk.expects_opens());
    for _ in 0..3 {
        walk.on_open();
    }
    assert!(walk.expects_opens());
}

fn with_credit() -> Sequence {
    Sequence {
        credit: Sequence::CREDIT,
        ..Sequence::default()
    }
}

#[test]
fn nothing_is_probed_twice_and_nothing_too_far_ahead() {
    let mut steps = with_credit();
    assert_eq!(probe(&mut steps, 10, 3), ["011", "012", "013"]);
    assert!(probe(&mut steps, 11, 3).is_empty(), "three are under way");
    steps.probe_ended("011");
    assert_eq!(probe(&mut steps, 11, 3), ["014"]);
    for name in ["012", "013", "014"] {
        steps.probe_ended(name);
    }
    assert_eq!(probe(&mut steps, 100, 2), ["101", "102"], "it went on");
}

/// Small files may be symbolic links: a program that reads a directory looks at their types first, then at all.
#[test]
fn who_comes_back_to_the_beginning_is_asked_ahead_for_anew() {
    let mut steps = with_credit();
    assert_eq!(probe(&mut steps, 3, 2), ["004", "005"]);
    steps.probe_ended("004");
    steps.probe_ended("005");
    assert_eq!(probe(&mut steps, 0, 2), ["001", "002"]);
}

#[test]
fn an_answer_that_expired_before_it_was_wanted_was_not_used() {
    let mut steps = Sequence {
        credit: 3,
        ..Sequence::default()
    };
    assert_eq!(
        probe(&mut steps, 0, 9).len(),
        3,
        "as many as the credit allows"
    );
    steps.use_probe("001", true);
    assert_eq!(steps.credit, 2, "joined while it is under way");
    steps.probe_ended("002");
    steps.use_probe("002", true);
    assert_eq!(steps.credit, 2, "expired");
    steps.probe_ended("003");
    steps.use_probe("003", false);
    assert_eq!(steps.credit, 4, "answered from memory");
    steps.use_probe("003", false);
    assert_eq!(steps.credit, 4, "once");
}
