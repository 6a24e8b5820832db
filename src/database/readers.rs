//! The connections that read: a pool.

use std::ops::Deref;
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use super::connection::roll_back;
use crate::base::sync::lock;

pub(super) struct Readers {
    idle: Mutex<Idle>,
    returned: Condvar,
}

struct Idle {
    connections: Vec<Connection>,
    /// Threads that wait for one.
    waiting: usize,
}

/// A connection that is lent; it is returned outside of any transaction.
pub(super) struct Reader<'a> {
    readers: &'a Readers,
    /// None only while it is dropped.
    connection: Option<Connection>,
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Readers {
        Readers {
            idle: Mutex::new(Idle {
                connections,
                waiting: 0,
            }),
            returned: Condvar::new(),
        }
    }

    /// Waits until one is idle.
    pub(super) fn take(&self) -> Reader<'_> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(connection) = idle.connections.pop() {
                return Reader {
                    readers: self,
                    connection: Some(connection),
                };
            }
            idle.waiting += 1;
            idle = (self.returned.wait(idle)).unwrap_or_else(PoisonError::into_inner);
            idle.waiting -= 1;
        }
    }
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is taken at the drop")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            roll_back(&connection);
            let mut idle = lock(&self.readers.idle);
            idle.connections.push(connection);
            if idle.waiting > 0 {
                self.readers.returned.notify_one();
            }
        }
    }
}
