//! File attributes and how they are written in an object's metadata.
//!
//! The names are the ones ossfs, s3fs and rclone use: `mode` (decimal, with the type bits), `uid`, `gid`,
//! `mtime`, `ctime` and `atime` (seconds, optionally with a fraction). Device numbers are `ossvault-rdev`.
//! Metadata comes from the bucket and is not trusted: a value that makes no sense counts as missing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::envelope::format::{MODE, stored_mode};
use crate::store::object_store::{ObjectHeaders, ObjectMeta};

const UID: &str = "uid";
const GID: &str = "gid";
const MTIME: &str = "mtime";
pub const CTIME: &str = "ctime";
const ATIME: &str = "atime";
const RDEV: &str = "ossvault-rdev";
/// Encrypted `user.*` attributes; written and read by the floor below.
pub use crate::envelope::format::XATTR_NAME as XATTR;

const TYPE_BITS: u32 = libc::S_IFMT;
const PERMISSION_BITS: u32 = 0o7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// The kind in the type bits of `mode`; a mode without type bits is a file's.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & TYPE_BITS {
            0 | libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    pub fn type_bits(self) -> u32 {
        match self {
            Kind::File => libc::S_IFREG,
            Kind::Directory => libc::S_IFDIR,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDevice => libc::S_IFCHR,
            Kind::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// Seconds since the epoch, before it negative, and nanoseconds onward from there (below 10^9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

impl Timestamp {
    pub fn from_system(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp {
                seconds: since.as_secs() as i64,
                nanos: since.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let (seconds, nanos) = (before.as_secs() as i64, before.subsec_nanos());
                if nanos == 0 {
                    Timestamp {
                        seconds: -seconds,
                        nanos: 0,
                    }
                } else {
                    Timestamp {
                        seconds: -seconds - 1,
                        nanos: 1_000_000_000 - nanos,
                    }
                }
            }
        }
    }

    /// Clamped to what the platform can express.
    pub fn to_system(self) -> SystemTime {
        let time = if self.seconds >= 0 {
            UNIX_EPOCH.checked_add(Duration::from_secs(self.seconds as u64))
        } else {
            UNIX_EPOCH.checked_sub(Duration::from_secs(self.seconds.unsigned_abs()))
        };
        time.and_then(|time| time.checked_add(Duration::from_nanos(self.nanos.into())))
            .unwrap_or(UNIX_EPOCH)
    }

    /// `-?SECONDS[.FRACTION]`; digits beyond nanoseconds are dropped.
    fn parse(text: &str) -> Option<Timestamp> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !decimal(whole) || !decimal(fraction) {
            return None;
        }
        let seconds: i64 = whole.parse().ok()?;
        let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
        Some(match (negative, nanos) {
            (false, nanos) => Timestamp { seconds, nanos },
            (true, 0) => Timestamp {
                seconds: -seconds,
                nanos: 0,
            },
            (true, nanos) => Timestamp {
                seconds: -seconds - 1,
                nanos: 1_000_000_000 - nanos,
            },
        })
    }

    /// As it is stored.
    pub fn to_text(self) -> String {
        let (sign, seconds, nanos) = match (self.seconds < 0, self.nanos) {
            (false, nanos) => ("", self.seconds as u64, nanos),
            (true, 0) => ("-", self.seconds.unsigned_abs(), 0),
            (true, nanos) => ("-", self.seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
        };
        if nanos == 0 {
            return format!("{sign}{seconds}");
        }
        let fraction = format!("{nanos:09}");
        format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
    }
}

/// The headers of a new object.
pub(crate) fn headers_of(attributes: &Attributes) -> ObjectHeaders {
    let mut headers = ObjectHeaders {
        content_type: Some("application/octet-stream".to_owned()),
        ..ObjectHeaders::default()
    };
    attributes.write(&mut headers.user);
    headers
}

/// The headers of a directory's marker.
pub(crate) fn headers_of_marker(attributes: &Attributes) -> ObjectHeaders {
    let mut headers = headers_of(attributes);
    headers.content_type = Some("application/x-directory".to_owned());
    headers
}

/// For objects that do not say.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub file_mode: u32,
    /// Permission bits.
    pub dir_mode: u32,
}

/// What is shown instead of what objects say. Anyone with write access to the bucket can change every object's owner and
/// mode, and with them which users of this machine may read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Permission bits.
    pub dir_mode: Option<u32>,
    /// Permission bits that nothing has.
    pub umask: u32,
}

impl Overrides {
    /// The permissions that are shown of what has `mode` otherwise.
    pub fn permissions(&self, kind: Kind, mode: u32) -> u32 {
        let forced = match kind {
            Kind::Directory => self.dir_mode,
            Kind::Symlink => None,
            _ => self.file_mode,
        };
        forced.unwrap_or(mode) & !self.umask
    }
}

/// What an object says of the file it holds. `None`: it does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits included.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The object's Last-Modified when it does not say.
    pub mtime: Timestamp,
    pub ctime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    pub rdev: u32,
}

impl Attributes {
    pub fn new(kind: Kind, mode: u32, uid: u32, gid: u32, now: Timestamp) -> Attributes {
        Attributes {
            kind,
            mode: Some(mode & PERMISSION_BITS),
            uid: Some(uid),
            gid: Some(gid),
            mtime: now,
            ctime: Some(now),
            atime: None,
            rdev: 0,
        }
    }

    /// Of a directory that is only a common prefix.
    pub fn implicit_directory(mtime: Timestamp) -> Attributes {
        Attributes {
            kind: Kind::Directory,
            mode: None,
            uid: None,
            gid: None,
            mtime,
            ctime: None,
            atime: None,
            rdev: 0,
        }
    }

    /// Of an object whose headers may not be read.
    pub fn unreadable_file(mtime: Timestamp) -> Attributes {
        Attributes {
            kind: Kind::File,
            ..Attributes::implicit_directory(mtime)
        }
    }

    /// As `meta` says. `directory`: it is a directory's marker, whatever its mode claims; otherwise it is
    /// none, whatever its mode claims. Fifos, sockets and devices are empty: what has content is a file, or
    /// claims to be a symbolic link, which readlink believes when the object's key says so.
    pub fn read(meta: &ObjectMeta, directory: bool) -> Attributes {
        let user = &meta.headers.user;
        let number = |name: &str| user.get(name).and_then(|text| text.parse::<u32>().ok());
        let time = |name: &str| user.get(name).and_then(|text| Timestamp::parse(text));
        let mode = stored_mode(user);
        let kind = match mode.and_then(Kind::from_mode) {
            _ if directory => Kind::Directory,
            Some(Kind::Symlink) => Kind::Symlink,
            Some(Kind::Directory) | None => Kind::File,
            Some(_) if meta.size > 0 => Kind::File,
            Some(kind) => kind,
        };
        Attributes {
            kind,
            mode: mode.map(|mode| mode & PERMISSION_BITS),
            uid: number(UID),
            gid: number(GID),
            mtime: time(MTIME).unwrap_or_else(|| Timestamp::from_system(meta.last_modified)),
            ctime: time(CTIME),
            atime: time(ATIME),
            rdev: number(RDEV).unwrap_or(0),
        }
    }

    /// Writes them into user metadata, in place of what stood there.
    pub fn write(&self, user: &mut BTreeMap<String, String>) {
        let mode = match (self.mode, self.kind) {
            (None, Kind::File | Kind::Directory) => None,
            (mode, kind) => Some((mode.unwrap_or(0o644) | kind.type_bits()).to_string()),
        };
        let rdev = (self.rdev != 0).then(|| self.rdev.to_string());
        for (name, value) in [
            (MODE, mode),
            (UID, self.uid.map(|uid| uid.to_string())),
            (GID, self.gid.map(|gid| gid.to_string())),
            (MTIME, Some(self.mtime.to_text())),
            (CTIME, self.ctime.map(Timestamp::to_text)),
            (ATIME, self.atime.map(Timestamp::to_text)),
            (RDEV, rdev),
        ] {
            match value {
                Some(value) => user.insert(name.to_owned(), value),
                None => user.remove(name),
            };
        }
    }

    /// Sets the time of change of the content. The time of access, where none is stored, was shown as that
    /// of change until now, and stays what was shown.
    pub fn set_mtime(&mut self, mtime: Timestamp) {
        self.atime.get_or_insert(self.mtime);
        self.mtime = mtime;
    }

    /// Makes them those of an object that is not encrypted and served as it is.
    pub fn show_plain(&mut self) {
        self.kind = Kind::File;
        self.mode = Some(0o444);
    }

    /// Permission bits as they appear.
    pub fn permissions(&self, defaults: &Defaults) -> u32 {
        self.mode.unwrap_or(match self.kind {
            Kind::Directory => defaults.dir_mode,
            Kind::Symlink => 0o777,
            _ => defaults.file_mode,
        })
    }

    /// What a write or a truncation by a process without the capability takes away: set-user-id, and
    /// set-group-id where the group may execute (otherwise the bit means mandatory locking).
    pub fn clear_set_id(&mut self, defaults: &Defaults) {
        let mode = self.permissions(defaults);
        let mut cleared = mode & !libc::S_ISUID;
        if mode & 0o010 != 0 {
            cleared &= !libc::S_ISGID;
        }
        if cleared != mode {
            self.mode = Some(cleared);
        }
    }
}

/// What a setattr asks for, beside the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    /// The moment of the change.
    pub ctime: Option<Timestamp>,
    /// The kernel asks to clear set-id bits.
    pub clear_set_id: bool,
}

impl Change {
    /// Whether it is about times and nothing else.
    pub fn is_of_times(&self) -> bool {
        let others = Change {
            mtime: None,
            atime: None,
            ..self.clone()
        };
        others.is_empty() && !self.is_empty()
    }

    /// Nothing but perhaps the moment.
    pub fn is_empty(&self) -> bool {
        let Change {
            mode,
            uid,
            gid,
            mtime,
            atime,
            ctime: _,
            clear_set_id,
        } = self;
        mode.is_none()
            && uid.is_none()
            && gid.is_none()
            && mtime.is_none()
            && atime.is_none()
            && !clear_set_id
    }

    /// This, and then `later`.
    pub fn merge(&mut self, later: &Change) {
        self.mode = later.mode.or(self.mode);
        self.uid = later.uid.or(self.uid);
        self.gid = later.gid.or(self.gid);
        self.mtime = later.mtime.or(self.mtime);
        self.atime = later.atime.or(self.atime);
        self.ctime = later.ctime.or(self.ctime);
        self.clear_set_id |= later.clear_set_id;
    }

    /// Whether it leaves these attributes as they are, but for the moment of the change.
    pub fn changes_nothing_of(&self, attributes: &Attributes, defaults: &Defaults) -> bool {
        let mut changed = attributes.clone();
        self.apply(&mut changed, defaults);
        changed.ctime = attributes.ctime;
        changed == *attributes
    }

    pub fn apply(&self, attributes: &mut Attributes, defaults: &Defaults) {
        if self.clear_set_id {
            attributes.clear_set_id(defaults);
        }
        if let Some(mode) = self.mode {
            attributes.mode = Some(mode & PERMISSION_BITS);
        }
        let owner_changes = self.uid.is_some() || self.gid.is_some();
        if owner_changes && self.mode.is_none() && attributes.kind == Kind::File {
            // chown takes the set-id bits away, also from root's files, as on Linux.
            attributes.clear_set_id(defaults);
        }
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
        if let Some(mtime) = self.mtime {
            attributes.set_mtime(mtime);
        }
        attributes.atime = self.atime.or(attributes.atime);
        attributes.ctime = self.ctime.or(attributes.ctime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_as_they_are_read() {
        for (text, seconds, nanos, written) in [
            ("0", 0, 0, "0"),
            ("1700000000", 1_700_000_000, 0, "1700000000"),
            ("1700000000.5", 1_700_000_000, 500_000_000, "1700000000.5"),
            ("1.000000001", 1, 1, "1.000000001"),
            ("1.0000000019", 1, 1, "1.000000001"),
            ("-1", -1, 0, "-1"),
            ("-1.25", -2, 750_000_000, "-1.25"),
            ("-0.5", -1, 500_000_000, "-0.5"),
        ] {
            let time = Timestamp::parse(text).expect(text);
            assert_eq!((time.seconds, time.nanos), (seconds, nanos), "{text}");
            assert_eq!(time.to_text(), written);
            assert_eq!(Timestamp::from_system(time.to_system()), time);
        }
        for text in ["", "-", ".5", "1e9", "1.x", " 1", "99999999999999999999"] {
            assert_eq!(Timestamp::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn attributes_survive_the_metadata() {
        let now = Timestamp {
            seconds: 5,
            nanos: 7,
        };
        for kind in [Kind::File, Kind::Symlink, Kind::Fifo, Kind::CharDevice] {
            let mut attributes = Attributes::new(kind, 0o4755, 3, 4, now);
            attributes.rdev = 259;
            let mut meta = meta_without_entries();
            attributes.write(&mut meta.headers.user);
            assert_eq!(Attributes::read(&meta, false), attributes);
        }
    }

    /// A write moved the time of access along, where none was stored.
    #[test]
    fn the_time_of_access_stays_when_that_of_change_moves() {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        for (stored, set, expected) in [
            (None, None, time(1)),
            (Some(time(5)), None, time(5)),
            (None, Some(time(7)), time(7)),
            (Some(time(5)), Some(time(7)), time(7)),
        ] {
            let mut attributes = Attributes::new(Kind::File, 0o644, 3, 4, time(1));
            attributes.atime = stored;
            let change = Change {
                mtime: Some(time(9)),
                atime: set,
                ..Change::default()
            };
            let defaults = Defaults {
                uid: 0,
                gid: 0,
                file_mode: 0o600,
                dir_mode: 0o700,
            };
            change.apply(&mut attributes, &defaults);
            assert_eq!(attributes.mtime, time(9));
            assert_eq!(attributes.atime, Some(expected));
        }
    }

    #[test]
    fn a_fifo_a_socket_and_a_device_have_no_content() {
        let mut meta = meta_without_entries();
        for (type_bits, empty, full) in [
            (libc::S_IFREG, Kind::File, Kind::File),
            (libc::S_IFIFO, Kind::Fifo, Kind::File),
            (libc::S_IFSOCK, Kind::Socket, Kind::File),
            (libc::S_IFCHR, Kind::CharDevice, Kind::File),
            (libc::S_IFBLK, Kind::BlockDevice, Kind::File),
            (libc::S_IFDIR, Kind::File, Kind::File),
            (libc::S_IFLNK, Kind::Symlink, Kind::Symlink),
        ] {
            let mode = (type_bits | 0o644).to_string();
            meta.headers.user.insert("mode".into(), mode);
            for (size, expected) in [(0, empty), (1, full), (u64::MAX, full)] {
                meta.size = size;
                let kind = Attributes::read(&meta, false).kind;
                assert_eq!(kind, expected, "{type_bits:o} {size}");
                assert_eq!(Attributes::read(&meta, true).kind, Kind::Directory);
            }
        }
    }

    #[test]
    fn no_change_of_the_mode_changes_what_a_file_is() {
        for kind in [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo] {
            let mut attributes =
                Attributes::new(kind, 0o600, 0, 0, Timestamp::from_system(UNIX_EPOCH));
            let change = Change {
                mode: Some(libc::S_IFLNK | 0o4755),
                ..Change::default()
            };
            let defaults = Defaults {
                uid: 0,
                gid: 0,
                file_mode: 0o644,
                dir_mode: 0o755,
            };
            change.apply(&mut attributes, &defaults);
            assert_eq!((attributes.kind, attributes.mode), (kind, Some(0o4755)));
            let mut user = BTreeMap::new();
            attributes.write(&mut user);
            let written: u32 = user["mode"].parse().unwrap();
            assert_eq!(written, kind.type_bits() | 0o4755);
        }
    }

    #[test]
    fn what_is_shown_can_be_set_and_masked() {
        let nothing = Overrides::default();
        assert_eq!(nothing.permissions(Kind::File, 0o4777), 0o4777);
        let forced = Overrides {
            file_mode: Some(0o640),
            dir_mode: Some(0o750),
            umask: 0o027,
            ..nothing
        };
        for (kind, mode, shown) in [
            (Kind::File, 0o4777, 0o640),
            (Kind::Fifo, 0o666, 0o640),
            (Kind::Directory, 0o777, 0o750),
            (Kind::Symlink, 0o777, 0o750),
        ] {
            assert_eq!(forced.permissions(kind, mode), shown, "{kind:?}");
        }
        let masked = Overrides {
            umask: 0o077,
            ..nothing
        };
        assert_eq!(masked.permissions(Kind::File, 0o4755), 0o4700);
    }

    #[test]
    fn what_makes_no_sense_counts_as_missing() {
        let mut meta = meta_without_entries();
        for (name, value) in [("mode", "rwx"), ("uid", "-1"), ("mtime", "yesterday")] {
            meta.headers.user.insert(name.into(), value.into());
        }
        let attributes = Attributes::read(&meta, false);
        assert_eq!((attributes.mode, attributes.uid), (None, None));
        assert_eq!(attributes.mtime.seconds, 1000);
        meta.headers.user.insert("mode".into(), "16877".into());
        assert_eq!(Attributes::read(&meta, false).kind, Kind::File);
    }

    fn meta_without_entries() -> ObjectMeta {
        use crate::store::object_store::{ETag, ObjectHeaders};
        let time = UNIX_EPOCH + Duration::from_secs(1000);
        ObjectMeta {
            size: 0,
            etag: ETag::new("\"0\""),
            last_modified: time,
            headers: ObjectHeaders::default(),
            crc64: None,
            date: time,
        }
    }
}
