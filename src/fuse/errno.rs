//! The one table from what went wrong to the number a program sees.

use fuser::Errno;

use crate::fs::error::{Error, Refusal};

/// Where POSIX leaves a choice, the comment says why.
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        // EEXIST is as good by POSIX; Linux's own file systems say this.
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        // "Invalid or incomplete multibyte character": what file systems with a fixed encoding say.
        Error::NotUnicode => Errno::EILSEQ,
        Error::Invalid => Errno::EINVAL,
        Error::NotPermitted => Errno::EPERM,
        Error::Denied(_) => Errno::EACCES,
        Error::Refused(refusal, _) => match refusal {
            Refusal::Denied => Errno::EACCES,
            Refusal::NotPermitted => Errno::EPERM,
            Refusal::NoSpace => Errno::ENOSPC,
            // What write(2) and close(2) name for a user's or a project's limit.
            Refusal::Quota => Errno::from_i32(libc::EDQUOT),
            Refusal::TooLarge => Errno::EFBIG,
            Refusal::NotSupported => Errno::EOPNOTSUPP,
        },
        // A key that is not here is a permission that is not had.
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
        // What mv and others answer by moving one file after another, as between two file systems.
        Error::TooMany => Errno::EXDEV,
        Error::Busy => Errno::EBUSY,
        Error::Running => Errno::ETXTBSY,
        Error::TimedOut(_) => Errno::ETIMEDOUT,
        Error::Io(_) => Errno::EIO,
    }
}

/// How much a failure deserves to be noticed: what programs ask for all day is nothing to a log.
pub fn level(error: &Error) -> log::Level {
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
        // The store tells of it once a minute.
        Error::Refused(Refusal::Denied, _) => log::Level::Info,
        Error::NoKey(_) | Error::Denied(_) | Error::Busy | Error::TooLarge | Error::TooMany => {
            log::Level::Info
        }
        _ => log::Level::Debug,
    }
}
