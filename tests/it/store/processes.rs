//! A folder that several processes have open. The other process is this program again, running one of the ignored
//! tests below; it reports on its standard output.

use std::collections::BTreeMap;

use ossvault::store::error::Error;
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;

use super::{headers, key, names, open, put, read};

const RACES: usize = 40;

/// Starts the other process on the bucket, with this test (`processes::...`); its reports come line by line.
pub(super) fn another_process(
    folder: &std::path::Path,
    test: &str,
) -> (std::process::Child, impl Iterator<Item = String> + use<>) {
    use std::io::BufRead;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            &format!("store::{test}"),
        ])
        .env("OSSVAULT_TEST_BUCKET", folder)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let lines = out.lines().map_while(std::result::Result::ok);
    (
        child,
        lines.filter_map(|line| line.strip_prefix('@').map(str::to_string)),
    )
}

/// The other process of the tests below: puts objects and says so, until it is killed.
#[tokio::test]
#[ignore = "a part of other tests"]
async fn another_process_writes() {
    use std::io::Write;
    let Some(folder) = std::env::var_os("OSSVAULT_TEST_BUCKET") else {
        return;
    };
    let store = LocalStore::open(folder.as_ref(), Settings { sync: true }).unwrap();
    let say = |text: &str| {
        let mut out = std::io::stdout();
        // In front of it the test harness writes the test's name.
        writeln!(out, "\n@{text}").unwrap();
        out.flush().unwrap();
    };
    for n in 0..100_000 {
        let name = format!("child/{n:05}");
        put(&store, &name, name.clone()).await;
        say(&name);
        if n < RACES {
            let body = Body::from_bytes("child");
            let name = key(&format!("race/{n:05}"));
            match (store.put(&name, &headers(&[]), body, Overwrite::Forbidden)).await {
                Ok(_) => say(&format!("won/{n:05}")),
                Err(Error::AlreadyExists) => say(&format!("lost/{n:05}")),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// What a process has acknowledged is there after it was killed, at whatever moment, and whole; others go on
/// without waiting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_loses_nothing_it_has_acknowledged() {
    for after in [1, 7, 30, 61] {
        let folder = tempfile::tempdir().unwrap();
        let bucket = folder.path().join("bucket");
        let store = open(&folder, true);
        let (mut child, said) = another_process(&bucket, "processes::another_process_writes");
        let mut said = said.filter(|name| name.starts_with("child/"));
        let mut stored: Vec<String> = said.by_ref().take(after).collect();
        assert_eq!(stored.len(), after);
        child.kill().unwrap();
        child.wait().unwrap();
        stored.extend(said);
        put(&store, "after", "after").await;
        for store in [store, open(&folder, true)] {
            let left = names(&store, "child/").await;
            assert!(left.starts_with(&stored), "{stored:?} {left:?}");
            assert!(left.len() <= stored.len() + 1, "{stored:?} {left:?}");
            for name in left {
                assert_eq!(read(&store, &name).await, name.as_bytes());
            }
            assert_eq!(read(&store, "after").await, b"after");
        }
    }
}

/// Each sees at once what the other has done, and of two that make one object one wins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let store = open(&folder, true);
    let (mut child, said) = another_process(&bucket, "processes::another_process_writes");
    let mut won = BTreeMap::new();
    for n in (0..RACES).rev() {
        let body = Body::from_bytes("parent");
        let name = format!("race/{n:05}");
        let put = store
            .put(&key(&name), &headers(&[]), body, Overwrite::Forbidden)
            .await;
        match put {
            Ok(_) => drop(won.insert(n, "parent")),
            Err(Error::AlreadyExists) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let mut seen = 0;
    for said in said {
        let (what, number) = said.split_once('/').unwrap();
        let number: usize = number.parse().unwrap();
        match what {
            "child" => assert_eq!(read(&store, &said).await, said.as_bytes()),
            "won" => assert_eq!(won.insert(number, "child"), None),
            _ => assert_eq!(won.get(&number), Some(&"parent")),
        }
        seen += usize::from(what != "child");
        if seen == RACES {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(won.len(), RACES);
    for (number, winner) in won {
        let content = read(&store, &format!("race/{number:05}")).await;
        assert_eq!(content, winner.as_bytes(), "{number}");
    }
}
