//! Tasks of the mount that its end waits for.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::base::sync::lock;

/// Uploads that go on while their files are written, those that are being given up, and what is deleted behind them.
pub(crate) struct BackgroundTasks {
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl BackgroundTasks {
    pub(crate) fn new(runtime: Handle) -> Arc<BackgroundTasks> {
        Arc::new(BackgroundTasks {
            runtime,
            tasks: Mutex::default(),
        })
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(work, &self.runtime);
    }

    /// Waits until no stream goes on any more, and nothing is being given up. When every file is published,
    /// or was given up on, they all come to an end.
    pub(crate) async fn ended(&self) {
        loop {
            // Streams give up uploads at their end.
            let mut tasks = std::mem::take(&mut *lock(&self.tasks));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}
