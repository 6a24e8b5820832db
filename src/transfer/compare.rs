//! Whether two files are the same as far as a transfer is concerned. Pure.

use super::folder::Stat;
use crate::files::attributes::{Attributes, Kind, Timestamp};

/// How files are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compare {
    /// By size and time of modification, as rsync does.
    #[default]
    Quick,
    /// By size alone.
    Size,
    /// By content, if the sizes are equal.
    Checksum,
    /// Every file is transferred.
    Never,
}

/// What is compared. None: it is not known, and makes no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    pub mtime: Timestamp,
    pub rdev: u32,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    None,
    Attributes,
    Content,
    /// The attributes say nothing about the content, which has to be read. Whether the attributes differ.
    Unknown(bool),
}

impl From<&Stat> for Facts {
    fn from(stat: &Stat) -> Facts {
        Facts {
            kind: stat.kind,
            size: stat.size,
            mtime: stat.mtime,
            rdev: stat.rdev,
            mode: Some(stat.mode),
            uid: Some(stat.uid),
            gid: Some(stat.gid),
        }
    }
}

impl Facts {
    pub(crate) fn of(attributes: &Attributes, size: u64) -> Facts {
        Facts {
            kind: attributes.kind,
            size,
            mtime: attributes.mtime,
            rdev: attributes.rdev,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
        }
    }

    /// The difference to what is at the destination. What is unknown here makes none; what is unknown there does.
    pub(crate) fn difference(&self, there: &Facts, compare: Compare) -> Difference {
        let has_content = matches!(self.kind, Kind::File | Kind::Symlink);
        if self.kind != there.kind
            || (has_content && self.size != there.size)
            || (!has_content && self.rdev != there.rdev)
        {
            return Difference::Content;
        }
        let same = |here: Option<u32>, there: Option<u32>| here.is_none() || here == there;
        let same_mode = self.kind == Kind::Symlink || same(self.mode, there.mode);
        let same_time = self.mtime == there.mtime;
        let attributes =
            !same_mode || !same(self.uid, there.uid) || !same(self.gid, there.gid) || !same_time;
        match compare {
            _ if !has_content => {}
            Compare::Quick if !same_time => return Difference::Content,
            Compare::Never => return Difference::Content,
            Compare::Checksum => return Difference::Unknown(attributes),
            Compare::Quick | Compare::Size => {}
        }
        match attributes {
            true => Difference::Attributes,
            false => Difference::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_time_decide_unless_something_else_is_wanted() {
        let time = |seconds| Timestamp { seconds, nanos: 5 };
        let here = Facts {
            kind: Kind::File,
            size: 3,
            mtime: time(7),
            rdev: 0,
            mode: Some(0o644),
            uid: Some(1),
            gid: Some(2),
        };
        let with = |change: &dyn Fn(&mut Facts)| {
            let mut facts = here.clone();
            change(&mut facts);
            facts
        };
        let directory = with(&|facts| facts.kind = Kind::Directory);
        for (from, to, compare, difference) in [
            (&here, here.clone(), Compare::Quick, Difference::None),
            (
                &here,
                with(&|f| f.size = 4),
                Compare::Quick,
                Difference::Content,
            ),
            (
                &here,
                with(&|f| f.mtime = time(8)),
                Compare::Quick,
                Difference::Content,
            ),
            (
                &here,
                with(&|f| f.mtime = time(8)),
                Compare::Size,
                Difference::Attributes,
            ),
            (
                &here,
                with(&|f| f.mode = None),
                Compare::Quick,
                Difference::Attributes,
            ),
            (
                &here,
                with(&|f| f.uid = Some(9)),
                Compare::Quick,
                Difference::Attributes,
            ),
            (
                &here,
                directory.clone(),
                Compare::Quick,
                Difference::Content,
            ),
            (&here, here.clone(), Compare::Never, Difference::Content),
            (
                &here,
                here.clone(),
                Compare::Checksum,
                Difference::Unknown(false),
            ),
            (
                &here,
                with(&|f| f.gid = None),
                Compare::Checksum,
                Difference::Unknown(true),
            ),
            (
                &here,
                with(&|f| f.size = 4),
                Compare::Checksum,
                Difference::Content,
            ),
            (
                &directory,
                with(&|f| {
                    f.kind = Kind::Directory;
                    f.size = 9;
                    f.mtime = time(8);
                }),
                Compare::Quick,
                Difference::Attributes,
            ),
            (
                &with(&|f| f.mode = None),
                here.clone(),
                Compare::Quick,
                Difference::None,
            ),
        ] {
            assert_eq!(from.difference(&to, compare), difference, "{from:?} {to:?}");
        }
    }
}
