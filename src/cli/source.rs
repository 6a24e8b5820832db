//! The source of a mount: `oss://bucket[/prefix]`, or `bucket[:/prefix]` as in fstab, or `file:///folder`.

use std::fmt;
use std::path::PathBuf;

use crate::text;

/// A source as given on the command line; it has not been accessed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Oss {
        bucket: String,
        /// Empty, or ends with `/`.
        prefix: String,
    },
    File {
        /// Absolute.
        folder: PathBuf,
        /// Empty, or ends with `/`.
        prefix: String,
    },
}

impl Source {
    /// `prefix` is the option of that name; `oss://` sources may contain it in the URL instead.
    ///
    /// # Errors
    /// A sentence that states the expected form.
    pub(crate) fn parse(text: &str, prefix: Option<&str>) -> Result<Source, String> {
        let option = prefix.map(check_prefix).transpose()?;
        if let Some((bucket, in_url)) = bucket_and_path(text) {
            check_bucket(bucket)?;
            let in_url = check_prefix(in_url)?;
            let prefix = match option {
                Some(option) if in_url.is_empty() => option,
                Some(_) => {
                    return Err(
                        "the source contains a prefix, and --prefix is given too: give only one of them"
                            .to_owned(),
                    );
                }
                None => in_url,
            };
            return Ok(Source::Oss {
                bucket: bucket.to_owned(),
                prefix,
            });
        }
        if let Some(folder) = text.strip_prefix("file://") {
            if !folder.starts_with('/') {
                return Err(
                    "the source is not an absolute path: write file:///the/folder".to_owned(),
                );
            }
            return Ok(Source::File {
                folder: PathBuf::from(folder),
                prefix: option.unwrap_or_default(),
            });
        }
        Err(match shown(text) {
            Some(text) => {
                format!("{text:?} is not a source: expected oss://bucket[/prefix], or file:///folder for a local folder")
            }
            None => {
                "that is not a source: expected oss://bucket[/prefix], or file:///folder for a local folder".to_owned()
            }
        })
    }

    pub(crate) fn prefix(&self) -> &str {
        match self {
            Source::Oss { prefix, .. } | Source::File { prefix, .. } => prefix,
        }
    }
}

/// As shown in messages and in the mount table.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Oss { bucket, prefix } if prefix.is_empty() => write!(f, "oss://{bucket}"),
            Source::Oss { bucket, prefix } => {
                write!(f, "oss://{bucket}/{}", prefix.trim_end_matches('/'))
            }
            Source::File { folder, prefix } if prefix.is_empty() => {
                write!(f, "file://{}", folder.display())
            }
            Source::File { folder, prefix } => {
                let prefix = prefix.trim_end_matches('/');
                write!(f, "file://{}#{prefix}", folder.display())
            }
        }
    }
}

/// Splits `oss://bucket/path`, `bucket:/path` and `bucket`.
fn bucket_and_path(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("oss://") {
        return Some(rest.split_once('/').unwrap_or((rest, "")));
    }
    let (bucket, path) = text.split_once(":/").unwrap_or((text, ""));
    (check_bucket(bucket).is_ok() && !path.starts_with('/')).then_some((bucket, path))
}

/// The value as typed, if it cannot be a secret: credentials precede an `@`, and tokens are long.
fn shown(text: &str) -> Option<&str> {
    let plain = text.len() <= 100 && !text.contains(['@', '=']) && text::looks_like_a_path(text);
    plain.then_some(text)
}

/// The service's rule: 3 to 63 lower-case letters, digits and hyphens, no hyphen at either end.
pub(crate) fn check_bucket(bucket: &str) -> Result<(), String> {
    let valid = (3..=63).contains(&bucket.len())
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !bucket.starts_with('-')
        && !bucket.ends_with('-');
    if valid {
        Ok(())
    } else {
        Err(match text::word(bucket) {
            Some(bucket) => format!(
                "{bucket:?} is not a bucket name: expected 3 to 63 lower-case letters, digits and hyphens"
            ),
            None => {
                "that is not a bucket name: expected 3 to 63 lower-case letters, digits and hyphens"
                    .to_owned()
            }
        })
    }
}

/// Makes a prefix end with `/`. A prefix is the path of a directory, so it must be a valid path.
fn check_prefix(prefix: &str) -> Result<String, String> {
    let path = prefix.strip_suffix('/').unwrap_or(prefix);
    if path.is_empty() {
        return Ok(String::new());
    }
    if path
        .split('/')
        .any(|name| matches!(name, "" | "." | "..") || name.contains('\0'))
        || path.starts_with('\\')
    {
        return Err(format!(
            "{} is not a prefix: expected the path of a directory in the bucket, like photos/2024",
            text::path(prefix.as_ref())
        ));
    }
    if path.split('/').any(|name| name == ".ossvault") {
        return Err(
            "the prefix is inside .ossvault/, which is reserved for the mount's own objects"
                .to_owned(),
        );
    }
    if path.len() > 900 {
        return Err(
            "the prefix is too long: at most 900 bytes, to leave room for names".to_owned(),
        );
    }
    Ok(format!("{path}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_bucket_or_a_folder() {
        for (text, prefix, shown, key_prefix) in [
            ("oss://bucket", None, "oss://bucket", ""),
            ("oss://bucket/", None, "oss://bucket", ""),
            ("oss://bucket/a/b", None, "oss://bucket/a/b", "a/b/"),
            ("bucket", None, "oss://bucket", ""),
            ("bucket:/", None, "oss://bucket", ""),
            ("bucket:/a/b", None, "oss://bucket/a/b", "a/b/"),
            ("oss://bucket/a/b/", None, "oss://bucket/a/b", "a/b/"),
            ("oss://bucket", Some("a"), "oss://bucket/a", "a/"),
            ("file:///srv/x", None, "file:///srv/x", ""),
            ("file:///srv/x", Some("a/b/"), "file:///srv/x#a/b", "a/b/"),
        ] {
            let source = Source::parse(text, prefix).unwrap();
            assert_eq!(source.to_string(), shown);
            assert_eq!(source.prefix(), key_prefix);
        }
    }

    #[test]
    fn an_invalid_source_is_refused_with_a_reason() {
        for (text, prefix, reason) in [
            ("Bucket", None, "not a source"),
            ("bucket/a", None, "not a source"),
            ("bucket:a", None, "not a source"),
            ("s3://bucket", None, "not a source"),
            ("oss://", None, "not a bucket name"),
            ("oss://ab", None, "not a bucket name"),
            ("oss://Bucket", None, "not a bucket name"),
            ("oss://-bucket", None, "not a bucket name"),
            ("oss://bucket//a", None, "not a prefix"),
            ("oss://bucket/a/../b", None, "not a prefix"),
            ("oss://bucket/.ossvault", None, "reserved"),
            ("oss://bucket/a", Some("b"), "one of them"),
            ("file://folder", None, "absolute"),
            ("file:///folder", Some("/a"), "not a prefix"),
        ] {
            let message = Source::parse(text, prefix).unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}
