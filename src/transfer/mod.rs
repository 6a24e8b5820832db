//! Files between this machine and buckets, without a mount: with the same encryption, and as the same objects.
//!
//! - [`walk`] yields both kinds of trees in one order, after a [`filter`] whose rules are rsync's ([`pattern`]);
//! - [`join`] brings two walks together, [`compare`] tells whether two files are the same, and [`plan`] makes pieces of
//!   work of that, which `tools::bulk` runs in parallel, as those of rewrap, verify and adopt;
//! - [`up`], [`down`] and [`across`] transfer one file; [`content`] moves the bytes, in bounded memory;
//! - [`folder`] is the local side: everything is reached by descriptors, and no link is followed;
//! - [`times`] keeps what headers said, so that an unchanged tree costs listings alone;
//! - [`remove`] deletes, and [`find_place`] tells what a name stands for.

pub mod across;
pub mod compare;
pub mod content;
pub mod down;
pub mod entry;
pub mod failure;
pub mod filter;
pub mod find_place;
pub mod folder;
pub mod join;
pub mod options;
pub mod pattern;
pub mod plan;
pub mod remove;
pub mod times;
pub mod up;
pub mod walk;
