//! The progress of a long command, on stderr: one line that is redrawn on a terminal, a plain line every ten
//! seconds elsewhere.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::tell;
use crate::tools::bulk::Progress;

/// Interval between redraws on a terminal.
const REDRAW: Duration = Duration::from_millis(500);

/// Interval between lines elsewhere: a log stays readable.
const LINE: Duration = Duration::from_secs(10);

/// The message is cut where a narrow terminal has no room for it. There are no colours: NO_COLOR has nothing to change.
const TEMPLATE: &str = "{wide_msg} [{bar:16}]";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Hidden,
    /// Redrawn in place, and cut at the terminal's width.
    Bar,
    /// Also on a terminal that cannot move its cursor (TERM=dumb).
    Lines,
}

/// The display of one pass over many objects. Removed from the terminal on drop.
pub(super) struct ProgressDisplay {
    pass: &'static str,
    noun: &'static str,
    style: Style,
    bar: ProgressBar,
    began: Instant,
}

impl ProgressDisplay {
    /// `pass` begins each line, `noun` is what it counts, in the plural; `quiet` shows nothing.
    pub(super) fn new(pass: &'static str, noun: &'static str, quiet: bool) -> ProgressDisplay {
        let terminal = ProgressDrawTarget::stderr();
        let style = match (quiet, terminal.is_hidden()) {
            (true, _) => Style::Hidden,
            (false, true) => Style::Lines,
            (false, false) => Style::Bar,
        };
        let bar = match style {
            Style::Bar => ProgressBar::with_draw_target(None, terminal),
            Style::Hidden | Style::Lines => ProgressBar::hidden(),
        };
        let template = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
        bar.set_style(template.progress_chars("=> "));
        ProgressDisplay {
            pass,
            noun,
            style,
            bar,
            began: Instant::now(),
        }
    }

    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the result of `work`, and shows its progress meanwhile: of what is done, and the bytes that `moved` knows
    /// of, which are more if large objects are under way. `counting` fills in the totals; it starts with the first line
    /// that is shown, since it takes requests of its own.
    pub(super) async fn during<T>(
        &self,
        progress: &Progress,
        moved: impl Fn() -> u64,
        counting: impl Future<Output = ()>,
        work: impl Future<Output = T>,
    ) -> T {
        let interval = match self.style {
            Style::Hidden => return work.await,
            Style::Bar => REDRAW,
            Style::Lines => LINE,
        };
        let mut work = std::pin::pin!(work);
        let mut counting = std::pin::pin!(counting);
        let mut counted = false;
        let mut shown = false;
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = &mut counting, if shown && !counted => counted = true,
                _ = tick.tick() => {
                    shown = true;
                    self.show(progress, moved());
                }
            }
        }
    }

    fn show(&self, progress: &Progress, moved: u64) {
        let line = line(self.pass, self.noun, progress, moved, self.took());
        match self.style {
            Style::Hidden => {}
            Style::Lines => tell(&line),
            Style::Bar => {
                let total = progress.total.load(Ordering::Relaxed);
                if total > 0 {
                    self.bar.set_length(total);
                }
                self.bar.set_position(progress.done.load(Ordering::Relaxed));
                self.bar.set_message(line);
                self.bar.tick();
            }
        }
    }

    /// Runs `print`, which writes to the terminal, without mixing its lines with the display.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `rewrap: 1200 of 10000 objects, 3.10 GiB of 20.41 GiB, 640/s, 51.20 MiB/s, 14 s left`
fn line(pass: &str, noun: &str, progress: &Progress, moved: u64, took: Duration) -> String {
    let done = progress.done.load(Ordering::Relaxed);
    let total = progress.total.load(Ordering::Relaxed);
    let bytes = progress.bytes.load(Ordering::Relaxed).max(moved);
    let total_bytes = progress.total_bytes.load(Ordering::Relaxed);
    let bad = progress.bad.load(Ordering::Relaxed);
    let seconds = took.as_secs_f64().max(0.001);
    let mut text = match total {
        0 => format!("{pass}: {done} {noun}, {}", BinaryBytes(bytes)),
        _ => format!(
            "{pass}: {done} of {total} {noun}, {} of {}",
            BinaryBytes(bytes),
            BinaryBytes(total_bytes)
        ),
    };
    text.push_str(&format!(
        ", {:.0}/s, {}/s",
        done as f64 / seconds,
        BinaryBytes((bytes as f64 / seconds) as u64)
    ));
    if total > done && done > 0 {
        // Large objects take their bytes' time, small ones a request's: the slower of the two.
        let share = |done: u64, total: u64| {
            seconds * total.saturating_sub(done) as f64 / done.max(1) as f64
        };
        let left = match bytes {
            0 => share(done, total),
            _ => share(done, total).max(share(bytes, total_bytes)),
        };
        text.push_str(&format!(", {} left", duration(left)));
    }
    if bad > 0 {
        text.push_str(&format!(", {bad} need attention"));
    }
    text
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_is_left_once_it_is_counted() {
        let progress = Progress::default();
        progress.done.store(1000, Ordering::Relaxed);
        progress.bytes.store(10 << 20, Ordering::Relaxed);
        let took = Duration::from_secs(10);
        assert_eq!(
            line("rewrap", "objects", &progress, 0, took),
            "rewrap: 1000 objects, 10.00 MiB, 100/s, 1.00 MiB/s"
        );
        assert_eq!(
            line("put", "files", &progress, 30 << 20, took),
            "put: 1000 files, 30.00 MiB, 100/s, 3.00 MiB/s"
        );
        for (total, mebibytes, left) in [
            (2000, 20, "10 s"),
            // The bytes take longer than their number would.
            (2000, 1010, "17 min"),
            (100_000, 1000, "17 min"),
            (1_000_000, 1000, "2 h 46 min"),
        ] {
            progress.total.store(total, Ordering::Relaxed);
            progress
                .total_bytes
                .store(mebibytes << 20, Ordering::Relaxed);
            assert!(
                line("rewrap", "objects", &progress, 0, took)
                    .starts_with(&format!("rewrap: 1000 of {total} objects, 10.00 MiB of ")),
            );
            assert!(
                line("rewrap", "objects", &progress, 0, took)
                    .ends_with(&format!(", 100/s, 1.00 MiB/s, {left} left")),
                "{}",
                line("rewrap", "objects", &progress, 0, took)
            );
        }
    }
}
