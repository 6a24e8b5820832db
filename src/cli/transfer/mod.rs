//! The commands that need no mount: `ls`, `cat`, `du` and `find` look; `put`, `get`, `sync`, `cp`, `mv` and `rm` change.

pub(super) mod cat;
pub(super) mod copy_commands;
mod copying;
mod filters;
pub(super) mod listing;
mod location;
mod report;
pub(super) mod rm;
mod session;
