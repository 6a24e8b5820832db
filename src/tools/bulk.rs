//! Processes every object below a prefix, many in parallel.
//!
//! The listing runs one page ahead of the work. Each finding is passed on at once and not kept. The client
//! retries throttled requests; if so many objects in a row cannot be reached that the service seems to be
//! down, the run ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;

use super::finding::{Finding, Grade, Summary};
use super::inventory::Inventory;
use super::report::{Position, Report};
use super::shard::Shard;
use crate::base::error_chain::chain;
use crate::encrypted::key_marker::is_marker as is_marker_of_keys;
use crate::files::attributes::Attributes;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    ListRequest, ListedObject, ObjectHeaders, ObjectMeta, ObjectStore,
};

/// Maximum number of listed objects that wait to be processed: one page besides the current one.
const LISTED_AHEAD: usize = 1000;

/// The progress of a run, for display.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The number of objects below the prefix; 0 until they are counted.
    pub total: AtomicU64,
    /// Their sizes, once they are counted.
    pub total_bytes: AtomicU64,
    pub done: AtomicU64,
    /// Of the completed objects.
    pub bytes: AtomicU64,
    pub bad: AtomicU64,
}

/// Receives findings as they arrive.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&Finding) + Send);

/// The objects of a run, and the number processed in parallel.
#[derive(Clone)]
pub(crate) struct Scope {
    pub store: Arc<dyn ObjectStore>,
    /// Empty, or ends with `/`.
    pub prefix: String,
    pub parallel: usize,
    pub selection: Selection,
}

/// Which of the objects below the prefix a run processes, and where it goes on after an interruption.
#[derive(Clone, Default)]
pub(crate) struct Selection {
    /// Names the objects in place of a listing.
    pub inventory: Option<Arc<Inventory>>,
    /// Only those of this part.
    pub shard: Option<Shard>,
    /// Learns of each object, and knows those that an interrupted run has finished.
    pub report: Option<Arc<Report>>,
    /// What comes before is finished.
    pub position: Position,
}

impl Scope {
    /// Processes every object. `work` returns a finding, or an error that does not concern a single object.
    ///
    /// # Errors
    /// As [`each`](Self::each).
    pub(crate) async fn for_each<F, W>(
        &self,
        progress: &Progress,
        sink: Sink<'_>,
        work: F,
    ) -> Result<Summary, StoreError>
    where
        F: Fn(ListedObject) -> W + Send,
        W: Future<Output = Result<Finding, StoreError>> + Send + 'static,
    {
        let objects = self
            .objects()
            .map(move |listed| listed.map(|object| (object.clone(), work(object))));
        self.each(objects, progress, sink).await
    }

    /// Runs the work for each object of the stream.
    ///
    /// # Errors
    /// The stream's errors; the last of more than `parallel` errors in a row that do not concern a single
    /// object.
    pub(crate) async fn each<W>(
        &self,
        objects: impl Stream<Item = Result<(ListedObject, W), StoreError>> + Send,
        progress: &Progress,
        sink: Sink<'_>,
    ) -> Result<Summary, StoreError>
    where
        W: Future<Output = Result<Finding, StoreError>> + Send + 'static,
    {
        let works = objects.map(|object| {
            object.map(|(object, work)| {
                let lost = Finding::new(&object, Grade::Bad, "failed");
                (lost, async move { work.await.map(|finding| vec![finding]) })
            })
        });
        each(works, self.parallel, progress, sink).await
    }

    /// The objects of the run that are not finished yet: in the order of their keys, or in that of the inventory.
    pub(crate) fn objects(
        &self,
    ) -> impl Stream<Item = Result<ListedObject, StoreError>> + Send + use<> {
        let report = self.selection.report.clone();
        self.selected().filter_map(move |object| {
            let next = object.and_then(|object| {
                let left = match &report {
                    Some(report) => report.object(&object.key)?,
                    None => true,
                };
                Ok(left.then_some(object))
            });
            std::future::ready(next.transpose())
        })
    }

    /// All objects below the prefix, in the order of their keys.
    pub(crate) fn listing(&self) -> mpsc::Receiver<Result<ListedObject, StoreError>> {
        self.list_after(None)
    }

    fn list_after(
        &self,
        after: Option<String>,
    ) -> mpsc::Receiver<Result<ListedObject, StoreError>> {
        let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
        let request = ListRequest {
            prefix: self.prefix.clone(),
            start_after: after,
            ..ListRequest::default()
        };
        tokio::spawn(list(self.store.clone(), request, sender));
        receiver
    }

    /// The objects of the run after its position.
    fn selected(&self) -> impl Stream<Item = Result<ListedObject, StoreError>> + Send + use<> {
        let Selection {
            inventory,
            shard,
            position,
            ..
        } = self.selection.clone();
        // A listing begins there; an inventory is in no known order.
        let mut before = match &inventory {
            Some(_) => position.objects,
            None => 0,
        };
        let receiver = match inventory {
            Some(inventory) => inventory.objects(self.prefix.clone()),
            None => self.list_after(position.after),
        };
        let objects = stream::unfold(receiver, |mut receiver| async move {
            let object = receiver.recv().await?;
            Some((object, receiver))
        });
        objects.filter(move |object| {
            let mut wanted = match (object, shard) {
                (Ok(object), Some(shard)) => shard.contains(&object.key),
                _ => true,
            };
            if wanted && object.is_ok() && before > 0 {
                before -= 1;
                wanted = false;
            }
            std::future::ready(wanted)
        })
    }

    /// Counts the objects with a separate listing, so that a run can show how much is left. An inventory is not read
    /// twice, nor a bucket listed twice for a part of it.
    pub(crate) async fn count(&self, progress: &Progress) {
        if self.selection.inventory.is_some() || self.selection.shard.is_some() {
            return;
        }
        let mut objects = std::pin::pin!(self.selected());
        let (mut total, mut bytes) = (0, 0_u64);
        while let Some(object) = objects.next().await {
            let Ok(object) = object else {
                return;
            };
            total += 1;
            bytes = bytes.saturating_add(object.size);
        }
        progress.total_bytes.store(bytes, Ordering::Relaxed);
        progress.total.store(total, Ordering::Relaxed);
    }
}

/// Runs pieces of work, `parallel` at a time. Each comes with the finding that stands for it if it fails with an error
/// that does not concern a single object, and returns its findings otherwise.
///
/// # Errors
/// The stream's errors; the last of more than `parallel` errors in a row that do not concern a single object.
pub(crate) async fn each<W>(
    works: impl Stream<Item = Result<(Finding, W), StoreError>> + Send,
    parallel: usize,
    progress: &Progress,
    sink: Sink<'_>,
) -> Result<Summary, StoreError>
where
    W: Future<Output = Result<Vec<Finding>, StoreError>> + Send + 'static,
{
    let mut summary = Summary::default();
    let mut in_a_row = 0;
    // Each in a task of its own, so that all cores are used for computation.
    let mut findings = std::pin::pin!(
        works
            .map(|work| {
                let task = work.map(|(lost, work)| (lost, tokio::spawn(work)));
                async move {
                    let (lost, task) = task?;
                    let answer = match task.await {
                        Ok(answer) => answer,
                        Err(_) => Ok(vec![lost.clone().detail("internal error: see the log")]),
                    };
                    Ok::<_, StoreError>((lost, answer))
                }
            })
            .buffer_unordered(parallel.max(1))
    );
    while let Some(result) = findings.next().await {
        let (lost, answer) = result?;
        let found = match answer {
            Ok(found) => {
                in_a_row = 0;
                found
            }
            Err(error) => {
                in_a_row += 1;
                if in_a_row > parallel {
                    return Err(error);
                }
                vec![lost.detail(chain(&error))]
            }
        };
        for finding in found {
            summary.count(&finding);
            progress.done.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(finding.size, Ordering::Relaxed);
            if finding.grade == Grade::Bad {
                progress.bad.fetch_add(1, Ordering::Relaxed);
            }
            sink(&finding);
        }
    }
    Ok(summary)
}

/// Ends when the receiver is dropped.
async fn list(
    store: Arc<dyn ObjectStore>,
    mut request: ListRequest,
    sender: mpsc::Sender<Result<ListedObject, StoreError>>,
) {
    loop {
        match store.list(&request).await {
            Ok(page) => {
                // A key marker, of this prefix or of one below it, is no object to work on.
                for object in page.objects.into_iter().filter(|o| !is_marker_of_keys(o)) {
                    if sender.send(Ok(object)).await.is_err() {
                        return;
                    }
                }
                match page.next {
                    None => return,
                    token => request.token = token,
                }
            }
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
    }
}

/// The object that is written back is newer than the file: if the object's time was the file's only time, it
/// becomes the file's stored time.
pub(super) fn keep_time(headers: &mut ObjectHeaders, meta: &ObjectMeta) {
    let mtime = Attributes::read(meta, false).mtime;
    let user = &mut headers.user;
    user.entry("mtime".to_owned())
        .or_insert_with(|| mtime.to_text());
}

/// Whether an object is a directory marker, without content to encrypt.
pub(super) fn is_marker(object: &ListedObject) -> bool {
    object.size == 0 && object.key.ends_with('/')
}
