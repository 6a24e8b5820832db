//! The commands that need no mount: `ls`, `cat`, `du` and `find` look; `put`, `get`, `sync`, `cp`, `mv` and `rm` change.

pub mod cat;
pub mod copy_commands;
mod copying;
mod filters;
pub mod listing;
mod location;
mod report;
pub mod rm;
mod session;
