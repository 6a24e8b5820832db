//! `ossvault config`: what configuration files and the environment come to, and the mistakes in them.

use clap::{ArgMatches, Command};

use super::config_file::ConfigFile;
use super::error::{Error, Result};
use super::exit::Code;
use super::layers::{self, Setting, Variables};
use super::output::{self, print_line};
use crate::text;

/// Check and show configuration files
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Look for mistakes in the configuration files
    Check,
    /// Show the options that the environment and the configuration files set for mounts
    Show {
        /// The profile that is mounted [default: none, the defaults alone]
        profile: Option<String>,
    },
}

/// # Errors
/// A file that cannot be used or has mistakes, or a profile that there is not.
pub(super) fn run(
    args: &Args,
    commands: &Command,
    given: &ArgMatches,
    variables: Variables<'_>,
) -> Result<()> {
    let given = given.subcommand().map_or(given, |(_, given)| given);
    let files = layers::read_files(given, variables)?;
    match &args.action {
        Action::Check => check(commands, &files),
        Action::Show { profile } => show(commands, &files, profile.as_deref(), variables),
    }
}

fn check(commands: &Command, files: &[ConfigFile]) -> Result<()> {
    if files.is_empty() {
        print_line("there is no configuration file");
        return Ok(());
    }
    let mut failed = false;
    for file in files {
        let mistakes = layers::mistakes_in(commands, file);
        for mistake in &mistakes {
            output::tell(&mistake.to_string());
        }
        failed |= !mistakes.is_empty();
        if mistakes.is_empty() {
            let names: Vec<&str> = file.profiles.iter().map(|(name, _)| &**name).collect();
            print_line(&match names.is_empty() {
                true => format!("{}: no mistakes; no profiles", text::path(&file.path)),
                false => format!(
                    "{}: no mistakes; profiles: {}",
                    text::path(&file.path),
                    names.join(", ")
                ),
            });
        }
    }
    match failed {
        true => Err(Error::silent(Code::Usage)),
        false => Ok(()),
    }
}

fn show(
    commands: &Command,
    files: &[ConfigFile],
    profile: Option<&str>,
    variables: Variables<'_>,
) -> Result<()> {
    if let Some(profile) = profile {
        if !layers::is_profile(files, profile) {
            return Err(Error::new(
                Code::Usage,
                match text::word(profile) {
                    Some(profile) => format!("there is no profile {profile}"),
                    None => "there is no such profile".to_owned(),
                },
            ));
        }
        print_line(&format!("source = {}", layers::source_of(files, profile)?));
    }
    let settings = layers::settings_of_mount(commands, files, profile, variables)?;
    for (at, setting) in settings.iter().enumerate() {
        let is_first = settings[..at]
            .iter()
            .all(|earlier| earlier.option != setting.option);
        if is_first {
            print_line(&format!(
                "{} = {}  (from {})",
                setting.option,
                shown(setting),
                setting.origin
            ));
        }
    }
    Ok(())
}

/// A command may hold a secret.
fn shown(setting: &Setting) -> String {
    if setting.option.ends_with("-command") {
        return "(hidden)".to_owned();
    }
    let flag = format!("--{}", setting.option);
    let values: Vec<String> = setting
        .arguments
        .iter()
        .map(|argument| {
            let argument = argument.to_string_lossy();
            match argument
                .strip_prefix(&flag)
                .and_then(|rest| rest.strip_prefix('='))
            {
                Some(value) => value.to_owned(),
                None => "true".to_owned(),
            }
        })
        .collect();
    match values.is_empty() {
        true => "false".to_owned(),
        false => values.join(", "),
    }
}
