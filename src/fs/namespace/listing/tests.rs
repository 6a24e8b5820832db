use super::super::entry::Object;
use super::*;
use crate::files::attributes::Attributes;

const TTL: Ttl = Ttl {
    objects: Duration::from_secs(1),
    directories: Duration::from_secs(60),
};

fn object(tag: &str, time: u64) -> Entry {
    Entry::Object(Object {
        size: 1,
        etag: ETag::new(tag),
        last_modified: time,
        uploaded_here: false,
        known: None,
    })
}

fn name(text: &str) -> Name {
    Name::from(text)
}

fn listed(names: &[&str]) -> Vec<(Name, Entry)> {
    names.iter().map(|n| (name(n), object(n, 1))).collect()
}

#[test]
fn a_whole_listing_answers_absent_names_until_it_expires() {
    let start = Instant::now();
    let mut listing = Listing::default();
    assert!(matches!(listing.lookup("a", TTL, start), CachedEntry::Miss));
    let epoch = listing.begin();
    listing.apply(epoch, start, 1, false, listed(&["a"]));
    let later = start + Duration::from_millis(999);
    assert!(matches!(
        listing.lookup("a", TTL, later),
        CachedEntry::Hit(Entry::Object(_), _)
    ));
    assert!(matches!(
        listing.lookup("b", TTL, later),
        CachedEntry::Negative(_)
    ));
    let expired = start + Duration::from_millis(1001);
    assert!(matches!(
        listing.lookup("a", TTL, expired),
        CachedEntry::Miss
    ));
    assert!(matches!(
        listing.lookup("b", TTL, expired),
        CachedEntry::Miss
    ));
}

#[test]
fn a_listing_is_renewed_shortly_before_it_expires_if_it_is_short_or_being_walked() {
    let start = Instant::now();
    let wants = |pages, walked, took, age| {
        let mut listing = Listing::default();
        let epoch = listing.begin();
        listing.apply(epoch, start, pages, false, listed(&["a"]));
        listing.freshness.took = Duration::from_millis(took);
        listing
            .freshness
            .wants_refreshing(TTL, walked, start + Duration::from_millis(age))
    };
    for (pages, walked, took, age, expected) in [
        (1, false, 20, 959, false),
        (1, false, 20, 961, true),
        (1, false, 20, 1001, false),
        // Not all the time, however slow the bucket is.
        (1, false, 900, 749, false),
        (1, false, 900, 751, true),
        (2, false, 20, 961, false),
        (2, true, 20, 959, false),
        (2, true, 20, 961, true),
        (9, true, 240, 751, true),
        (9, true, 260, 751, false),
    ] {
        let case = (pages, walked, took, age);
        assert_eq!(wants(pages, walked, took, age), expected, "{case:?}");
    }
    assert!(
        !Listing::default()
            .freshness
            .wants_refreshing(TTL, true, start)
    );
}

#[test]
fn a_directory_whose_first_page_was_not_all_is_listed_whole_when_that_is_the_better_bargain() {
    let start = Instant::now();
    let mut listing = Listing::default();
    assert!(listing.freshness.is_one_page());
    let epoch = listing.begin();
    listing.apply_some(epoch, start, listed(&["a"]));
    assert!(!listing.freshness.is_one_page());
    let asked = (1..).find(|_| listing.freshness.should_list_again(TTL));
    assert_eq!(asked, Some(5));
    // It would have expired before it could be used.
    listing.freshness.took = TTL.objects;
    assert!(!(1..100).any(|_| listing.freshness.should_list_again(TTL)));
}

/// Of so many names, `00000` and on, requested at `sent`.
fn many(count: usize, sent: Instant) -> Listing {
    let names: Vec<_> = (0..count).map(|i| format!("{i:05}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut listing = Listing::default();
    let epoch = listing.begin();
    listing.apply(epoch, sent, 2, false, listed(&names));
    listing
}

#[test]
fn a_traversal_that_began_on_a_listing_may_end_on_it_with_one_look_at_each_name() {
    let ms = Duration::from_millis;
    let start = Instant::now();
    let late = start + ms(5000);
    fn present(answer: CachedEntry<'_>) -> bool {
        matches!(answer, CachedEntry::Hit(..))
    }
    let traversed = |count: usize, began: Instant, until: Instant| {
        let mut listing = many(count, start);
        listing.freshness.begin_traversal(began);
        let mut now = began;
        while now < until {
            listing.freshness.continue_traversal(TTL.objects, now);
            now += ms(500);
        }
        listing
    };
    let mut listing = traversed(10_000, start + ms(900), late);
    assert!(!present(listing.lookup("00001", TTL, late)), "not for all");
    assert!(present(listing.lookup_traversing("00001", TTL, late)));
    // lstat, and then getxattr.
    assert!(present(listing.lookup_traversing(
        "00001",
        TTL,
        late + ms(900)
    )));
    assert!(!present(listing.lookup_traversing(
        "00001",
        TTL,
        late + ms(1100)
    )));
    assert!(present(listing.lookup_traversing(
        "00002",
        TTL,
        late + ms(1100)
    )));
    // At most a millisecond for each name.
    assert!(!present(listing.lookup_traversing(
        "00003",
        TTL,
        start + ms(9999)
    )));
    let mut listing = traversed(10_000, start, start + ms(9999));
    assert!(present(listing.lookup_traversing(
        "00003",
        TTL,
        start + ms(9999)
    )));
    assert!(!present(listing.lookup_traversing(
        "00004",
        TTL,
        start + ms(10_001)
    )));
    // A name that was looked up before the traversal has no part in it; one that is polled is seen to change.
    let mut listing = traversed(10_000, start, start + ms(500));
    assert!(present(listing.lookup_traversing(
        "00005",
        TTL,
        start + ms(500)
    )));
    let mut at = start + ms(500);
    while at < late {
        at += ms(100);
        listing.freshness.continue_traversal(TTL.objects, at);
        let fresh_or_first = at <= start + ms(1500);
        let answer = listing.lookup_traversing("00005", TTL, at);
        assert_eq!(present(answer), fresh_or_first, "{:?}", at - start);
    }
    // One page is renewed with one request; what was listed long before says nothing.
    let mut listing = traversed(1000, start, late);
    assert!(!present(listing.lookup_traversing("00001", TTL, late)));
    let mut listing = traversed(10_000, start + ms(2000), late);
    assert!(!present(listing.lookup_traversing("00001", TTL, late)));
    // The directory is not read on.
    let mut listing = traversed(10_000, start, start + ms(500));
    assert!(!present(listing.lookup_traversing("00001", TTL, late)));
}

#[test]
fn what_was_known_last_is_kept_when_there_is_room_for_some() {
    let start = Instant::now();
    let mut listing = many(100, start);
    for (i, name_of) in (40..50).map(|i| (i, format!("{i:05}"))) {
        let epoch = listing.begin();
        let at = start + Duration::from_millis(i);
        listing.apply_name(epoch, at, &name(&name_of), Some(object("new", 1)));
    }
    assert_eq!(listing.weight(), 100 * BYTES_PER_ENTRY);
    listing.trim(5, |name| name == "00007");
    let kept: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
    let expected = ["00007", "00045", "00046", "00047", "00048", "00049"];
    assert_eq!(kept, expected);
    // What is not kept is not known; what is counts as long as before.
    assert!(matches!(
        listing.lookup("00001", TTL, start),
        CachedEntry::Miss
    ));
    assert!(matches!(
        listing.lookup("00007", TTL, start),
        CachedEntry::Hit(..)
    ));
    listing.trim(0, |_| false);
    assert!(listing.is_bare());
}

#[test]
fn names_that_are_asked_for_in_ascending_order_are_seen_to_be() {
    let mut listing = Listing::default();
    let asked = ["b", "a", "c", "d", "e", "f", "e", "f"];
    let in_order = asked.map(|text| listing.record_request(&name(text)));
    assert_eq!(
        in_order,
        [false, false, false, false, true, true, false, false]
    );
}

/// Where memory was short, an answer was dropped before the call that requested it had read it, and so on until EBUSY.
#[test]
fn an_answer_outlives_a_want_of_memory_until_it_is_looked_at() {
    let start = Instant::now();
    let none = Ttl {
        objects: Duration::ZERO,
        directories: Duration::ZERO,
    };
    for took in [Duration::ZERO, Duration::from_secs(5)] {
        let mut listing = Listing::default();
        let epoch = listing.begin();
        listing.freshness.took = took;
        listing.apply(epoch, start, 1, false, listed(&["a"]));
        let answered = start + took;
        assert!(!listing.drop_expired(none, answered, |_| false));
        assert!(matches!(
            listing.lookup("a", none, start),
            CachedEntry::Hit(..)
        ));
        let later = answered + 2 * LOOKED_AT;
        let epoch = listing.begin();
        listing.apply_name(epoch, later, &name("b"), None);
        assert!(listing.drop_expired(none, later, |_| false));
        assert!(matches!(
            listing.lookup("b", none, later),
            CachedEntry::Negative(_)
        ));
        assert!(matches!(
            listing.lookup("a", none, start),
            CachedEntry::Miss
        ));
    }
}

#[test]
fn a_name_that_is_listed_twice_is_a_directory() {
    let start = Instant::now();
    let mut listing = Listing::default();
    let epoch = listing.begin();
    let whole = vec![
        (name("a"), object("t", 1)),
        (name("b"), object("t", 1)),
        (name("a"), Entry::Directory),
    ];
    listing.apply(epoch, start, 2, false, whole);
    assert!(matches!(listing.last_known("a"), Some(Entry::Directory)));
    assert_eq!(listing.len(), 2);
}

#[test]
fn directories_outlive_objects() {
    let start = Instant::now();
    let mut listing = Listing::default();
    let epoch = listing.begin();
    let whole = vec![(name("d"), Entry::Directory)];
    listing.apply(epoch, start, 1, false, whole);
    let later = start + Duration::from_secs(59);
    assert!(matches!(
        listing.lookup("d", TTL, later),
        CachedEntry::Hit(Entry::Directory, _)
    ));
}

#[test]
fn an_answer_from_before_our_change_does_not_undo_it() {
    let start = Instant::now();
    let mut listing = Listing::default();
    let epoch = listing.begin();
    listing.put(&name("made"), object("new", 2), start);
    listing.remove(&name("gone"), start);
    let made = listing.apply(epoch, start, 1, false, listed(&["gone", "other"]));
    assert_eq!(made, [name("made")]);
    let names: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["made", "other"]);

    let epoch = listing.begin();
    listing.put(&name("made"), object("newer", 3), start);
    assert!(!listing.apply_name(epoch, start, &name("made"), None));
    let epoch = listing.begin();
    assert!(listing.apply_name(epoch, start, &name("made"), None));
}

#[test]
fn a_name_keeps_what_is_known_of_it_while_it_is_changed() {
    // The DELETE of a rename had taken effect, and its answer was still on the way: a HEAD found nothing,
    // and the inode that was being renamed lost its name.
    let start = Instant::now();
    let later = start + Duration::from_secs(2);
    let mut listing = Listing::default();
    let epoch = listing.begin();
    listing.apply(epoch, start, 1, false, listed(&["a", "b"]));
    listing.begin_change(&name("a"));
    let (before, whole) = (listing.begin(), listing.begin());
    assert!(!listing.apply_name(before, later, &name("a"), None));
    listing.apply(whole, later, 1, false, listed(&["b"]));
    let much_later = later + Duration::from_secs(5);
    assert!(matches!(
        listing.lookup("a", TTL, much_later),
        CachedEntry::Hit(Entry::Object(_), _)
    ));
    let during = listing.begin();
    listing.remove(&name("a"), later);
    listing.end_change(&name("a"));
    let stale = listing.apply_name(during, later, &name("a"), Some(object("a", 1)));
    assert!(!stale, "it was asked for before the end");
    assert!(matches!(
        listing.lookup("a", TTL, later),
        CachedEntry::Negative(_)
    ));
    let epoch = listing.begin();
    assert!(listing.apply_name(epoch, later, &name("a"), Some(object("a", 2))));
}

#[test]
fn an_answer_for_a_listing_that_was_forgotten_is_not_taken_for_its_successor() {
    // A directory was forgotten while it was listed, and looked up again: the counter of requests under
    // way fell below zero, and numbers of changes were compared across listings.
    let start = Instant::now();
    let mut before = Listing::default();
    let epochs: Vec<_> = (0..5).map(|_| before.begin()).collect();
    let mut listing = Listing::of_new_directory(&Listing::default(), start);
    listing.put(&name("made"), object("new", 2), start);
    listing.apply(epochs[0], start, 1, false, listed(&["ghost"]));
    listing.apply_some(epochs[1], start, listed(&["ghost"]));
    assert!(!listing.apply_name(epochs[2], start, &name("made"), None));
    listing.give_up(epochs[3]);
    let names: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["made"]);
    let epoch = listing.begin();
    assert!(listing.apply_name(epoch, start, &name("made"), None));
}

#[test]
fn attributes_are_carried_over_only_when_nothing_can_have_hidden() {
    for (ours, settled, listed_time, listed_tag, carried) in [
        (false, true, 10, "t", true),
        (false, false, 10, "t", false),
        (false, true, 11, "t", false),
        (false, true, 10, "u", false),
        (true, false, 9, "t", true),
        (true, false, 10, "t", true),
        (true, false, 11, "t", false),
    ] {
        let now = Instant::now();
        let mut listing = Listing::default();
        let known = CachedAttributes {
            attributes: Attributes::implicit_directory(crate::files::attributes::Timestamp {
                seconds: 0,
                nanos: 0,
            }),
            revalidatable: settled,
            xattrs: false,
        };
        let entry = Entry::Object(Object {
            size: 1,
            etag: ETag::new("t"),
            last_modified: 10,
            uploaded_here: ours,
            known: Some(Arc::new(known)),
        });
        listing.put(&name("a"), entry, now);
        let epoch = listing.begin();
        let whole = vec![(name("a"), object(listed_tag, listed_time))];
        listing.apply(epoch, now, 1, false, whole);
        let Some(Entry::Object(object)) = listing.last_known("a") else {
            panic!("the name is listed");
        };
        assert_eq!(object.known.is_some(), carried);
    }
}
