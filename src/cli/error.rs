//! The error of a command: one line that names the thing, what was tried and what to do, and the exit code.

use std::error::Error as _;
use std::fmt;

use super::exit::Code;
use crate::base::error_chain::chain;
use crate::fuse::session;
use crate::text::one_line;

#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `message` becomes one line when it is printed: control characters, which server messages and file
    /// names may contain, are escaped, and PEM blocks are removed.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// An error that has already been reported in full.
    pub fn silent(code: Code) -> Error {
        Error::new(code, "")
    }

    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.message))
    }
}

impl std::error::Error for Error {}

impl From<session::Error> for Error {
    fn from(error: session::Error) -> Error {
        use session::Error as Session;
        let code = match &error {
            Session::MountPointMissing(_)
            | Session::MountPointNotDirectory(_)
            | Session::MountPointNotEmpty(_)
            | Session::MountPointUnusable(..) => Code::MountPoint,
            Session::AlreadyMounted { .. } => Code::AlreadyMounted,
            Session::NoFuse(_) => Code::NoFuse,
            Session::NoFusermount => Code::NoFusermount,
            Session::NotMounted(_) => Code::NotMounted,
            Session::Busy(_) => Code::Busy,
            Session::AllowOtherForbidden | Session::Refused(..) => Code::MountRefused,
            Session::Io(_) => Code::Failure,
        };
        let mut message = error.to_string();
        if let Some(cause) = error.source() {
            message = format!("{message}: {}", chain(cause));
        }
        Error::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_quotes() {
        let error = Error::new(
            Code::Failure,
            "the server said \"\u{1b}[31mno\r\nreally\": 桶\n",
        );
        assert_eq!(
            error.to_string(),
            "the server said \"\\u{1b}[31mno\\r\\nreally\": 桶"
        );
    }
}
