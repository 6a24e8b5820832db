//! `ossvault info`: describes one object, named by its key in a bucket or by a file in a mount.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::bulk::{self, BulkOptions, ReadingKeys, Run};
use super::error::{Error, Result};
use super::exit::Code;
use super::keys;
use super::output;
use super::secrets::Environment;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::files::attributes::Timestamp;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ObjectKey;
use crate::text;
use crate::tools::inspect::{self, Report};

/// Show how an object is stored, and whether it can be opened
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// oss://bucket/key, file:///folder#key, or a file in a mount
    object: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keys: ReadingKeys,
    #[command(flatten)]
    service: super::options::ServiceOptions,
}

/// # Errors
/// There is no such object, or no available key opens it.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let report = match split(&args.object)? {
        Some((source, key)) => in_bucket(args, environment, source, &key)?,
        None => in_mount(Path::new(&args.object))?,
    };
    if args.json {
        output::print_pretty_json(&report);
    } else {
        for (name, value) in lines(&report) {
            output::print_line(&format!("{:<13} {value}", format!("{name}:")));
        }
    }
    match report.can_open {
        Some(false) => Err(Error::new(
            Code::Incomplete,
            "the object cannot be opened: see its problem above",
        )),
        _ => Ok(()),
    }
}

/// The source and the key in the name of an object; none for a path.
fn split(object: &str) -> Result<Option<(String, String)>> {
    let usage = |expected: &str| {
        Err(Error::new(
            Code::Usage,
            format!("that is not the name of an object: expected {expected}"),
        ))
    };
    if let Some(rest) = object.strip_prefix("oss://") {
        return match rest.split_once('/') {
            Some((bucket, key)) if !key.is_empty() => {
                Ok(Some((format!("oss://{bucket}"), key.to_owned())))
            }
            _ => usage("oss://bucket/key"),
        };
    }
    if object.starts_with("file://") {
        return match object.split_once('#') {
            Some((folder, key)) if !key.is_empty() => Ok(Some((folder.to_owned(), key.to_owned()))),
            _ => usage("file:///folder#key"),
        };
    }
    Ok(None)
}

fn in_bucket(args: &Args, environment: &Environment, source: String, key: &str) -> Result<Report> {
    let options = BulkOptions {
        source,
        prefix: None,
        json: args.json,
        verbose: false,
        quiet: true,
        allow_empty: false,
        parallel: bulk::PARALLEL,
        service: args.service.clone(),
    };
    let run = Run::new(&options, environment)?;
    let key = ObjectKey::new(key).map_err(|error| Error::new(Code::Usage, error.to_string()))?;
    let private = run
        .files(&args.keys.reading)
        .private(&args.keys.private_key)?;
    let ring = keys::reading_ring(private, &args.keys.reading)?;
    let bucket = EncryptedBucket::new(run.store()?, ring, Settings::default());
    let report = run.block_on(inspect::inspect(&bucket, args.object.clone(), &key));
    report.map_err(|error| match error {
        StoreError::NotFound => Error::new(
            Code::Failure,
            format!("there is no object {key} in {}", run.source()),
        ),
        error => run.explain(&error),
    })
}

/// From the attributes that a mount shows for its files, and by reading one byte of the file.
fn in_mount(path: &Path) -> Result<Report> {
    let failed = |error: &std::io::Error| {
        Error::new(Code::Failure, format!("{}: {error}", text::path(path)))
    };
    let found = path.symlink_metadata().map_err(|error| failed(&error))?;
    let encrypted = attribute(path, "user.ossvault.encrypted").map_err(|_| {
        if found.is_dir() {
            return Error::new(
                Code::Usage,
                format!(
                    "{} is a directory, and info describes files: give a file in a mount, or oss://bucket/key",
                    text::path(path)
                ),
            );
        }
        Error::new(
            Code::Usage,
            format!(
                "{} is not a file in an ossvault mount: give a file in a mount, or oss://bucket/key",
                text::path(path)
            ),
        )
    })?;
    // Empty and unencrypted files are read without a key.
    let opened = read_a_byte(path, &found).and_then(|()| {
        match attribute(path, "user.ossvault.fingerprint") {
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            fingerprint => fingerprint.map(Some),
        }
    });
    let mtime = Timestamp {
        seconds: found.mtime(),
        nanos: found.mtime_nsec() as u32,
    };
    // In the names and the form that they have in a bucket.
    let attributes = [
        ("mode", found.mode().to_string()),
        ("uid", found.uid().to_string()),
        ("gid", found.gid().to_string()),
        ("mtime", mtime.to_text()),
    ];
    Ok(Report {
        name: path.display().to_string(),
        size: found.len(),
        encrypted: encrypted == "yes",
        format: attribute(path, "user.ossvault.format").ok(),
        key_hint: attribute(path, "user.ossvault.key-id").ok(),
        can_open: Some(opened.is_ok()),
        problem: opened.as_ref().err().map(problem),
        fingerprint: opened.ok().flatten(),
        etag: attribute(path, "user.ossvault.etag").ok(),
        attributes: attributes
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        ..Report::default()
    })
}

/// Opening a file needs no key; reading it does.
fn read_a_byte(path: &Path, found: &std::fs::Metadata) -> std::io::Result<()> {
    use std::io::Read;
    if found.is_symlink() {
        return path.read_link().map(drop);
    }
    std::fs::File::open(path)?.read(&mut [0]).map(drop)
}

/// The meaning of an errno from a mount.
fn problem(error: &std::io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EIO) => {
            "it is not encrypted, its envelope is damaged, or no key of the mount opens it: see the mount's log (for an unencrypted object: --allow-plaintext, or ossvault adopt)"
        }
        Some(libc::EACCES) => {
            "the mount does not have the key that the object names, or has no private key, or the file's mode forbids reading"
        }
        Some(libc::EOPNOTSUPP) => "its encryption is not supported: see the mount's log",
        _ => return error.to_string(),
    };
    format!("{error}: {meaning}")
}

/// Of the file itself, even if it is a symbolic link.
fn attribute(path: &Path, name: &str) -> std::io::Result<String> {
    let value = xattr::get(path, name)?;
    let value = value.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENODATA))?;
    String::from_utf8(value).map_err(std::io::Error::other)
}

fn lines(report: &Report) -> Vec<(String, String)> {
    let mut lines = vec![
        ("object".to_owned(), report.name.clone()),
        ("size".to_owned(), format!("{} bytes", report.size)),
        ("encrypted".to_owned(), yes(report.encrypted)),
    ];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push((name.to_owned(), value));
        }
    };
    add("format", report.format.clone());
    add("key", report.fingerprint.clone());
    add("key hint", report.key_hint.clone());
    let unknown = report
        .encrypted
        .then(|| "unknown: no private key was given".to_owned());
    add("can be opened", report.can_open.map(yes).or(unknown));
    add("problem", report.problem.clone());
    add("tag", report.etag.clone());
    add("crc64", report.crc64.clone());
    add("content type", report.content_type.clone());
    for (name, value) in &report.attributes {
        add(name, Some(value.clone()));
    }
    for (name, len) in report.xattrs.iter().flatten() {
        add(name, Some(format!("{len} bytes, encrypted")));
    }
    lines
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
