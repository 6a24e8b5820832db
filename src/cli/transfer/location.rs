//! Where a file is: in a bucket, or on this machine.

use std::fmt;
use std::path::PathBuf;

use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::source::Source;
use crate::encrypted::reserved::RESERVED;
use crate::files::name::is_component;
use crate::store::object_store::ObjectKey;
use crate::text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Bucket {
        /// The whole bucket.
        source: Source,
        /// Empty for all of it. Ends with `/` if a directory is meant.
        key: String,
    },
    Local(PathBuf),
}

/// What a bare word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bare {
    Bucket,
    Path,
}

impl Location {
    /// `oss://bucket/path`, `bucket:/path`, `file:///folder#path` for a bucket stored in a local folder; anything else is
    /// a path of this machine.
    ///
    /// # Errors
    /// The expected form.
    pub(super) fn parse(text: &str, bare: Bare) -> Result<Location> {
        let usage = |message: String| Error::new(Code::Usage, message);
        let (source, key) = if let Some(rest) = text.strip_prefix("oss://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            (format!("oss://{bucket}"), key)
        } else if text.starts_with("file://") {
            let (folder, key) = text.split_once('#').unwrap_or((text, ""));
            (folder.to_owned(), key)
        } else if let Some((bucket, key)) = text.split_once(":/")
            && !bucket.contains(['/', '.'])
        {
            // The slash of `bucket:/path`, and of no URL.
            if key.starts_with('/') {
                return Err(usage(format!(
                    "{bucket}:// is not a scheme: expected oss://bucket/path, file:///folder#path, or a path",
                    bucket = text::word(bucket).unwrap_or("that"),
                )));
            }
            (format!("oss://{bucket}"), key)
        } else if bare == Bare::Bucket {
            (text.to_owned(), "")
        } else if text.is_empty() {
            return Err(usage("a path is empty".to_owned()));
        } else {
            return Ok(Location::Local(PathBuf::from(text)));
        };
        let source = Source::parse(&source, None).map_err(usage)?;
        check_key(key).map_err(usage)?;
        Ok(Location::Bucket {
            source,
            key: key.to_owned(),
        })
    }

    /// # Errors
    /// It is a path of this machine.
    pub(super) fn in_bucket(text: &str) -> Result<(Source, String)> {
        match Location::parse(text, Bare::Bucket)? {
            Location::Bucket { source, key } => Ok((source, key)),
            Location::Local(_) => Err(Error::new(
                Code::Usage,
                "that is not in a bucket: expected oss://bucket/path",
            )),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Bucket { source, key } => write!(f, "{}", shown(source, key)),
            Location::Local(path) => write!(f, "{}", text::path(path)),
        }
    }
}

/// A key as it is written on a command line.
pub(super) fn shown(source: &Source, key: &str) -> String {
    let separator = match source {
        _ if key.is_empty() => "",
        Source::Oss { .. } => "/",
        Source::File { .. } => "#",
    };
    format!("{source}{separator}{key}")
}

fn check_key(key: &str) -> std::result::Result<(), String> {
    let path = key.strip_suffix('/').unwrap_or(key);
    if path.is_empty() {
        return match key {
            "" => Ok(()),
            _ => Err("the path in the bucket is a slash alone: leave it out".to_owned()),
        };
    }
    let possible = path.split('/').all(is_component) && !path.starts_with('\\');
    if !possible || path.len() > ObjectKey::MAX_LEN {
        return Err(format!(
            "{} is not a path in a bucket: expected names of at most 255 bytes with slashes between them, like photos/2024",
            text::path(key.as_ref())
        ));
    }
    if path.split('/').next() == Some(RESERVED) {
        return Err(format!(
            "{RESERVED}/ is reserved for the mounts' own objects"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_in_a_bucket_or_here() {
        for (text, bare, expected) in [
            ("oss://bucket", Bare::Path, "oss://bucket"),
            ("oss://bucket/", Bare::Path, "oss://bucket"),
            ("oss://bucket/a/b", Bare::Path, "oss://bucket/a/b"),
            ("oss://bucket/a/b/", Bare::Path, "oss://bucket/a/b/"),
            ("bucket:/a b", Bare::Path, "oss://bucket/a b"),
            ("bucket:/", Bare::Path, "oss://bucket"),
            ("bucket", Bare::Bucket, "oss://bucket"),
            ("bucket", Bare::Path, "bucket"),
            ("./bucket:/a", Bare::Path, "./bucket:/a"),
            ("a/b", Bare::Path, "a/b"),
            ("file:///srv/x", Bare::Path, "file:///srv/x"),
            ("file:///srv/x#a/b", Bare::Path, "file:///srv/x#a/b"),
        ] {
            let location = Location::parse(text, bare).unwrap();
            assert_eq!(location.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_location_is_refused_with_a_reason() {
        for (text, reason) in [
            ("oss://B/x", "not a bucket name"),
            ("oss://bucket//x", "not a path in a bucket"),
            ("oss://bucket/a/../b", "not a path in a bucket"),
            ("oss://bucket/.ossvault/x", "reserved"),
            ("s3://bucket/x", "not a scheme"),
            ("file://x#y", "absolute"),
            ("", "empty"),
        ] {
            let error = Location::parse(text, Bare::Path).unwrap_err();
            assert_eq!(error.code(), Code::Usage);
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
        assert!(Location::in_bucket("./a/b").is_err());
    }
}
