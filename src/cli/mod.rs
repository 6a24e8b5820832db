//! The commands. They read and check the configuration and assemble the components; no other layer knows
//! about configuration.

pub mod error;
pub mod exit;
pub mod values;

mod adopt;
mod background;
mod bulk;
mod config;
mod config_command;
mod config_file;
pub(crate) mod daemon_file;
mod demo;
mod doctor;
mod findings;
mod fstab;
mod info;
mod key;
mod keygen;
mod keys;
mod layers;
pub(crate) mod logging;
mod mount;
mod mount_helper;
mod options;
mod output;
mod parts;
mod progress;
mod report;
mod rewrap;
pub(crate) mod secrets;
pub mod serve;
pub(crate) mod source;
mod transfer;
mod umount;
mod usage;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use error::Error;
use secrets::Environment;

/// Mounts an Alibaba Cloud OSS bucket as an encrypted directory
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// Read this configuration file instead of ~/.config/ossvault/config.toml and /etc/ossvault/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(keygen::Args),
    Key(key::Args),
    Mount(Box<mount::Args>),
    Umount(umount::Args),
    Serve(serve::ServeArgs),
    Demo(demo::Args),
    Info(Box<info::Args>),
    Doctor(Box<doctor::Args>),
    Verify(Box<verify::Args>),
    RestoreEnvelopes(Box<verify::RestoreArgs>),
    Rewrap(Box<rewrap::Args>),
    Adopt(Box<adopt::Args>),
    Report(Box<report::Args>),
    Ls(transfer::listing::LsArgs),
    Cat(Box<transfer::cat::Args>),
    Put(Box<transfer::copy_commands::PutArgs>),
    Get(Box<transfer::copy_commands::GetArgs>),
    Sync(Box<transfer::copy_commands::SyncArgs>),
    Cp(Box<transfer::copy_commands::CpArgs>),
    Mv(Box<transfer::copy_commands::MvArgs>),
    Rm(Box<transfer::rm::Args>),
    Du(transfer::listing::DuArgs),
    Find(transfer::listing::FindArgs),
    Config(config_command::Args),
}

/// The definition of the command line, for its documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command. Called first, while the process has one thread.
///
/// # Errors
/// The message for `main` to print, and the exit code.
pub fn run() -> Result<(), Error> {
    let environment = Environment::enter();
    let commands = Cli::command();
    let typed = mount_helper::translate(std::env::args_os().collect(), &commands)?;
    let typed = transfer::listing::translate(typed);
    let explain = |error: &clap::Error| {
        usage::explain(error, &commands, typed.get(1).map(OsString::as_os_str))
    };
    let matches = match commands.clone().try_get_matches_from(&typed) {
        Ok(matches) => matches,
        Err(error) => return explain(&error),
    };
    let variables = |name: &str| std::env::var(name).ok();
    let complete = layers::complete(&commands, typed.clone(), &matches, &variables)?;
    let cli = match Cli::try_parse_from(&complete) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match cli.command {
        Command::Keygen(args) => keygen::run(&args, &environment),
        Command::Key(args) => key::run(&args, &environment),
        Command::Mount(args) => mount::run(*args, environment, &typed, &commands),
        Command::Umount(args) => umount::run(&args),
        Command::Serve(args) => {
            logging::start(0).to_terminal();
            serve::run(&args, |name| environment.text(name))
        }
        Command::Demo(args) => demo::run(&args),
        Command::Info(args) => info::run(&args, &environment),
        Command::Doctor(args) => doctor::run(&args, &environment),
        Command::Verify(args) => verify::run(&args, &environment),
        Command::RestoreEnvelopes(args) => verify::restore(&args, &environment),
        Command::Rewrap(args) => rewrap::run(&args, &environment),
        Command::Adopt(args) => adopt::run(&args, &environment),
        Command::Report(args) => report::run(&args, &environment),
        Command::Ls(args) => transfer::listing::ls(&args, &environment),
        Command::Cat(args) => transfer::cat::run(&args, &environment),
        Command::Put(args) => transfer::copy_commands::put(&args, &environment),
        Command::Get(args) => transfer::copy_commands::get(&args, &environment),
        Command::Sync(args) => transfer::copy_commands::sync(&args, &environment),
        Command::Cp(args) => transfer::copy_commands::cp(&args, &environment),
        Command::Mv(args) => transfer::copy_commands::mv(&args, &environment),
        Command::Rm(args) => transfer::rm::run(&args, &environment),
        Command::Du(args) => transfer::listing::du(&args, &environment),
        Command::Find(args) => transfer::listing::find(&args, &environment),
        Command::Config(args) => config_command::run(&args, &commands, &matches, &variables),
    }
}
