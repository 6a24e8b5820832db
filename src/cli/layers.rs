//! The options of a command line completed from the environment and from configuration files.
//!
//! A value on the command line goes before `OSSVAULT_*`, that before a configuration file's. What the lower layers
//! bring is checked by the same parsers and then put on the command line, so that there is one way in.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use super::config_file::{self, ConfigFile};
use super::error::{Error, Result};
use super::exit::Code;
use super::usage;
use crate::text;

/// Where the value of an option comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Variable(String),
    Defaults(PathBuf),
    Profile(String, PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Variable(name) => write!(f, "the environment variable {name}"),
            Origin::Defaults(file) => write!(f, "the defaults in {}", text::path(file)),
            Origin::Profile(name, file) => {
                write!(f, "the profile {name} in {}", text::path(file))
            }
        }
    }
}

/// An option that a lower layer sets.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// As on the command line, without the dashes.
    pub option: String,
    /// `--option=value`, or `--option` for one without a value; several where it may be repeated.
    pub arguments: Vec<OsString>,
    pub origin: Origin,
}

/// The environment, as far as it is no secret.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The command line with what the lower layers add to it.
///
/// # Errors
/// A value of a lower layer that is not valid, or a configuration file that cannot be used.
pub(super) fn complete(
    commands: &Command,
    arguments: Vec<OsString>,
    given: &ArgMatches,
    variables: Variables<'_>,
) -> Result<Vec<OsString>> {
    let Some((name, given)) = given.subcommand() else {
        return Ok(arguments);
    };
    let Some(command) = commands.find_subcommand(name) else {
        return Ok(arguments);
    };
    // `key passwd`: the options are those of the action.
    let (name, command, given) = match given.subcommand() {
        Some((action, given)) => match command.find_subcommand(action) {
            Some(command) => (action, command, given),
            None => return Ok(arguments),
        },
        None => (name, command, given),
    };
    let mut arguments = arguments;
    let mut settings = from_variables(command, variables)?;
    if takes_source(command) {
        let files = read_files(given, variables)?;
        let source = text_of(given, "source");
        let profile = source.as_deref().filter(|name| is_profile(&files, name));
        settings.extend(from_files(commands, command, &files, profile)?);
        if let Some(profile) = profile {
            let source = source_of(&files, profile)?;
            arguments = with_source(commands, &arguments, profile, &source);
            let takes_mountpoint = command.get_arguments().any(is_mountpoint);
            if takes_mountpoint
                && given.value_source("mountpoint").is_none()
                && let Some(mountpoint) = path_of(&files, profile, "mountpoint")?
            {
                arguments.push(mountpoint.into());
            }
        }
    }
    let mut added: Vec<OsString> = Vec::new();
    let mut set: Vec<&str> = Vec::new();
    for setting in &settings {
        let option = find(command, &setting.option).expect("settings are of this command");
        let on_line = matches!(
            given.value_source(option.get_id().as_str()),
            Some(ValueSource::CommandLine)
        );
        let by_other_variable = given.value_source(option.get_id().as_str())
            == Some(ValueSource::EnvVariable)
            && !matches!(setting.origin, Origin::Variable(_));
        // The first layer that sets an option is the one that counts.
        if on_line || by_other_variable || set.contains(&&*setting.option) {
            continue;
        }
        set.push(&setting.option);
        added.extend(setting.arguments.iter().cloned());
    }
    let at = 1 + arguments
        .iter()
        .position(|argument| argument == name)
        .unwrap_or(0);
    arguments.splice(at..at, added);
    Ok(arguments)
}

/// What every layer below the command line sets for `mount`, the layers with precedence first.
///
/// # Errors
/// As [`complete`].
pub(super) fn settings_of_mount(
    commands: &Command,
    files: &[ConfigFile],
    profile: Option<&str>,
    variables: Variables<'_>,
) -> Result<Vec<Setting>> {
    let command = commands.find_subcommand("mount").expect("a command");
    let mut settings = from_variables(command, variables)?;
    settings.extend(from_files(commands, command, files, profile)?);
    Ok(settings)
}

/// The files that the command line, `OSSVAULT_CONFIG` or nothing names.
///
/// # Errors
/// One that cannot be used.
pub(super) fn read_files(given: &ArgMatches, variables: Variables<'_>) -> Result<Vec<ConfigFile>> {
    let named = given
        .try_get_one::<PathBuf>("config")
        .ok()
        .flatten()
        .cloned();
    let named = named.or_else(|| variables("OSSVAULT_CONFIG").map(PathBuf::from));
    config_file::read_all(named.as_deref(), |name| variables(name).map(PathBuf::from))
}

pub(super) fn is_profile(files: &[ConfigFile], name: &str) -> bool {
    files
        .iter()
        .any(|file| file.profiles.iter().any(|(known, _)| known == name))
}

/// Every mistake in a file: an unknown option, a value that is not valid, a profile without a source.
pub(super) fn mistakes_in(commands: &Command, file: &ConfigFile) -> Vec<Error> {
    let tables = std::iter::once((None, &file.defaults)).chain(
        file.profiles
            .iter()
            .map(|(name, table)| (Some(name.as_str()), table)),
    );
    let mut mistakes = Vec::new();
    for (profile, table) in tables {
        let origin = origin(file, profile);
        for (key, value) in table {
            if is_place(key) && profile.is_some() {
                mistakes.extend(text_value(key, value, &origin).err());
                continue;
            }
            mistakes.extend(check(commands, key, value, &origin, file).err());
        }
        if profile.is_some() && !table.contains_key("source") {
            mistakes.push(mistake(&origin, "source is missing".to_owned()));
        }
    }
    mistakes
}

fn is_place(key: &str) -> bool {
    matches!(key, "source" | "mountpoint")
}

fn origin(file: &ConfigFile, profile: Option<&str>) -> Origin {
    match profile {
        Some(name) => Origin::Profile(name.to_owned(), file.path.clone()),
        None => Origin::Defaults(file.path.clone()),
    }
}

fn takes_source(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.is_positional() && argument.get_id() == "source")
}

fn is_mountpoint(argument: &Arg) -> bool {
    argument.is_positional() && argument.get_id() == "mountpoint"
}

fn text_of(given: &ArgMatches, id: &str) -> Option<String> {
    given.try_get_one::<String>(id).ok().flatten().cloned()
}

fn find<'a>(command: &'a Command, option: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| {
        argument.get_long() == Some(option) && !argument.is_hide_set() && option != "config"
    })
}

fn from_variables(command: &Command, variables: Variables<'_>) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for argument in command.get_arguments() {
        let Some(option) = argument.get_long() else {
            continue;
        };
        if argument.is_hide_set() || argument.get_env().is_some_and(is_own) || option == "config" {
            continue;
        }
        let name = format!("OSSVAULT_{}", option.replace('-', "_").to_ascii_uppercase());
        let Some(value) = variables(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let origin = Origin::Variable(name);
        let value = match argument.get_action() {
            ArgAction::SetTrue => match &*value.to_ascii_lowercase() {
                "1" | "true" | "yes" | "on" => Value::Boolean(true),
                "0" | "false" | "no" | "off" => Value::Boolean(false),
                _ => return Err(mistake(&origin, "expected true or false".to_owned())),
            },
            _ => Value::String(value),
        };
        let base = Path::new("");
        settings.push(Setting {
            option: option.to_owned(),
            arguments: arguments_of(command, argument, &value, &origin, base)?,
            origin,
        });
    }
    Ok(settings)
}

/// Read by clap itself.
fn is_own(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"OSSVAULT_")
}

/// The options of `command` that the files set; those of other commands are checked and left out.
fn from_files(
    commands: &Command,
    command: &Command,
    files: &[ConfigFile],
    profile: Option<&str>,
) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let profiles = files.iter().flat_map(|file| {
        let named = file
            .profiles
            .iter()
            .filter(|(name, _)| Some(name.as_str()) == profile);
        named.map(move |(_, table)| (file, table, profile))
    });
    let defaults = files.iter().map(|file| (file, &file.defaults, None));
    for (file, table, profile) in profiles.chain(defaults) {
        let origin = origin(file, profile);
        for (key, value) in table {
            if is_place(key) && profile.is_some() {
                continue;
            }
            check(commands, key, value, &origin, file)?;
            let option = key.replace('_', "-");
            if let Some(argument) = find(command, &option) {
                settings.push(Setting {
                    arguments: arguments_of(command, argument, value, &origin, folder(file))?,
                    option,
                    origin: origin.clone(),
                });
            }
        }
    }
    Ok(settings)
}

fn folder(file: &ConfigFile) -> &Path {
    file.path.parent().unwrap_or(Path::new("/"))
}

/// Whether a key of a file is an option of some command that has a source, and its value one that it takes.
fn check(
    commands: &Command,
    key: &str,
    value: &Value,
    origin: &Origin,
    file: &ConfigFile,
) -> Result<()> {
    let option = key.replace('_', "-");
    let mut names = Vec::new();
    for command in commands.get_subcommands().filter(|it| takes_source(it)) {
        if let Some(argument) = find(command, &option) {
            return arguments_of(command, argument, value, origin, folder(file)).map(drop);
        }
        names.extend(
            command
                .get_arguments()
                .filter(|it| !it.is_hide_set())
                .filter_map(Arg::get_long),
        );
    }
    let likeness = |name: &&str| (strsim::jaro(name, &option) * 1000.0) as u32;
    let nearest = names
        .into_iter()
        .max_by_key(likeness)
        .filter(|name| likeness(name) > 800);
    let unknown = match text::word(key) {
        Some(key) => format!("there is no option {key}"),
        None => "there is an unknown option".to_owned(),
    };
    Err(mistake(
        origin,
        match nearest {
            Some(nearest) => format!("{unknown}; did you mean {nearest}?"),
            None => unknown,
        },
    ))
}

fn mistake(origin: &Origin, what: String) -> Error {
    Error::new(Code::Usage, format!("{origin}: {what}"))
}

fn text_value(key: &str, value: &Value, origin: &Origin) -> Result<String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        _ => Err(mistake(origin, format!("{key}: expected a text in quotes"))),
    }
}

fn arguments_of(
    command: &Command,
    argument: &Arg,
    value: &Value,
    origin: &Origin,
    folder: &Path,
) -> Result<Vec<OsString>> {
    let option = argument.get_long().expect("found by it");
    let wrong = |expected: &str| mistake(origin, format!("{option}: expected {expected}"));
    let flag = format!("--{option}");
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => return Ok(vec![flag.into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => return Ok(Vec::new()),
        (ArgAction::SetTrue, _) => return Err(wrong("true or false")),
        (ArgAction::Count, value) => {
            let count = match value {
                Value::Integer(count) => usize::try_from(*count).ok(),
                Value::String(count) => count.parse().ok(),
                _ => None,
            };
            let count = count.filter(|count| *count <= 4);
            let count = count.ok_or_else(|| wrong("a number from 0 to 4"))?;
            return Ok(vec![flag.into(); count]);
        }
        _ => {}
    }
    let values = match (argument.get_action(), value) {
        (ArgAction::Append, Value::Array(values)) => values.iter().collect(),
        _ => vec![value],
    };
    let mut arguments = Vec::new();
    for value in values {
        let value = match value {
            Value::String(text) => text.clone(),
            // 0644 is no number of TOML's, and 0o644 would be shown as 420.
            Value::Integer(_) if has_value_name(argument, "MODE") => {
                return Err(wrong("octal digits in quotes, like \"0644\""));
            }
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            _ => return Err(wrong("a text in quotes, or a number")),
        };
        let value = match has_value_name(argument, "FILE") || has_value_name(argument, "DIR") {
            true => placed(&value, folder),
            false => value,
        };
        let argument = format!("{flag}={value}");
        valid(command, &argument).map_err(|expected| wrong_value(origin, option, &expected))?;
        arguments.push(argument.into());
    }
    Ok(arguments)
}

fn wrong_value(origin: &Origin, option: &str, expected: &str) -> Error {
    mistake(origin, format!("{option}: {expected}"))
}

fn has_value_name(argument: &Arg, name: &str) -> bool {
    argument
        .get_value_names()
        .is_some_and(|names| names.iter().any(|known| known == name))
}

/// Whether clap takes it, whatever else may be missing. If not, what it expects.
fn valid(command: &Command, argument: &str) -> std::result::Result<(), String> {
    let parsed = command.clone().try_get_matches_from(["ossvault", argument]);
    match parsed {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ValueValidation
                    | ErrorKind::InvalidValue
                    | ErrorKind::InvalidUtf8
                    | ErrorKind::TooManyValues
                    | ErrorKind::NoEquals
            ) && error.get(ContextKind::InvalidArg).is_some() =>
        {
            Err(usage::expected(&error).unwrap_or_else(|| "the value is not valid".to_owned()))
        }
        _ => Ok(()),
    }
}

/// A path of a file: `~/` is the home directory, and what is relative begins at the file's directory.
fn placed(path: &str, folder: &Path) -> String {
    if let (Some(rest), Some(home)) = (path.strip_prefix("~/"), std::env::home_dir()) {
        return home.join(rest).to_string_lossy().into_owned();
    }
    folder.join(path).to_string_lossy().into_owned()
}

fn value_of<'a>(
    files: &'a [ConfigFile],
    profile: &str,
    key: &str,
) -> Option<(&'a ConfigFile, &'a Value)> {
    files.iter().find_map(|file| {
        let (_, table): &(String, Table) =
            file.profiles.iter().find(|(name, _)| name == profile)?;
        Some((file, table.get(key)?))
    })
}

/// # Errors
/// The profile has no source, or it is no text.
pub(super) fn source_of(files: &[ConfigFile], profile: &str) -> Result<String> {
    let missing = || {
        Error::new(
            Code::Usage,
            format!("the profile {profile} has no source: add source = \"oss://BUCKET\""),
        )
    };
    let (file, value) = value_of(files, profile, "source").ok_or_else(missing)?;
    text_value("source", value, &origin(file, Some(profile)))
}

fn path_of(files: &[ConfigFile], profile: &str, key: &str) -> Result<Option<String>> {
    let Some((file, value)) = value_of(files, profile, key) else {
        return Ok(None);
    };
    let text = text_value(key, value, &origin(file, Some(profile)))?;
    Ok(Some(placed(&text, folder(file))))
}

/// The command line with the profile's name replaced by its source. The name may be the value of an option as
/// well: the right place is the one that changes what clap takes for the source.
fn with_source(
    commands: &Command,
    arguments: &[OsString],
    profile: &str,
    source: &str,
) -> Vec<OsString> {
    for (at, argument) in arguments.iter().enumerate() {
        if argument != profile {
            continue;
        }
        let mut changed = arguments.to_vec();
        changed[at] = source.into();
        let parsed = commands.clone().try_get_matches_from(&changed);
        let found = parsed
            .ok()
            .and_then(|matches| text_of(matches.subcommand()?.1, "source"));
        if found.as_deref() == Some(source) {
            return changed;
        }
    }
    arguments.to_vec()
}
