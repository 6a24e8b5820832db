//! Directories that are in use together are listed together, and the visible result is the same.

use std::time::Duration;

use super::other_writers::{WRITE, block, mounted_with};
use super::world::{Call, Kernel, World};

const TTL: Duration = Duration::from_millis(300);

/// Directories below each other and side by side, with a file in each, all of them visited.
async fn a_tree() -> (World, Kernel) {
    let (world, kernel) = mounted_with(|world| world.settings.metadata_ttl = TTL).await;
    for directory in DIRECTORIES {
        kernel.mkdir(directory).await;
        kernel.save(&format!("{directory}/f"), b"here").await;
    }
    world.weather.advance(3);
    expire().await;
    look_everywhere(&kernel).await;
    expire().await;
    world.weather.take_calls();
    (world, kernel)
}

const DIRECTORIES: [&str; 6] = ["t", "t/a", "t/a/b", "t/a/b/c", "t/d", "t/e"];

async fn expire() {
    tokio::time::sleep(TTL + Duration::from_millis(5)).await;
}

async fn look_everywhere(kernel: &Kernel) {
    for directory in DIRECTORIES {
        let file = format!("{directory}/f");
        assert_eq!(kernel.look(&file).await.size, 4, "{file}");
        assert!(kernel.find(&format!("{directory}/none")).await.is_none());
    }
}

#[test]
fn one_list_revalidates_an_expired_small_tree() {
    block(async {
        let (world, kernel) = a_tree().await;
        // For a directory that this mount created, the marker is requested once more.
        for _ in 0..2 {
            look_everywhere(&kernel).await;
            expire().await;
        }
        world.weather.take_calls();
        look_everywhere(&kernel).await;
        let calls = world.weather.take_calls();
        assert_eq!(calls.get(&Call::List), Some(&1), "{calls:?}");
        assert_eq!(calls.values().sum::<u32>(), 1, "{calls:?}");
    });
}

#[test]
fn changes_by_others_anywhere_in_a_small_tree_are_seen() {
    block(async {
        let (world, kernel) = a_tree().await;
        world.others.put("t/a/b/c/new", b"made").await;
        world.others.put("t/a/f", b"longer than it was").await;
        world.others.put("t/d/deep/er/g", b"made").await;
        world.others.delete("t/e/f").await;
        world.others.delete("t/e/").await;
        expire().await;
        assert_eq!(kernel.look("t/f").await.size, 4);
        assert_eq!(kernel.load("t/a/b/c/new").await, b"made");
        assert_eq!(kernel.load("t/a/f").await, b"longer than it was");
        assert_eq!(kernel.load("t/d/deep/er/g").await, b"made");
        assert!(kernel.find("t/e").await.is_none());
    });
}

#[test]
fn a_tree_that_others_have_made_large_is_listed_directory_by_directory() {
    block(async {
        let (world, kernel) = a_tree().await;
        for i in 0..1100 {
            world
                .others
                .put_plain(&format!("t/a/many/{i:04}"), "x")
                .await;
        }
        expire().await;
        look_everywhere(&kernel).await;
        assert!(kernel.find("t/a/many/1099").await.is_some());
        assert!(kernel.find("t/a/many/1100").await.is_none());
        assert_eq!(world.others.get("t/e/f").await.unwrap(), b"here");
    });
}

#[test]
fn local_changes_during_the_listing_of_a_tree_are_kept() {
    block(async {
        let (world, kernel) = a_tree().await;
        let handle = kernel.open("t/e/f", WRITE).await;
        expire().await;
        let held = world.weather.hold_answers(Call::List);
        let changing = async {
            world.weather.until_held(1).await;
            kernel.write(handle, 0, b"longer").await.unwrap();
            kernel.close(handle).await.unwrap();
            drop(held);
        };
        let (found, ()) = tokio::join!(kernel.find("t/a/f"), changing);
        assert_eq!(found.unwrap().size, 4);
        assert_eq!(kernel.look("t/e/f").await.size, 6);
    });
}

#[test]
fn a_directory_in_an_expired_tree_is_renamed_and_found() {
    block(async {
        let (_world, kernel) = a_tree().await;
        kernel.rename("t/a/b", "t/d/moved").await.unwrap();
        expire().await;
        assert_eq!(kernel.load("t/d/moved/c/f").await, b"here");
        assert!(kernel.find("t/a/b").await.is_none());
        expire().await;
        kernel.rename("t/d/moved", "t/a/b").await.unwrap();
        expire().await;
        look_everywhere(&kernel).await;
    });
}
