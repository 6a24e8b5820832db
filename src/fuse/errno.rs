//! The one table from errors to errno values.

use fuser::Errno;

use crate::fs::error::{Error, Refusal};

/// A comment gives the reason wherever POSIX leaves a choice.
pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        // POSIX also allows EEXIST; Linux's own file systems return this.
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        // "Invalid or incomplete multibyte character": used by file systems with a fixed encoding.
        Error::NotUnicode => Errno::EILSEQ,
        Error::Invalid => Errno::EINVAL,
        Error::NotPermitted => Errno::EPERM,
        Error::Denied(_) => Errno::EACCES,
        Error::Refused(refusal, _) => match refusal {
            Refusal::Denied => Errno::EACCES,
            Refusal::NotPermitted => Errno::EPERM,
            Refusal::NoSpace => Errno::ENOSPC,
            // The errno of write(2) and close(2) for a user's or a project's limit.
            Refusal::Quota => Errno::from_i32(libc::EDQUOT),
            Refusal::TooLarge => Errno::EFBIG,
            Refusal::NotSupported => Errno::EOPNOTSUPP,
        },
        // A missing key is a missing permission.
        Error::NoKey(_) => Errno::EACCES,
        Error::ReadOnly => Errno::EROFS,
        Error::Stale => Errno::ESTALE,
        Error::NoSpace => Errno::ENOSPC,
        Error::TooLarge => Errno::EFBIG,
        Error::NotSupported => Errno::EOPNOTSUPP,
        Error::UnsupportedEnvelope(_) => Errno::EOPNOTSUPP,
        Error::NoAttribute => Errno::ENODATA,
        Error::BufferTooSmall => Errno::ERANGE,
        Error::BadHandle => Errno::EBADF,
        // On this error, mv and others move the files one by one, as between two file systems.
        Error::TooMany => Errno::EXDEV,
        Error::Busy => Errno::EBUSY,
        Error::Running => Errno::ETXTBSY,
        Error::TimedOut(_) => Errno::ETIMEDOUT,
        Error::Io(_) => Errno::EIO,
    }
}

/// The log level of a failure: errors that programs cause all day are not worth logging.
pub(super) fn level(error: &Error) -> log::Level {
    match error {
        error if error.is_logged() => log::Level::Debug,
        Error::Io(_)
        | Error::TimedOut(_)
        | Error::Stale
        | Error::NoSpace
        | Error::Refused(
            Refusal::NoSpace | Refusal::Quota | Refusal::TooLarge | Refusal::NotPermitted,
            _,
        )
        | Error::UnsupportedEnvelope(_) => log::Level::Warn,
        // The store logs it once a minute.
        Error::Refused(Refusal::Denied, _) => log::Level::Info,
        Error::NoKey(_) | Error::Denied(_) | Error::Busy | Error::TooLarge | Error::TooMany => {
            log::Level::Info
        }
        _ => log::Level::Debug,
    }
}
