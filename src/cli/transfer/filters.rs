//! `--include`, `--exclude`, `--filter` and their files. Their order on the command line counts, across all of them, so
//! they are read from there and not one option after the other.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::text;
use crate::transfer::filter::{Filter, InvalidRule};

#[derive(Clone, Debug)]
enum Rule {
    Pattern(bool, String),
    Filter(String),
    File(bool, PathBuf),
}

/// In the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct FilterOptions {
    rules: Vec<Rule>,
}

const HEADING: &str = "Filters";

impl FilterOptions {
    /// # Errors
    /// A rule is none, or a file cannot be read.
    pub(super) fn filter(&self) -> Result<Filter> {
        let mut filter = Filter::default();
        for rule in &self.rules {
            let invalid = |option: &str, error: InvalidRule| {
                Error::new(Code::Usage, format!("{option}: {error}"))
            };
            match rule {
                Rule::Pattern(includes, pattern) => {
                    filter.add_pattern(*includes, pattern).map_err(|error| {
                        invalid(if *includes { "--include" } else { "--exclude" }, error)
                    })?
                }
                Rule::Filter(rule) => filter
                    .add_rule(rule)
                    .map_err(|error| invalid("--filter", error))?,
                Rule::File(includes, path) => {
                    let lines = std::fs::read_to_string(path).map_err(|error| {
                        let message = format!("cannot read {}: {error}", text::path(path));
                        Error::new(Code::Local, message)
                    })?;
                    filter
                        .add_lines(*includes, &lines)
                        .map_err(|error| invalid(&text::path(path), error))?;
                }
            }
        }
        Ok(filter)
    }
}

impl clap::FromArgMatches for FilterOptions {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut rules: Vec<(usize, Rule)> = Vec::new();
        let texts = |id: &str, rule: &dyn Fn(String) -> Rule| {
            let values = matches.get_many::<String>(id).unwrap_or_default().cloned();
            let indices = matches.indices_of(id).unwrap_or_default();
            indices.zip(values.map(rule)).collect::<Vec<_>>()
        };
        rules.extend(texts("include", &|text| Rule::Pattern(true, text)));
        rules.extend(texts("exclude", &|text| Rule::Pattern(false, text)));
        rules.extend(texts("filter", &Rule::Filter));
        for (id, includes) in [("include_from", true), ("exclude_from", false)] {
            let values = matches.get_many::<PathBuf>(id).unwrap_or_default().cloned();
            let indices = matches.indices_of(id).unwrap_or_default();
            rules.extend(indices.zip(values.map(|path| Rule::File(includes, path))));
        }
        rules.sort_by_key(|(index, _)| *index);
        let rules = rules.into_iter().map(|(_, rule)| rule).collect();
        Ok(FilterOptions { rules })
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = FilterOptions::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for FilterOptions {
    fn augment_args(command: Command) -> Command {
        let text = |id: &'static str, help: &'static str, value: &'static str| {
            Arg::new(id)
                .long(id)
                .value_name(value)
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .help(help)
                .help_heading(HEADING)
        };
        let file = |id: &'static str, long: &'static str, help: &'static str| {
            Arg::new(id)
                .long(long)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .help(help)
                .help_heading(HEADING)
        };
        command
            .arg(text(
                "exclude",
                "Leave out what matches this pattern of rsync's (repeatable; of all filters, in their order, the first that matches counts)",
                "PATTERN",
            ))
            .arg(text(
                "include",
                "Do not leave out what matches this pattern, whatever later filters say (repeatable)",
                "PATTERN",
            ))
            .arg(text(
                "filter",
                "A rule of rsync's: \"+ PATTERN\" or \"- PATTERN\" (repeatable)",
                "RULE",
            ))
            .arg(file(
                "exclude_from",
                "exclude-from",
                "Read patterns to exclude from this file, one a line (repeatable)",
            ))
            .arg(file(
                "include_from",
                "include-from",
                "Read patterns to include from this file, one a line (repeatable)",
            ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        FilterOptions::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filters: FilterOptions,
    }

    #[test]
    fn filters_count_in_the_order_of_the_command_line() {
        let filter = |line: &[&str]| {
            let line = Line::parse_from([&["ossvault"], line].concat());
            line.filters.filter().unwrap()
        };
        let keep = filter(&["--include", "*.c", "--exclude=*", "--filter", "+ *.h"]);
        assert!(keep.includes("a.c", false) && !keep.includes("a.h", false));
        let keep = filter(&["--filter", "+ *.h", "--exclude=*", "--include", "*.c"]);
        assert!(!keep.includes("a.c", false) && keep.includes("a.h", false));
        let line = Line::parse_from(["ossvault", "--filter", ": .rsync-filter"]);
        assert_eq!(line.filters.filter().unwrap_err().code(), Code::Usage);
    }
}
