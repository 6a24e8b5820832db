//! The commands. Configuration is read, checked and turned into parts here; nothing below knows of it.

pub mod error;
pub mod exit;
pub mod values;

mod background;
mod config;
mod daemon_file;
mod demo;
mod keygen;
mod keys;
mod logging;
mod mount;
mod options;
mod parts;
mod secrets;
pub mod serve;
mod source;
mod umount;

use clap::{Parser, Subcommand};

use error::Error;
use exit::Code;

/// Mounts an Alibaba Cloud OSS bucket as an encrypted directory
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(keygen::Args),
    Mount(Box<mount::Args>),
    Umount(umount::Args),
    Serve(serve::ServeArgs),
    Demo(demo::Args),
}

/// # Errors
/// What `main` shows, and the code it exits with.
pub fn run(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Command::Keygen(args) => keygen::run(&args),
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => umount::run(&args),
        Command::Serve(args) => {
            logging::start(0).to_terminal();
            serve::run(&args, |name| std::env::var(name).ok())
                .map_err(|message| Error::new(Code::Failure, message))
        }
        Command::Demo(args) => demo::run(&args),
    }
}
