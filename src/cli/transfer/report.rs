//! What a transfer says: a line for each file that needs attention, or for every one; a line of progress on stderr, drawn
//! over itself at a terminal and printed every ten seconds elsewhere; and one line at the end.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cli::output::{print_json, print_line, tell};
use crate::tools::bulk::{Finding, Grade, Progress, Summary};

const REDRAW: Duration = Duration::from_millis(500);
const PLAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
pub(super) struct Report {
    pub json: bool,
    pub verbose: bool,
    pub quiet: bool,
    /// The command's name.
    pub pass: &'static str,
    pub began: Instant,
}

impl Report {
    /// At a terminal.
    pub(super) fn draws(&self) -> bool {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        std::io::stderr().is_terminal() && !dumb
    }

    /// How often [`progress`](Self::progress) is called.
    pub(super) fn interval(&self) -> Duration {
        match self.draws() {
            true => REDRAW,
            false => PLAIN,
        }
    }

    pub(super) fn finding(&self, finding: &Finding) {
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
            if !self.quiet && self.draws() {
                draw("");
            }
            let mut line = format!("{}: {}", finding.outcome, finding.key);
            if let Some(detail) = &finding.detail {
                line.push_str(": ");
                line.push_str(detail);
            }
            print_line(&line);
        }
    }

    /// `moved`: bytes of files that are not done yet, too.
    pub(super) fn progress(&self, progress: &Progress, moved: u64) {
        if self.quiet {
            return;
        }
        let line = self.line(progress, moved);
        match self.draws() {
            true => draw(&line),
            false => tell(&line),
        }
    }

    fn line(&self, progress: &Progress, moved: u64) -> String {
        let done = progress.done.load(Ordering::Relaxed);
        let bytes = progress.bytes.load(Ordering::Relaxed).max(moved);
        let bad = progress.bad.load(Ordering::Relaxed);
        let rate = moved as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let mut line = format!(
            "{}: {done} files, {}, {}/s",
            self.pass,
            human(bytes),
            human(rate as u64)
        );
        if bad > 0 {
            line.push_str(&format!(", {bad} need attention"));
        }
        line
    }

    pub(super) fn summary(&self, summary: &Summary, dry_run: bool) {
        if !self.quiet && self.draws() {
            draw("");
        }
        let took = self.began.elapsed().as_secs_f64();
        if self.json {
            print_json(&serde_json::json!({
                "pass": self.pass,
                "summary": summary,
                "dry_run": dry_run,
                "seconds": (took * 1000.0).round() / 1000.0,
            }));
        } else if !self.quiet {
            print_line(&format!("{} ({took:.1} s)", counted(self.pass, summary)));
        }
    }
}

/// `put: 12 files, 3.4 MiB: 10 stored, 2 unchanged`
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

pub(super) fn draw(text: &str) {
    let mut out = std::io::stderr();
    let _ = write!(out, "\r\x1b[K{text}");
    let _ = out.flush();
}

/// `17 B`, `3.4 MiB`
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    for next in units {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (3_565_158, "3.4 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn a_summary_counts_by_outcome() {
        let mut summary = Summary::default();
        for (outcome, size) in [("stored", 2048), ("stored", 0), ("unchanged", 0)] {
            let found = crate::transfer::entry::finding("k", size, Grade::Fine, outcome);
            summary.count(&found);
        }
        assert_eq!(
            counted("put", &summary),
            "put: 3 files, 2.0 KiB: 2 stored, 1 unchanged"
        );
    }
}
