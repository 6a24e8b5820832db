//! What a run says of each object, and of all of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::error_chain::chain;
use crate::encrypted;
use crate::envelope::Format;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ListedObject;

/// The result for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// In the desired state, now or before.
    Fine,
    /// Not handled by this command, or deleted in the meantime.
    Left,
    /// Needs attention.
    Bad,
}

/// The finding about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// One word, the same for all objects with the same result: reports count by it.
    pub outcome: &'static str,
    pub grade: Grade,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Finding {
    pub(crate) fn new(object: &ListedObject, grade: Grade, outcome: &'static str) -> Finding {
        Finding {
            key: object.key.clone(),
            size: object.size,
            outcome,
            grade,
            format: None,
            detail: None,
        }
    }

    #[must_use]
    pub(crate) fn format(mut self, format: Format) -> Finding {
        self.format = Some(format.name());
        self
    }

    #[must_use]
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Finding {
        self.detail = Some(detail.into());
        self
    }

    /// For an error that concerns this object.
    ///
    /// # Errors
    /// An error that concerns the bucket is returned: see [`Scope::for_each`](super::bulk::Scope::for_each).
    pub(crate) fn failed(
        object: &ListedObject,
        error: encrypted::Error,
    ) -> Result<Finding, StoreError> {
        use encrypted::Error as E;
        let outcome = match &error {
            E::Store(StoreError::NotFound) => {
                return Ok(Finding::new(object, Grade::Left, "gone"));
            }
            E::Store(store) if is_general(store) => return Err(store.clone()),
            E::Store(StoreError::Archived(_)) => "archived",
            E::Store(StoreError::PreconditionFailed) => "replaced-meanwhile",
            E::KeyMissing(_) => "key-missing",
            E::WrongKey => "wrong-key",
            E::Damaged(_) | E::Store(StoreError::Corrupt(_)) => "damaged",
            E::NotEncrypted => "not-encrypted",
            E::Unsupported(_) => "unsupported",
            E::Store(_) | E::Abandoned(_) => "failed",
        };
        Ok(Finding::new(object, Grade::Bad, outcome).detail(chain(&error)))
    }
}

/// Whether the next object would fail with the same error.
fn is_general(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::TimedOut(_)
            | StoreError::Unavailable(_)
            | StoreError::AccessDenied(_)
            | StoreError::Misconfigured(_)
            | StoreError::NoSuchBucket(_)
            | StoreError::NoSpace(_)
            | StoreError::Quota(_)
    )
}

/// The findings of a run, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub objects: u64,
    pub bytes: u64,
    /// The number of [`Grade::Bad`] findings.
    pub bad: u64,
    pub outcomes: BTreeMap<Cow<'static, str>, u64>,
}

impl Summary {
    pub(crate) fn count(&mut self, finding: &Finding) {
        self.objects += 1;
        self.bytes += finding.size;
        self.bad += u64::from(finding.grade == Grade::Bad);
        *self
            .outcomes
            .entry(Cow::Borrowed(finding.outcome))
            .or_default() += 1;
    }

    pub(crate) fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }
}
