//! Checks and their verdicts.

use serde::Serialize;

use crate::text::one_line;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// A mount works, but not as well as it could, or not in all cases.
    Warning,
    Failed,
    /// It needs something that another check did not find.
    Skipped,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Receives each check as it ends.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&Check) + Send);

/// The checks so far.
pub(crate) struct Checks<'a> {
    sink: Sink<'a>,
    done: Vec<Check>,
}

impl<'a> Checks<'a> {
    pub(crate) fn new(sink: Sink<'a>) -> Checks<'a> {
        Checks {
            sink,
            done: Vec::new(),
        }
    }

    fn add(&mut self, name: &'static str, verdict: Verdict, found: String, remedy: Option<String>) {
        let check = Check {
            name,
            verdict,
            found: one_line(&found),
            remedy: remedy.map(|remedy| one_line(&remedy)),
        };
        (self.sink)(&check);
        self.done.push(check);
    }

    pub(crate) fn ok(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Verdict::Ok, found.into(), None);
    }

    pub(crate) fn warn(
        &mut self,
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(name, Verdict::Warning, found.into(), Some(remedy.into()));
    }

    pub(crate) fn fail(
        &mut self,
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(name, Verdict::Failed, found.into(), Some(remedy.into()));
    }

    pub(crate) fn skip(&mut self, name: &'static str, because: impl Into<String>) {
        self.add(name, Verdict::Skipped, because.into(), None);
    }

    pub(crate) fn skip_all(&mut self, names: &[&'static str], because: &str) {
        for name in names {
            self.skip(name, because);
        }
    }

    pub(crate) fn verdict(&self, name: &str) -> Option<Verdict> {
        let found = self.done.iter().rev().find(|check| check.name == name);
        found.map(|check| check.verdict)
    }

    pub(crate) fn is_ok(&self, name: &str) -> bool {
        matches!(self.verdict(name), Some(Verdict::Ok | Verdict::Warning))
    }

    pub(crate) fn into_done(self) -> Vec<Check> {
        self.done
    }
}

/// Of many checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub ok: usize,
    pub warnings: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Summary {
    pub(crate) fn of(checks: &[Check]) -> Summary {
        let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
        Summary {
            ok: count(Verdict::Ok),
            warnings: count(Verdict::Warning),
            failed: count(Verdict::Failed),
            skipped: count(Verdict::Skipped),
        }
    }
}
