//! The file system, in rooms: each may call those below it, and none above.
//!
//! ```text
//! ops/         what the kernel calls, one family of calls a file, over one Filesystem
//! writeback/   Writeback: what has changed gets into the bucket, contents and attributes
//! handles/     OpenFiles: what is open, between the bucket and the programs that have it open
//! resolver/    Resolver: names and attributes, from memory or from the bucket; ObjectCache, Objects, Markers below it
//! namespace/   Names: what is known of names and inodes, in memory only, and the right to change them
//! data/        bytes and their memory: contents on their way in, staged changes on their way out
//! ```
//!
//! Under all of them: [`error`], [`settings`], and what the whole mount has once (`instance`,
//! `background`, `supervisor`, `usage`). A component's fields are its room's; another room calls its methods. Where an upper
//! room has to be told something, the lower one returns it.
//!
//! - A lookup: `ops/lookup` asks the [`Resolver`](resolver::requests::Resolver), which answers from
//!   [`Names`](namespace::names::Names) or asks the bucket (`revalidate`, `directory_scan`).
//! - A read: `ops/read` finds the handle in [`OpenFiles`](handles::open_files::OpenFiles), and reads what is staged
//!   (`data/staging`) or the content of the version that is open (`data/content`).
//! - A write goes into staging (`ops/write`, `handles/staging_ops`), and is counted and shown (`writeback/changes`). Its
//!   flush waits for [`Writeback`](writeback::publish::Writeback): `publish` decides when, `upload` does it.
//! - A rename (`ops/rename`) copies with [`Objects`](resolver::objects::Objects), moves the names, and leaves what is
//!   still to be deleted to `deferred_delete`.
//!
//! Locks, in the order in which they are taken: the table of open files, an open file's state, the name tree, all
//! others. None is held across an await.

mod background;
pub mod data;
pub mod error;
pub mod handles;
pub(crate) mod instance;
pub mod namespace;
pub mod ops;
mod resolver;
pub mod settings;
mod supervisor;
pub(crate) mod usage;
pub mod writeback;

pub use ops::filesystem;
