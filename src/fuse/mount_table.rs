//! Parses /proc/self/mountinfo, the table of mounts. Reading it never touches a mount, so it cannot hang on a
//! mount whose daemon is stuck or is this very process.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount. If several are stacked on one directory, the last one in the table is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`, the device numbers assigned by the kernel.
    pub device: String,
    pub mountpoint: PathBuf,
    /// `fuse`, `fuse.ossvault`, `ext4`, ...
    pub kind: String,
    /// The source, as given by the mounting program.
    pub source: String,
    /// The `user_id=` of a FUSE mount: the user of its daemon.
    pub owner: Option<u32>,
}

/// The type of our mounts in the mount table.
pub(crate) const KIND: &str = "fuse.ossvault";

impl Entry {
    /// Where automount(8) or systemd mounts something when it is first entered.
    pub(crate) fn is_automount(&self) -> bool {
        self.kind == "autofs"
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.kind == KIND
    }
}

/// The visible mount at `mountpoint`, which must be a canonical path.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn find(mountpoint: &Path) -> std::io::Result<Option<Entry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).rfind(|entry| entry.mountpoint == mountpoint))
}

/// Lines that do not follow proc(5) are skipped.
pub(crate) fn parse(table: &[u8]) -> impl DoubleEndedIterator<Item = Entry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line)
}

/// `36 35 98:0 /root /mount/point options [optional fields...] - type source super,options`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Searched for after the six fields that each line has, because a mount's root may have this name.
    let optional = fields.iter().skip(6);
    let dash = 6 + optional.take_while(|field| **field != b"-").count();
    fields.get(dash)?;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let options = text(fields.get(dash + 3)?);
    Some(Entry {
        device: text(fields.get(2)?),
        mountpoint: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(fields.get(dash + 1)?),
        source: text(fields.get(dash + 2)?),
        owner: options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id="))
            .and_then(|id| id.parse().ok()),
    })
}

/// The kernel writes spaces, line breaks, backslashes and `#` as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let ([b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..], true) =
            (rest, rest.len() >= 4)
        {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = &rest[4..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mounts_with_blanks_and_optional_fields_and_a_root_of_any_name() {
        let table = b"22 28 0:21 / /proc rw,nosuid - proc proc rw\n\
            88 28 0:54 / /mnt/my\\040files rw,nosuid,nodev shared:7 master:1 - fuse.ossvault \
            bucket.oss-cn-hangzhou.aliyuncs.com:/a\\043b rw,user_id=1000,group_id=1000,allow_other\n\
            broken line\n\
            89 28 0:55 - /mnt/back\\134slash rw - ext4 /dev/sda1 rw\n";
        let entries: Vec<Entry> = parse(table).collect();
        assert_eq!(entries.len(), 3);
        assert!(!entries[0].is_ours());
        assert_eq!(
            entries[1],
            Entry {
                device: "0:54".into(),
                mountpoint: "/mnt/my files".into(),
                kind: "fuse.ossvault".into(),
                source: "bucket.oss-cn-hangzhou.aliyuncs.com:/a#b".into(),
                owner: Some(1000),
            }
        );
        assert!(entries[1].is_ours());
        assert_eq!(entries[2].mountpoint, Path::new("/mnt/back\\slash"));
    }

    #[test]
    fn an_escape_that_is_cut_short_is_kept_as_it_is() {
        for (field, plain) in [
            (&b"a\\04"[..], &b"a\\04"[..]),
            (b"\\", b"\\"),
            (b"\\999", b"\\999"),
            (b"\\040\\040", b"  "),
        ] {
            assert_eq!(unescape(field), plain);
        }
    }
}
