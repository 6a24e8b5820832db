//! Writes the man pages and the shell completions, which are derived from the command line's definition.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap_complete::Shell;
use clap_mangen::Man;

/// Writes DIRECTORY/man/*.1 and DIRECTORY/completions
#[derive(Parser)]
struct Args {
    directory: PathBuf,
}

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let directory = Args::parse().directory;
    match write_man_pages(&directory.join("man"))
        .and_then(|()| write_completions(&directory.join("completions")))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "ossvault-packaging: cannot write to {}: {error}",
                directory.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// One page for the program, and one for each command: `ossvault-mount.1`.
fn write_man_pages(folder: &std::path::Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut program = ossvault::cli::command();
    program.build();
    for command in program
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        if command.get_name() == "help" {
            continue;
        }
        let name = format!("ossvault-{}", command.get_name());
        let page = command.clone().name(leak(&name));
        write_page(&folder.join(format!("{name}.1")), page)?;
    }
    write_page(&folder.join("ossvault.1"), program)
}

fn write_page(path: &std::path::Path, command: clap::Command) -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(command)
        .source(concat!("ossvault ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    fs::write(path, page)
}

fn write_completions(folder: &std::path::Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut ossvault::cli::command(), "ossvault", folder)?;
    }
    Ok(())
}

/// A name of a command is borrowed for as long as the program runs; there are a dozen.
fn leak(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}
