//! What a command over many objects says of each: a line for those that need attention, or for every one.

use super::output::{print_json, print_line};
use crate::tools::finding::{Finding, Grade};

#[derive(Clone, Copy)]
pub(crate) struct FindingLines {
    /// A line of JSON for every finding.
    pub json: bool,
    pub verbose: bool,
    /// The name of the pass, which each line of JSON repeats.
    pub pass: &'static str,
}

impl FindingLines {
    pub(crate) fn print(&self, finding: &Finding) {
        if self.json {
            #[derive(serde::Serialize)]
            struct Line<'a> {
                pass: &'static str,
                #[serde(flatten)]
                finding: &'a Finding,
            }
            let pass = self.pass;
            print_json(&Line { pass, finding });
        } else if self.verbose || finding.grade == Grade::Bad {
            let mut line = format!("{}: {}", finding.outcome, finding.key);
            if let Some(detail) = &finding.detail {
                line.push_str(": ");
                line.push_str(detail);
            }
            print_line(&line);
        }
    }
}
