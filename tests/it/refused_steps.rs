//! Refuses each request of each operation in turn, and checks that the table in docs/architecture.md says
//! what is left.

use std::collections::BTreeMap;

use ossvault::files::attributes::{Change, Kind, Timestamp};
use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::OpenHow;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::ops::copy_range::Place;
use ossvault::fs::ops::xattr::SetXattr;

use super::other_writers::{READ, WRITE, block};
use super::world::{CALLER, Call, FsResult, Kernel, Refusal, World};

/// A row of the table.
struct Step {
    operation: &'static str,
    /// PUT, COPY or DELETE.
    request: &'static str,
    left: &'static str,
}

fn table() -> Vec<Step> {
    let document = include_str!("../../docs/architecture.md");
    let lines = document.lines().filter(|line| line.starts_with("| "));
    lines
        .skip_while(|line| !line.starts_with("| operation |"))
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [operation, step, left] = cells[..] else {
                panic!("{line}");
            };
            let request = step.split(' ').next().unwrap();
            Step {
                operation,
                request,
                left,
            }
        })
        .collect()
}

/// Every name that can exist.
const NAMES: [&str; 16] = [
    "f", "g", "h", "n", "link", "d", "d/a", "d/b", "e", "e/a", "e/b", "i", "i/x", "j", "j/x", "m",
];

async fn prepared() -> (World, Kernel) {
    let world = World::new();
    let kernel = Kernel::new(world.mount().await);
    for (name, mode) in [("d", 0o750), ("e", 0o705)] {
        let name = Name::from(name);
        let made = kernel.fs.mkdir(Ino::ROOT, &name, mode, CALLER).await;
        kernel.entered(&made.unwrap());
    }
    kernel.forget_all();
    for (key, content) in [
        ("f", "the content of f"),
        ("g", "g"),
        ("d/a", "d/a"),
        ("d/b", "d/b"),
        ("i/x", "i/x"),
    ] {
        world.others.put(key, content.as_bytes()).await;
    }
    let kernel = Kernel::new(world.mount().await);
    let ino = kernel.walk("f").await.unwrap();
    let set = kernel.fs.setxattr(ino, "user.a", b"value", SetXattr::New);
    set.await.unwrap();
    world.weather.advance(10);
    kernel.forget_all();
    drop(kernel);
    // Its caches are empty.
    let kernel = Kernel::new(world.mount().await);
    (world, kernel)
}

/// What a mount shows for every name.
async fn shown(kernel: &Kernel) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for path in NAMES {
        let Ok((parent, name)) = kernel.parent(path).await else {
            continue;
        };
        let Some(looks) = kernel.lookup(parent, name).await.unwrap() else {
            continue;
        };
        let content = match looks.kind {
            Kind::File => kernel.load(path).await,
            Kind::Symlink => kernel.fs.readlink(looks.ino).await.unwrap().to_vec(),
            _ => Vec::new(),
        };
        let xattrs = kernel.fs.listxattr(looks.ino).await.unwrap();
        // The other times are those of the tests.
        let time = matches!(looks.mtime.seconds, 1000 | 1_700_000_000).then_some(looks.mtime);
        let text = format!(
            "{:?} {:o} {}:{} {time:?} {} {}",
            looks.kind,
            looks.mode,
            looks.uid,
            looks.gid,
            content.escape_ascii(),
            xattrs.escape_ascii()
        );
        found.insert(path, text);
    }
    found
}

/// The contents of the bucket, except for the mount's own objects.
async fn stored(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for key in world.others.keys().await {
        if !key.starts_with(".ossvault/") {
            let content = world.others.get(&key).await.unwrap();
            found.insert(key, content);
        }
    }
    found
}

fn name(text: &str) -> Name {
    Name::from(text)
}

async fn close_after<T>(kernel: &Kernel, handle: u64, result: FsResult<T>) -> FsResult<()> {
    let closed = kernel.close(handle).await;
    result.and(closed)
}

async fn set(kernel: &Kernel, path: &str, size: Option<u64>, change: Change) -> FsResult<()> {
    let ino = kernel.walk(path).await?;
    kernel.fs.setattr(ino, size, change).await.map(drop)
}

fn mode(mode: u32) -> Change {
    Change {
        mode: Some(mode),
        ..Change::default()
    }
}

async fn make(kernel: &Kernel, path: &str) -> FsResult<u64> {
    let made = kernel
        .fs
        .create(Ino::ROOT, &name(path), 0o644, CALLER, WRITE)
        .await?;
    kernel.entered(&made.0);
    Ok(made.1.handle)
}

async fn act(kernel: &Kernel, operation: &str) -> FsResult<()> {
    let fs = &kernel.fs;
    match operation {
        "mkdir" => fs
            .mkdir(Ino::ROOT, &name("n"), 0o755, CALLER)
            .await
            .map(drop),
        "symlink" => fs
            .symlink(Ino::ROOT, &name("n"), b"f", CALLER)
            .await
            .map(drop),
        "mknod" => {
            let fifo = libc::S_IFIFO | 0o600;
            fs.mknod(Ino::ROOT, &name("n"), fifo, 0, CALLER)
                .await
                .map(drop)
        }
        "create, close" => {
            let handle = make(kernel, "n").await?;
            kernel.close(handle).await
        }
        "create, write, close" => {
            let handle = make(kernel, "n").await?;
            let written = kernel.write(handle, 0, b"content").await;
            close_after(kernel, handle, written).await
        }
        "replace content, close" => {
            let truncate = OpenHow {
                truncate: true,
                ..WRITE
            };
            let ino = kernel.walk("f").await?;
            let handle = fs.open(ino, truncate).await?.handle;
            let written = kernel.write(handle, 0, b"another content").await;
            close_after(kernel, handle, written).await
        }
        "truncate by name" => set(kernel, "f", Some(3), Change::default()).await,
        "fallocate, close" => {
            let ino = kernel.walk("f").await?;
            let handle = fs.open(ino, WRITE).await?.handle;
            let allocated = fs.allocate(handle, 0, 100).await;
            close_after(kernel, handle, allocated).await
        }
        "chmod" => set(kernel, "f", None, mode(0o600)).await,
        "chmod of a directory" => set(kernel, "d", None, mode(0o700)).await,
        "chmod of a directory without a marker" => set(kernel, "i", None, mode(0o700)).await,
        "chown" => {
            let change = Change {
                uid: Some(7),
                gid: Some(8),
                ..Change::default()
            };
            set(kernel, "f", None, change).await
        }
        "utimens" => {
            let time = Timestamp {
                seconds: 1000,
                nanos: 0,
            };
            let change = Change {
                mtime: Some(time),
                atime: Some(time),
                ..Change::default()
            };
            set(kernel, "f", None, change).await
        }
        "setxattr" => {
            let ino = kernel.walk("f").await?;
            fs.setxattr(ino, "user.b", b"x", SetXattr::New).await
        }
        "removexattr" => {
            let ino = kernel.walk("f").await?;
            fs.removexattr(ino, "user.a").await
        }
        "setxattr of a directory" => {
            let ino = kernel.walk("d").await?;
            fs.setxattr(ino, "user.b", b"x", SetXattr::New).await
        }
        "copy_file_range, close" => {
            let source = kernel.open("f", READ).await;
            let handle = make(kernel, "n").await?;
            let (from, to) = [source, handle]
                .map(|handle| Place { handle, offset: 0 })
                .into();
            let copied = fs.copy_range(from, to, 1 << 20).await;
            kernel.close(source).await?;
            close_after(kernel, handle, copied).await
        }
        "unlink" => kernel.unlink("f").await,
        "unlink of the last name in a directory without a marker" => kernel.unlink("i/x").await,
        "rmdir" => {
            kernel.walk("e").await?;
            fs.rmdir(Ino::ROOT, &name("e")).await
        }
        "rename of a file" => kernel.rename("f", "h").await,
        "rename of a file onto another" => kernel.rename("f", "g").await,
        "rename of the last name in a directory without a marker" => {
            kernel.rename("i/x", "h").await
        }
        "rename of a directory" => kernel.rename("d", "m").await,
        "rename of a directory onto an empty one" => kernel.rename("d", "e").await,
        "rename of a directory without a marker" => kernel.rename("i", "j").await,
        other => panic!("no such operation: {other}"),
    }
}

/// The result of an operation when nothing is refused.
async fn done(operation: &str) -> BTreeMap<String, Vec<u8>> {
    let (world, kernel) = prepared().await;
    act(&kernel, operation).await.unwrap();
    stored(&world).await
}

async fn check(step: &Step, index: u32) {
    let what = format!("{}, step {}", step.operation, index + 1);
    let (world, kernel) = prepared().await;
    let stays = step.left.starts_with("staged");
    let (before, bucket) = (shown(&kernel).await, stored(&world).await);
    kernel.forget_all();
    drop(kernel);
    let kernel = Kernel::new(world.mount().await);
    world.weather.take_calls();
    world.weather.refuse(Some(Refusal {
        only: None,
        after: index,
        // The upload of staged data is retried soon.
        times: if stays { u32::MAX } else { 1 },
    }));
    let result = act(&kernel, step.operation).await;
    let after = stored(&world).await;
    let refused = world.weather.last_refused();
    world.weather.refuse(None);
    let expected = match step.request {
        "PUT" => Call::Put,
        "COPY" => Call::Copy,
        "DELETE" => Call::Delete,
        other => panic!("{what}: no such request: {other}"),
    };
    // Data that is staged instead of a copy is uploaded, and that is refused as well.
    let instead = stays && expected == Call::Copy && refused == Some(Call::Put);
    assert!(instead || refused == Some(expected), "{what}: {refused:?}");
    if step.left.starts_with("the rename is done") {
        result.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(after, done(step.operation).await, "{what}");
    } else {
        assert!(result.is_err(), "{what}");
    }
    match step.left.split(':').next().unwrap() {
        "nothing" => {
            assert_eq!(after, bucket, "{what}");
            assert_eq!(shown(&kernel).await, before, "{what}");
        }
        "staged" => {
            assert_eq!(after, bucket, "{what}");
            let settled = kernel.settle(0, std::time::Duration::from_secs(20)).await;
            assert!(settled, "{what}: it goes up when it may");
            return;
        }
        "the marker" => {
            let mut expected = bucket.clone();
            expected.insert("i/".to_owned(), Vec::new());
            assert_eq!(after, expected, "{what}");
            assert_eq!(shown(&kernel).await, before, "{what}");
        }
        "the copy, in place of the replaced object" => {
            let mut expected = bucket.clone();
            expected.insert("g".to_owned(), bucket["f"].clone());
            assert_eq!(after, expected, "{what}");
        }
        other if other.starts_with("the rename is done") => {}
        other => panic!("{what}: {other}"),
    }
    // The next mount finds what this one shows, and resumes nothing.
    let here = shown(&kernel).await;
    kernel.forget_all();
    drop(kernel);
    let again = Kernel::new(world.mount().await);
    assert_eq!(shown(&again).await, here, "{what}, after a remount");
    assert_eq!(stored(&world).await, after, "{what}, after a remount");
}

#[test]
fn every_refused_step_leaves_what_the_table_says() {
    let table = table();
    assert!(table.len() > 40, "{}", table.len());
    let mut index = 0;
    for (at, step) in table.iter().enumerate() {
        block(check(step, index));
        let next = table.get(at + 1);
        index = match next.is_some_and(|next| next.operation == step.operation) {
            true => index + 1,
            false => {
                block(all_steps_are_listed(step.operation, index + 1));
                0
            }
        };
    }
}

/// The table contains every request that changes something.
async fn all_steps_are_listed(operation: &str, steps: u32) {
    let (world, kernel) = prepared().await;
    world.weather.take_calls();
    act(&kernel, operation).await.unwrap();
    let calls = world.weather.take_calls();
    let changes = calls.iter().filter(|(call, _)| call.changes());
    assert_eq!(
        changes.map(|(_, n)| n).sum::<u32>(),
        steps,
        "{operation}: {calls:?}"
    );
}

#[test]
fn the_table_covers_errors_that_programs_see() {
    block(async {
        let (world, kernel) = prepared().await;
        world.weather.refuse(Some(Refusal {
            only: Some(Call::Delete),
            after: 0,
            times: 1,
        }));
        let error = kernel.unlink("f").await.unwrap_err();
        assert!(matches!(error, Error::Refused(..)), "{error:?}");
    });
}
