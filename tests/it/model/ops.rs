//! The operations, on few names so that they interact, and the setup of a case.

use proptest::prelude::*;

use super::{DIRECTORIES, KINDS, NAMES, SLOTS};
use crate::world::PART;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub u8, pub u8);

impl Place {
    pub(super) fn path(self) -> String {
        let directory = DIRECTORIES[usize::from(self.0) % DIRECTORIES.len()];
        let name = NAMES[usize::from(self.1) % NAMES.len()];
        match directory {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({}, {} /* {} */)", self.0, self.1, self.path())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Offset(u32),
    End,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        at: Place,
        exclusive: bool,
        slot: u8,
    },
    Open {
        at: Place,
        write: bool,
        truncate: bool,
        slot: u8,
    },
    Read {
        slot: u8,
        offset: u32,
        len: u32,
    },
    Write {
        slot: u8,
        at: At,
        len: u32,
        seed: u8,
    },
    Truncate {
        slot: u8,
        size: u32,
    },
    Allocate {
        slot: u8,
        offset: u32,
        len: u32,
    },
    Flush {
        slot: u8,
    },
    Fsync {
        slot: u8,
    },
    Close {
        slot: u8,
    },
    Resize {
        at: Place,
        size: u32,
    },
    Mkdir {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Unlink {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        replace: bool,
    },
    Symlink {
        at: Place,
        target: u8,
    },
    Mknod {
        at: Place,
        kind: u8,
    },
    /// None: the whole file, as cp requests it.
    Copy {
        from: u8,
        to: u8,
        range: Option<(u32, u32)>,
    },
    Chmod {
        at: Place,
        mode: u8,
    },
    SetTime {
        at: Place,
        seconds: u16,
    },
    SetXattr {
        at: Place,
        name: u8,
        value: u8,
        how: u8,
    },
    RemoveXattr {
        at: Place,
        name: u8,
    },
    List {
        directory: u8,
    },
    FsyncDirectory {
        directory: u8,
    },
    Check,
    Forget,
    Remount,
    OthersPut {
        at: Place,
        len: u32,
        seed: u8,
    },
    OthersDelete {
        at: Place,
    },
    OthersChmod {
        at: Place,
        mode: u8,
    },
    OthersReplaceDirectory {
        directory: u8,
    },
    Fail {
        after: u8,
        lost: bool,
        changes_only: bool,
    },
    Tick,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// In milliseconds; None is an hour, and no other writers.
    pub ttl: Option<u64>,
    pub small_memory: bool,
    pub failures: bool,
    pub threads: bool,
}

pub(super) fn place() -> impl Strategy<Value = Place> {
    (
        prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => Just(2), 1 => Just(3)],
        0..NAMES.len() as u8,
    )
        .prop_map(|(directory, name)| Place(directory, name))
}

pub(super) fn slot() -> impl Strategy<Value = u8> {
    0..SLOTS as u8
}

pub(super) fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 1..200u32,
        2 => 1..70_000u32,
        2 => 100_000..300_000u32,
        1 => Just(PART as u32),
    ]
}

pub(super) fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => Just(0u32),
        3 => 0..300u32,
        2 => 0..700_000u32,
        1 => (0..5u32).prop_map(|parts| parts * PART as u32),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let at = || prop_oneof![3 => Just(At::End), 2 => offset().prop_map(At::Offset)];
    prop_oneof![
        12 => (place(), any::<bool>(), slot()).prop_map(|(at, exclusive, slot)| Op::Create { at, exclusive, slot }),
        8 => (place(), any::<bool>(), prop::bool::weighted(0.2), slot())
            .prop_map(|(at, write, truncate, slot)| Op::Open { at, write, truncate, slot }),
        8 => (slot(), offset(), len()).prop_map(|(slot, offset, len)| Op::Read { slot, offset, len }),
        20 => (slot(), at(), len(), any::<u8>()).prop_map(|(slot, at, len, seed)| Op::Write { slot, at, len, seed }),
        4 => (slot(), offset()).prop_map(|(slot, size)| Op::Truncate { slot, size }),
        2 => (slot(), offset(), len()).prop_map(|(slot, offset, len)| Op::Allocate { slot, offset, len }),
        5 => slot().prop_map(|slot| Op::Flush { slot }),
        4 => slot().prop_map(|slot| Op::Fsync { slot }),
        10 => slot().prop_map(|slot| Op::Close { slot }),
        3 => (place(), offset()).prop_map(|(at, size)| Op::Resize { at, size }),
        6 => place().prop_map(|at| Op::Mkdir { at }),
        3 => place().prop_map(|at| Op::Rmdir { at }),
        5 => place().prop_map(|at| Op::Unlink { at }),
        10 => (place(), place(), prop::bool::weighted(0.9)).prop_map(|(from, to, replace)| Op::Rename { from, to, replace }),
        2 => (place(), any::<u8>()).prop_map(|(at, target)| Op::Symlink { at, target }),
        2 => (place(), 0..KINDS.len() as u8).prop_map(|(at, kind)| Op::Mknod { at, kind }),
        6 => (slot(), slot(), prop::option::weighted(0.3, (offset(), len())))
            .prop_map(|(from, to, range)| Op::Copy { from, to, range }),
        3 => (place(), any::<u8>()).prop_map(|(at, mode)| Op::Chmod { at, mode }),
        2 => (place(), any::<u16>()).prop_map(|(at, seconds)| Op::SetTime { at, seconds }),
        3 => (place(), 0..2u8, any::<u8>(), 0..3u8).prop_map(|(at, name, value, how)| Op::SetXattr { at, name, value, how }),
        1 => (place(), 0..2u8).prop_map(|(at, name)| Op::RemoveXattr { at, name }),
        4 => (0..4u8).prop_map(|directory| Op::List { directory }),
        1 => (0..4u8).prop_map(|directory| Op::FsyncDirectory { directory }),
        4 => Just(Op::Check),
        2 => Just(Op::Forget),
        2 => Just(Op::Remount),
        5 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Op::OthersPut { at, len, seed }),
        3 => place().prop_map(|at| Op::OthersDelete { at }),
        2 => (place(), any::<u8>()).prop_map(|(at, mode)| Op::OthersChmod { at, mode }),
        1 => (1..4u8).prop_map(|directory| Op::OthersReplaceDirectory { directory }),
        3 => (0..6u8, any::<bool>(), any::<bool>())
            .prop_map(|(after, lost, changes_only)| Op::Fail { after, lost, changes_only }),
        3 => Just(Op::Tick),
    ]
}

pub(super) fn setting() -> impl Strategy<Value = Setting> {
    (
        prop_oneof![3 => Just(Some(0)), 1 => Just(Some(30)), 2 => Just(None)],
        any::<bool>(),
        prop::bool::weighted(0.3),
        any::<bool>(),
    )
        .prop_map(|(ttl, small_memory, failures, threads)| Setting {
            ttl,
            small_memory,
            failures,
            threads,
        })
}
