//! Names while the bucket is slow, hangs or refuses requests, and the kernel keeps forgetting inodes: a name
//! is reported absent only if the bucket said so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ossvault::fs::error::Error;
use ossvault::fs::filesystem::Filesystem;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;

use super::other_writers::{WRITE, block, mounted, mounted_with};
use super::world::{CALLER, FsResult, Kernel, Mood};

const CALLERS: usize = 8;

/// The repeated work of one caller: each step must find what exists, or fail with the real error.
async fn round(fs: &Arc<Filesystem>, own: &mut [String; 2], step: usize) -> FsResult<()> {
    let kernel = Kernel::new(fs.clone());
    let result = async {
        match step % 5 {
            0 => drop(kernel.walk("d/e/f").await?),
            1 => {
                let ino = kernel.walk("d/e").await?;
                kernel.fs.getattr(ino).await?;
            }
            2 => {
                let ino = kernel.walk("d").await?;
                let handle = fs.opendir(ino).await?;
                let entries = fs.readdir(handle, 2, 100, step.is_multiple_of(2)).await;
                if let Ok(entries) = &entries {
                    fs.entries_were_offered(entries);
                    assert!(entries.iter().any(|entry| &*entry.name == "e"), "listed");
                }
                fs.releasedir(handle);
                entries?;
            }
            // open(O_CREAT) of an existing name.
            3 => {
                let parent = kernel.walk("d/e").await?;
                let (looks, opened) = fs
                    .create(parent, &Name::from("f"), 0o644, CALLER, WRITE)
                    .await?;
                fs.release_now(opened.handle);
                fs.forget(looks.ino, 1);
            }
            _ => {
                let parent = kernel.walk("d/e").await?;
                let [from, to] = [&own[0], &own[1]].map(|name| (parent, Name::from(&**name)));
                fs.rename(from, to, true).await?;
                own.swap(0, 1);
            }
        }
        Ok(())
    };
    let result = result.await;
    kernel.forget_all();
    result
}

/// Lets callers run for a while, and returns the results that cannot be true.
async fn told_wrongly(fs: &Arc<Filesystem>, mood: Mood, lasts: Duration) -> Vec<String> {
    let callers = (0..CALLERS).map(|caller| {
        let fs = fs.clone();
        tokio::spawn(async move {
            let mut own = [format!("{caller}-one"), format!("{caller}-two")];
            let mut wrong = Vec::new();
            let end = Instant::now() + lasts;
            let mut step = caller;
            while Instant::now() < end {
                step += 1;
                let mut result = round(&fs, &mut own, step).await;
                if matches!(result, Err(Error::Stale)) {
                    // The kernel resolves the path again.
                    result = round(&fs, &mut own, step).await;
                }
                let fits = match &result {
                    Ok(()) => true,
                    Err(Error::Refused(..)) => mood == Mood::Refusing,
                    Err(Error::TimedOut(_)) => matches!(mood, Mood::Hanging(_)),
                    Err(_) => false,
                };
                if !fits {
                    wrong.push(format!("step {}: {:?}", step % 5, result));
                }
            }
            // For the next caller, which expects the first name.
            if own[0].ends_with("two") {
                own.swap(0, 1);
                let kernel = Kernel::new(fs.clone());
                kernel
                    .rename(&format!("d/e/{}", own[1]), &format!("d/e/{}", own[0]))
                    .await
                    .ok();
                kernel.forget_all();
            }
            wrong
        })
    });
    let mut wrong = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        wrong.extend(caller.await.unwrap());
    }
    wrong
}

/// ENOENT is returned only if the bucket reported that the name does not exist, or this mount deleted it;
/// never because of an error, a timeout, or an evicted cache entry.
///
/// Regression: an inode that was forgotten while a request about it was in flight looked like a name that
/// does not exist.
#[test]
fn existing_names_are_never_absent_whatever_the_bucket_does_and_the_kernel_forgets() {
    let moods = [
        Mood::Slow(Duration::from_millis(3)),
        Mood::Refusing,
        Mood::Hanging(Duration::from_millis(20)),
    ];
    for ttl in [Duration::ZERO, Duration::from_millis(20)] {
        for mood in moods {
            block(async {
                let (world, kernel) = mounted_with(|world| {
                    world.settings.metadata_ttl = ttl;
                    world.settings.dir_ttl = ttl;
                })
                .await;
                world.others.put("d/e/f", b"content").await;
                for caller in 0..CALLERS {
                    world.others.put(&format!("d/e/{caller}-one"), b"own").await;
                }
                let fs = &kernel.fs;
                let lasts = Duration::from_millis(600);
                // First a healthy bucket, because something must be cached before it can be evicted.
                assert_eq!(told_wrongly(fs, Mood::Well, lasts / 4).await, [""; 0]);
                world.weather.set_mood(mood);
                assert_eq!(told_wrongly(fs, mood, lasts).await, [""; 0], "{mood:?}");
                world.weather.set_mood(Mood::Well);
                assert!(kernel.settle(0, Duration::from_secs(20)).await);
            });
        }
    }
}

/// Regression: each step of a lookup, and each place in a queue, had the full timeout for itself.
#[test]
fn a_lookup_ends_within_its_callers_timeout_however_many_steps_it_takes() {
    block(async {
        let timeout = Duration::from_millis(700);
        let (world, kernel) = mounted_with(|world| world.settings.timeout = timeout).await;
        world.others.put("d/e/f", b"content").await;
        let d = kernel.walk("d").await.unwrap();
        // Each request is just in time; together they are not.
        world.weather.set_mood(Mood::Slow(timeout * 4 / 5));
        let begin = Instant::now();
        let found = kernel.lookup(d, "e").await;
        let took = begin.elapsed();
        assert!(matches!(found, Err(Error::TimedOut(_))), "{found:?}");
        assert!(took >= timeout && took < timeout + timeout / 2, "{took:?}");
        world.weather.set_mood(Mood::Well);
        kernel.look("d/e/f").await;
    });
}

/// A directory that contains only such keys exists, looks empty, and cannot be removed.
///
/// Regression: its parent listed it, but a lookup did not find it.
#[test]
fn a_directory_with_only_hidden_keys_exists_and_is_not_empty_for_rmdir() {
    block(async {
        let (world, kernel) = mounted().await;
        for key in ["t/double//x", "t/dot/./x", "t/plain/x"] {
            world.others.put(key, b"x").await;
        }
        let t = kernel.walk("t").await.unwrap();
        for _ in 0..2 {
            assert_eq!(names(&kernel, t).await, ["dot", "double", "plain"]);
            for name in ["dot", "double"] {
                let path = format!("t/{name}");
                let ino = kernel.look(&path).await.ino;
                assert_eq!(names(&kernel, ino).await, [""; 0], "{name}");
                assert_eq!(kernel.look(&path).await.ino, ino);
                kernel.fs.getattr(ino).await.unwrap();
                let removed = kernel.fs.rmdir(t, &Name::from(name)).await;
                assert!(matches!(removed, Err(Error::NotEmpty)), "{removed:?}");
            }
        }
        assert!(world.others.get("t/double//x").await.is_some());
    });
}

async fn names(kernel: &Kernel, directory: Ino) -> Vec<String> {
    let handle = kernel.fs.opendir(directory).await.unwrap();
    let entries = kernel.fs.readdir(handle, 2, 100, false).await.unwrap();
    kernel.fs.releasedir(handle);
    entries.iter().map(|entry| entry.name.to_string()).collect()
}
