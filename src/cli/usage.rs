//! Messages for invalid command lines.
//!
//! clap quotes what was typed. That may be a secret in the wrong place, such as a key instead of the name of
//! its file, so messages contain only the names of options and commands, and what an option expects.

use std::error::Error as _;
use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::Error;
use super::exit::Code;
use super::values::Expected;

/// The error to exit with. `first` is the first argument: the command that was meant.
///
/// # Errors
/// Always, except for help and version, which are printed on stdout.
pub(super) fn explain(
    error: &clap::Error,
    commands: &clap::Command,
    first: Option<&OsStr>,
) -> Result<(), Error> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Ok(());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return Err(Error::silent(Code::Usage));
        }
        _ => {}
    }
    let message = format!("{}; see: {}", message(error), help_of(first, commands));
    Err(Error::new(Code::Usage, message))
}

fn message(error: &clap::Error) -> String {
    let known = |kind| error.get(kind).map(one);
    // The last suggestion is the likeliest.
    let suggested = |kind| match error.get(kind)? {
        ContextValue::Strings(texts) => texts.last().cloned(),
        value => Some(one(value)),
    };
    let option = known(ContextKind::InvalidArg).unwrap_or_else(|| "an argument".to_owned());
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let suggested = suggested(ContextKind::SuggestedArg);
            let name = error
                .get(ContextKind::InvalidArg)
                .map(one)
                .and_then(|text| option_name(&text).map(str::to_owned));
            let unknown = match name {
                Some(name) => format!("there is no option {name}"),
                None => "there is an unexpected argument, or a value that begins with -".to_owned(),
            };
            match suggested {
                Some(suggested) => format!("{unknown}; did you mean {suggested}?"),
                None => unknown,
            }
        }
        ErrorKind::InvalidSubcommand => match suggested(ContextKind::SuggestedSubcommand) {
            Some(suggested) => format!("there is no such command; did you mean {suggested}?"),
            None => "there is no such command".to_owned(),
        },
        ErrorKind::ArgumentConflict => match known(ContextKind::PriorArg) {
            Some(other) if other != option => format!("{option} cannot be combined with {other}"),
            _ => format!("{option} is given more than once"),
        },
        ErrorKind::MissingRequiredArgument => format!("{option} is missing"),
        ErrorKind::MissingSubcommand => "a command is missing".to_owned(),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_owned(),
        ErrorKind::NoEquals => format!("{option} needs its value after ="),
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues | ErrorKind::TooManyValues => {
            format!("{option} was given the wrong number of values")
        }
        _ => match expected(error) {
            Some(expected) => format!("the value of {option} is not valid: {expected}"),
            None => format!("the value of {option} is missing or not valid"),
        },
    }
}

/// What the option with the invalid value expects.
pub(super) fn expected(error: &clap::Error) -> Option<String> {
    let by_parser = error.source().and_then(|source| {
        let expected: &Expected = source.downcast_ref()?;
        Some(expected.to_string())
    });
    let possible = error.get(ContextKind::ValidValue).map(one);
    let possible = possible.filter(|values| !values.is_empty());
    by_parser.or(possible.map(|values| format!("expected {values}")))
}

fn one(value: &ContextValue) -> String {
    match value {
        ContextValue::String(text) => text.clone(),
        ContextValue::Strings(texts) => texts.join(", "),
        _ => String::new(),
    }
}

/// The name of what was typed as an option, if it can be one: `--name` of `--name=value`.
fn option_name(text: &str) -> Option<&str> {
    let name = text.split('=').next().unwrap_or_default();
    let letters = name.strip_prefix("--")?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    let is_name = (2..=32).contains(&letters.len())
        && !letters.starts_with('-')
        && letters.bytes().all(plain);
    is_name.then_some(name)
}

/// The help of the command that was named, if it is one.
fn help_of(first: Option<&OsStr>, commands: &clap::Command) -> String {
    let named = first.and_then(OsStr::to_str);
    let command = named.filter(|name| commands.find_subcommand(name).is_some());
    match command {
        Some(name) => format!("ossvault {name} --help"),
        None => "ossvault --help".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn of(line: &[&str]) -> String {
        let error = Cli::try_parse_from(line).err().unwrap();
        message(&error)
    }

    #[test]
    fn a_mistake_is_named_without_quoting_the_input() {
        for (line, said) in [
            (
                &["ossvault", "mount", "a", "b", "--memory-limit", "s3cret"][..],
                "the value of --memory-limit <SIZE> is not valid: expected a size, like 512M or 10G",
            ),
            (
                &["ossvault", "mount", "a", "b", "--uid", "s3cret"],
                "the value of --uid <UID> is not valid: expected a number",
            ),
            (
                &["ossvault", "mount", "a", "b", "--format", "s3cret"],
                "the value of --format <FORMAT> is not valid: expected seed, sdk or dual",
            ),
            (
                &[
                    "ossvault",
                    "rewrap",
                    "a",
                    "--re-encrypt=s3cret",
                    "--public-key",
                    "k",
                ],
                "the value of --re-encrypt[=<WHICH>] is not valid: expected needed, all",
            ),
            (
                &["ossvault", "0451-marker-s3cret"],
                "there is no such command",
            ),
            (
                &["ossvault", "moun"],
                "there is no such command; did you mean mount?",
            ),
            (
                &["ossvault", "umount", "a", "s3cret"],
                "there is an unexpected argument, or a value that begins with -",
            ),
            (
                &["ossvault", "umount", "--s3cret=s3cret", "a"],
                "there is an unexpected argument, or a value that begins with -",
            ),
            (
                &[
                    "ossvault",
                    "mount",
                    "a",
                    "b",
                    "--private-key",
                    "--memory-limi=s3cret",
                ],
                "there is no option --memory-limi; did you mean --memory-limit?",
            ),
            (
                &["ossvault", "mount", "a", "b", "--memory-limi=s3cret"],
                "there is no option --memory-limi; did you mean --memory-limit?",
            ),
            (
                &["ossvault", "mount", "a", "b", "--path-style", "--cname"],
                "--path-style cannot be combined with --cname",
            ),
        ] {
            let message = of(line);
            assert!(!message.contains("s3cret"), "{message}");
            assert_eq!(message, said, "{line:?}");
        }
        let pem = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----";
        for line in [
            &["ossvault", "mount", "a", "b", "--private-key", pem][..],
            &["ossvault", "mount", "a", "b", "--timeout", pem],
            &["ossvault", "mount", pem, "b"],
            &["ossvault", pem],
        ] {
            if let Err(error) = Cli::try_parse_from(line) {
                let message = message(&error);
                assert!(!message.contains("s3cret"), "{message}");
            }
        }
    }
}
