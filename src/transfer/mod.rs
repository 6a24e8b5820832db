//! Files between this machine and buckets, without a mount: with the same encryption, and as the same objects.
//!
//! - [`walk`] yields both kinds of trees in one order, after a [`filter`] whose rules are rsync's ([`pattern`]);
//! - [`join`] brings two walks together, [`compare`] tells whether two files are the same, and [`plan`] makes pieces of
//!   work of that, which `tools::bulk` runs in parallel, as those of rewrap, verify and adopt;
//! - [`up`], [`down`] and [`across`] transfer one file; [`content`] moves the bytes, in bounded memory;
//! - [`folder`] is the local side: everything is reached by descriptors, and no link is followed;
//! - [`times`] keeps what headers said, so that an unchanged tree costs listings alone;
//! - [`remove`] deletes, and [`find_place`] tells what a name stands for.

pub(crate) mod across;
pub(crate) mod compare;
pub(crate) mod content;
pub(crate) mod down;
pub(crate) mod entry;
pub(crate) mod failure;
pub(crate) mod filter;
pub(crate) mod find_place;
pub(crate) mod folder;
pub(crate) mod join;
pub(crate) mod options;
pub(crate) mod pattern;
pub(crate) mod plan;
pub(crate) mod remove;
pub(crate) mod times;
pub(crate) mod up;
pub(crate) mod walk;
