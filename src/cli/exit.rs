//! The exit codes. Scripts depend on them: a code never changes its meaning, and a retired one is never
//! reused. docs/scripting.md and docs/semantics.md list them.

/// Why the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Success = 0,
    /// Any error without a code of its own; the message describes it.
    Failure = 1,
    /// The command line or the environment is invalid.
    Usage = 2,

    /// The mount point is missing, not a directory, not empty, or not usable by this user.
    MountPoint = 10,
    AlreadyMounted = 11,
    /// FUSE is not available: /dev/fuse is missing or refused.
    NoFuse = 12,
    /// An ordinary user mounts through fusermount3, which is not installed.
    NoFusermount = 13,
    NotMounted = 14,
    /// The mount is in use and cannot be unmounted.
    Busy = 15,
    /// A file or folder that the daemon uses lies inside its mount point, or the reverse.
    Overlap = 16,
    /// mount(2) or fusermount3 refused.
    MountRefused = 17,

    KeyMissing = 20,
    /// Other users can read the private key, or change the public one.
    KeyPermissions = 21,
    /// Not a key, of an unsupported kind, or too small.
    KeyInvalid = 22,
    /// The public key does not belong to the private one, the pair fails its test, or the bucket's objects are for
    /// another key.
    KeyMismatch = 23,
    /// No passphrase although one is needed, or a wrong one.
    Passphrase = 24,
    /// `keygen` never overwrites.
    Exists = 25,

    NoSuchBucket = 30,
    /// Wrong endpoint or region, or plain http without permission.
    Endpoint = 31,
    /// None were given, or the service refused them.
    Credentials = 32,
    /// This machine's clock and the service's differ too much.
    Clock = 33,
    Unreachable = 34,
    /// The folder of a `file://` source, or of `serve`, cannot be used or holds no bucket.
    Store = 35,
    /// `serve` cannot listen on its address.
    Address = 36,

    /// The mount ended, and not everything written to it reached the bucket.
    Unsaved = 40,
    /// The background process died without a report.
    DaemonDied = 41,
    /// A file or folder on this machine cannot be used: the cache directory, the log file, or one that a command
    /// reads or writes.
    Local = 42,

    /// A command over many objects: some need attention, and the report names them.
    Incomplete = 43,

    /// `doctor`: a check failed, and the report names it.
    Unhealthy = 45,

    /// `demo`: the data read back differs from what was written.
    DemoFailed = 50,

    /// Ended by Ctrl-C or SIGTERM. Shells report the same of a program that Ctrl-C kills.
    Interrupted = 130,
}

impl Code {
    const ALL: [Code; 31] = [
        Code::Success,
        Code::Failure,
        Code::Usage,
        Code::MountPoint,
        Code::AlreadyMounted,
        Code::NoFuse,
        Code::NoFusermount,
        Code::NotMounted,
        Code::Busy,
        Code::Overlap,
        Code::MountRefused,
        Code::KeyMissing,
        Code::KeyPermissions,
        Code::KeyInvalid,
        Code::KeyMismatch,
        Code::Passphrase,
        Code::Exists,
        Code::NoSuchBucket,
        Code::Endpoint,
        Code::Credentials,
        Code::Clock,
        Code::Unreachable,
        Code::Store,
        Code::Address,
        Code::Unsaved,
        Code::DaemonDied,
        Code::Local,
        Code::Incomplete,
        Code::Unhealthy,
        Code::DemoFailed,
        Code::Interrupted,
    ];

    pub fn number(self) -> u8 {
        self as u8
    }

    /// The code of a number that another process of this program reported; [`Code::Failure`] if it is
    /// unknown.
    pub fn from_number(number: u8) -> Code {
        Self::ALL
            .into_iter()
            .find(|code| code.number() == number)
            .unwrap_or(Code::Failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_documented_and_means_one_thing() {
        let document = include_str!("../../docs/scripting.md");
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let number = code.number();
            assert!(seen.insert(number), "{code:?} shares its number");
            assert_eq!(Code::from_number(number), code);
            assert!(
                document.contains(&format!("| {number} |")),
                "{code:?} ({number}) is not in docs/scripting.md"
            );
        }
    }
}
