//! `ossvault cat`: contents of objects on stdout.

use std::io::Write;

use futures_util::TryStreamExt;

use super::location::{Location, shown};
use super::session::{CommonOptions, Session};
use crate::base::error_chain::chain;
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::options::KeyOptions;
use crate::cli::output::tell;
use crate::cli::parts::Missing;
use crate::cli::secrets::Environment;
use crate::cli::values::Expected;
use crate::encrypted::{EncryptedBucket, Error as ObjectError};
use crate::files::attributes::{Attributes, Kind};
use crate::store::error::Error as StoreError;
use crate::store::object_store::ObjectKey;
use crate::transfer::content;
use crate::transfer::failure::Failure;

/// Write the contents of files in a bucket to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ossvault cat oss://my-bucket/notes.txt --private-key ~/vault.key
  ossvault cat --range 0-1023 oss://my-bucket/a.iso oss://my-bucket/b.iso --private-key ~/vault.key | sha256sum")]
pub(crate) struct Args {
    /// oss://bucket/path, bucket:/path, or file:///folder#path (repeatable)
    #[arg(id = "source", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Only these bytes of each file, counted from 0: FIRST-LAST, FIRST- or -COUNT for the last COUNT bytes
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true, value_parser = range)]
    range: Option<Range>,
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    keys: KeyOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// From the first to the one after the last.
    From(u64, Option<u64>),
    Last(u64),
}

fn range(text: &str) -> std::result::Result<Range, Expected> {
    const EXPECTED: Expected = Expected("expected FIRST-LAST, FIRST- or -COUNT, like 0-1023");
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| plain).ok_or(EXPECTED)
    };
    match text.split_once('-').ok_or(EXPECTED)? {
        ("", count) => Ok(Range::Last(number(count)?)),
        (first, "") => Ok(Range::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            match first <= last {
                true => Ok(Range::From(first, Some(last.saturating_add(1)))),
                false => Err(EXPECTED),
            }
        }
    }
}

impl Range {
    fn of(self, size: u64) -> std::ops::Range<u64> {
        match self {
            Range::From(first, end) => first.min(size)..end.unwrap_or(size).min(size),
            Range::Last(count) => size - count.min(size)..size,
        }
    }
}

/// # Errors
/// [`Code::Incomplete`] if a file could not be read.
pub(crate) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let session = Session::new(&args.common, environment)?;
    let mut files = Vec::new();
    for file in &args.files {
        let (source, key) = Location::in_bucket(file)?;
        if key.is_empty() || key.ends_with('/') {
            return Err(Error::new(
                Code::Usage,
                format!("{} is a directory: name a file in it", shown(&source, &key)),
            ));
        }
        files.push((source, key));
    }
    let mut failed = 0;
    for (source, key) in &files {
        let ring = session.keys(&args.keys, true)?;
        let store = session.store(source, Missing::Refused)?;
        let bucket = EncryptedBucket::new(store.clone(), ring, session.settings(&args.keys));
        let written = session.block_on(write(&bucket, key, args.range));
        let message = match written {
            Ok(()) => continue,
            Err(Failure::Writing(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                // The reader has what it wants.
                return Ok(());
            }
            Err(Failure::Writing(error)) => {
                let message = format!("cannot write to standard output: {error}");
                return Err(Error::new(Code::Local, message));
            }
            Err(Failure::Object(ObjectError::Store(StoreError::NotFound))) => {
                // With what it may have been meant to be.
                match session.find(source, &store, key) {
                    Err(error) => error.to_string(),
                    Ok(_) => format!("{} is a directory: name a file in it", shown(source, key)),
                }
            }
            Err(Failure::Object(ObjectError::Store(error))) => {
                let error = session.explain(source, &error);
                if files.len() == 1 {
                    return Err(error);
                }
                error.to_string()
            }
            Err(Failure::Object(error)) => format!("{}: {}", shown(source, key), chain(&error)),
            Err(_) => format!("{}: interrupted", shown(source, key)),
        };
        if files.len() == 1 {
            return Err(Error::new(Code::Incomplete, message));
        }
        tell(&message);
        failed += 1;
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::new(
            Code::Incomplete,
            format!(
                "{failed} of {} files could not be read; the others were written",
                files.len()
            ),
        )),
    }
}

async fn write(
    bucket: &EncryptedBucket,
    key: &str,
    range: Option<Range>,
) -> std::result::Result<(), Failure> {
    let key = ObjectKey::new(key)?;
    let meta = bucket.store().head(&key).await?;
    if meta.size == 0 {
        return Ok(());
    }
    if Attributes::read(&meta, false).kind == Kind::Symlink {
        return Err(ObjectError::Unsupported("it is a symbolic link".into()).into());
    }
    let object = bucket.object_at(&key, &meta)?;
    let cipher = bucket.unlock(&object).await?;
    let range = range.map_or(0..meta.size, |range| range.of(meta.size));
    if range.is_empty() {
        return Ok(());
    }
    let mut pieces = std::pin::pin!(content::read(bucket, &key, &meta, &cipher, range));
    let mut out = std::io::stdout().lock();
    while let Some(piece) = pieces.try_next().await? {
        out.write_all(&piece).map_err(Failure::Writing)?;
    }
    out.flush().map_err(Failure::Writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end_of_a_file() {
        for (text, bytes) in [
            ("0-3", 0..4),
            ("4-", 4..10),
            ("-3", 7..10),
            ("-30", 0..10),
            ("8-30", 8..10),
            ("20-30", 10..10),
            ("0-18446744073709551615", 0..10),
        ] {
            assert_eq!(range(text).unwrap().of(10), bytes, "{text}");
        }
        for text in ["", "-", "3", "4-3", "a-b", "+1-2", "--1"] {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
