//! Listings.

use ossvault::store::object_store::*;

use super::super::{Store, put};

pub(crate) async fn listings_are_in_byte_order_and_page(store: Store) {
    let all = [
        "a", "a!", "a/", "a/1", "a/2/3", "a/2/4", "a0", "b/1", "c", "ä/1", "文",
    ];
    for name in all {
        put(&*store, name, name.to_string()).await;
    }
    let list = async |prefix: &str, delimited: bool, start_after: Option<&str>, max_keys: u16| {
        let mut request = ListRequest {
            prefix: prefix.to_string(),
            delimited,
            start_after: start_after.map(str::to_string),
            token: None,
            max_keys,
        };
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = store.list(&request).await.unwrap();
            let count = page.objects.len() + page.prefixes.len();
            assert!(max_keys == 0 || count <= usize::from(max_keys));
            for object in page.objects {
                assert_eq!(object.size, object.key.len() as u64);
                objects.push(object.key);
            }
            prefixes.extend(page.prefixes);
            match page.next {
                Some(token) => {
                    assert!(count > 0, "a page that leads on has something on it");
                    request.token = Some(token);
                }
                None => return (objects, prefixes),
            }
        }
    };
    type Case<'a> = (&'a str, bool, Option<&'a str>, &'a [&'a str], &'a [&'a str]);
    let cases: &[Case] = &[
        ("", false, None, &all, &[]),
        (
            "",
            true,
            None,
            &["a", "a!", "a0", "c", "文"],
            &["a/", "b/", "ä/"],
        ),
        ("a/", true, None, &["a/", "a/1"], &["a/2/"]),
        ("a/", false, None, &["a/", "a/1", "a/2/3", "a/2/4"], &[]),
        ("a/", false, Some("a/1"), &["a/2/3", "a/2/4"], &[]),
        ("", false, Some("b/"), &["b/1", "c", "ä/1", "文"], &[]),
        ("a", true, None, &["a", "a!", "a0"], &["a/"]),
        ("zzz", true, None, &[], &[]),
    ];
    for (prefix, delimited, start_after, objects, prefixes) in cases {
        for max in [1, 2, 3, 1000, 0] {
            let listed = list(prefix, *delimited, *start_after, max).await;
            let case = format!("{prefix:?} {delimited} {start_after:?} {max}");
            assert_eq!(&listed.0, objects, "{case}");
            assert_eq!(&listed.1, prefixes, "{case}");
        }
    }
}
