//! The connection that writes: changes of many threads become one transaction.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use super::connection::{begin, roll_back, run};
use super::error::Error;
use crate::base::sync::lock;

/// The most changes in one transaction. With so many, the wait for the disk is already a small part of each; more
/// would only hold their memory, and the lock, for longer.
const GROUP: usize = 256;

pub(super) struct Writer {
    /// Every group compares it: a newer program may have migrated the database meanwhile.
    version: i32,
    /// Taken before `connection`, and never held while the database works.
    queue: Mutex<Queue>,
    /// A leader has finished.
    turned: Condvar,
    /// Held by the leader, across disk I/O. What a panic leaves in it is rolled back before it is used again.
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Change>>,
    /// A thread is committing a group.
    led: bool,
}

/// A change in the queue.
trait Change: Send {
    /// Runs it; false if it is to be undone.
    fn run(&mut self, connection: &Connection) -> bool;
    /// The transaction has ended: with this error, if it was not committed.
    fn settle(&mut self, failed: Option<&Error>);
}

/// Where a caller finds the outcome of its change. The error of the outer result is that of a panic.
type Slot<T, E> = Arc<Mutex<Option<std::thread::Result<Result<T, E>>>>>;

struct Queued<T, E: From<Error>, F> {
    change: Option<F>,
    outcome: Option<std::thread::Result<Result<T, E>>>,
    slot: Slot<T, E>,
}

impl<T, E, F> Change for Queued<T, E, F>
where
    T: Send,
    E: From<Error> + Send,
    F: FnOnce(&Connection) -> Result<T, E> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(change) = self.change.take() else {
            return false;
        };
        // A panic continues in the caller's thread; the leader has other changes to commit.
        let outcome = catch_unwind(AssertUnwindSafe(|| change(connection)));
        let keep = matches!(outcome, Ok(Ok(_)));
        self.outcome = Some(outcome);
        keep
    }

    fn settle(&mut self, failed: Option<&Error>) {
        let outcome = match (self.outcome.take(), failed) {
            (Some(Err(panic)), _) => Err(panic),
            // Even if it was refused: the changes that it saw were rolled back.
            (_, Some(error)) => Ok(Err(error.clone().into())),
            (Some(outcome), None) => outcome,
            (None, None) => Ok(Err(Error::Abandoned.into())),
        };
        *lock(&self.slot) = Some(outcome);
    }
}

/// Even if the leader panics, no caller waits for an outcome that never comes.
impl<T, E: From<Error>, F> Drop for Queued<T, E, F> {
    fn drop(&mut self) {
        lock(&self.slot).get_or_insert_with(|| Ok(Err(Error::Abandoned.into())));
    }
}

/// Held while a thread leads.
struct Leading<'a>(&'a Writer);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).led = false;
        self.0.turned.notify_all();
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, version: i32) -> Writer {
        Writer {
            version,
            queue: Mutex::default(),
            turned: Condvar::new(),
            connection: Mutex::new(connection),
        }
    }

    pub(super) fn connection(&self) -> &Mutex<Connection> {
        &self.connection
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.queue).waiting.len()
    }

    /// See [`super::Database::write`].
    pub(super) fn commit<T, E>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let slot = Slot::default();
        let mut queue = lock(&self.queue);
        queue.waiting.push_back(Box::new(Queued {
            change: Some(change),
            outcome: None,
            slot: slot.clone(),
        }));
        loop {
            if let Some(outcome) = lock(&slot).take() {
                return outcome.unwrap_or_else(|panic| resume_unwind(panic));
            }
            if queue.led {
                queue = (self.turned.wait(queue)).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.led = true;
            let leading = Leading(self);
            let most = queue.waiting.len().min(GROUP);
            let mut group: Vec<_> = queue.waiting.drain(..most).collect();
            drop(queue);
            self.lead(&mut group);
            drop(leading);
            queue = lock(&self.queue);
        }
    }

    fn lead(&self, group: &mut [Box<dyn Change>]) {
        let connection = lock(&self.connection);
        let failed = self.commit_group(&connection, group).err();
        roll_back(&connection);
        drop(connection);
        for change in group {
            change.settle(failed.as_ref());
        }
    }

    fn commit_group(
        &self,
        connection: &Connection,
        group: &mut [Box<dyn Change>],
    ) -> Result<(), Error> {
        begin(connection, "BEGIN IMMEDIATE")?;
        let found: i32 = connection
            .prepare_cached("PRAGMA user_version")?
            .query_row((), |row| row.get(0))?;
        if found != self.version {
            let known = self.version;
            return Err(Error::Newer { found, known });
        }
        let alone = group.len() == 1;
        let mut kept = 0;
        for change in group {
            if !alone {
                run(connection, "SAVEPOINT change")?;
            }
            let keep = change.run(connection);
            kept += u32::from(keep);
            if connection.is_autocommit() {
                // SQLite has rolled back the whole transaction: the disk is full, or a page is damaged.
                return if alone && !keep {
                    Ok(())
                } else {
                    Err(Error::Abandoned)
                };
            }
            if !keep && !alone {
                run(connection, "ROLLBACK TO change")?;
            }
            if !alone {
                run(connection, "RELEASE change")?;
            }
        }
        match kept {
            0 => Ok(()),
            _ => run(connection, "COMMIT"),
        }
    }
}
