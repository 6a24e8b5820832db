use std::process::ExitCode;

use clap::Parser;
use ossvault::cli::exit::Code;
use ossvault::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // --help and --version arrive here too.
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Success
            };
            return ExitCode::from(code.number());
        }
    };
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ossvault: {error}");
            ExitCode::from(error.code().number())
        }
    }
}
