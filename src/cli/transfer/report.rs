//! What a transfer says: a line for each file that needs attention, or for every one; its progress; and one line at the
//! end.

use std::time::Instant;

use indicatif::BinaryBytes;

use crate::cli::findings::FindingLines;
use crate::cli::output::{print_json, print_line};
use crate::tools::finding::Summary;

#[derive(Clone, Copy)]
pub(super) struct Report {
    pub lines: FindingLines,
    pub quiet: bool,
    pub began: Instant,
}

impl Report {
    pub(super) fn summary(&self, summary: &Summary, dry_run: bool) {
        let took = self.began.elapsed().as_secs_f64();
        if self.lines.json {
            print_json(&serde_json::json!({
                "pass": self.lines.pass,
                "summary": summary,
                "dry_run": dry_run,
                "seconds": (took * 1000.0).round() / 1000.0,
            }));
        } else if !self.quiet {
            print_line(&format!(
                "{} ({took:.1} s)",
                counted(self.lines.pass, summary)
            ));
        }
    }
}

/// `put: 12 files, 3.40 MiB: 10 stored, 2 unchanged`
pub(super) fn counted(pass: &str, summary: &Summary) -> String {
    let mut text = format!(
        "{pass}: {} files, {}",
        summary.objects,
        human(summary.bytes)
    );
    let mut separator = ": ";
    for (outcome, count) in &summary.outcomes {
        text.push_str(&format!("{separator}{count} {outcome}"));
        separator = ", ";
    }
    text
}

/// `17 B`, `3.40 MiB`
pub(super) fn human(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::finding::Grade;

    #[test]
    fn a_summary_counts_by_outcome() {
        let mut summary = Summary::default();
        for (outcome, size) in [("stored", 2048), ("stored", 0), ("unchanged", 0)] {
            let found = crate::transfer::entry::finding("k", size, Grade::Fine, outcome);
            summary.count(&found);
        }
        assert_eq!(
            counted("put", &summary),
            "put: 3 files, 2.00 KiB: 2 stored, 1 unchanged"
        );
    }
}
