//! The server: accepts connections on loopback and takes each request through its stations.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[cfg(feature = "instruments")]
use super::instrumented::answer;
#[cfg(feature = "instruments")]
use super::instruments::Instruments;
use super::pace::Paced;
#[cfg(not(feature = "instruments"))]
use super::service::answer;
use super::state::{Config, ServerState};
use crate::store::error::Error;
use crate::store::local::LocalStore;

/// A request may have so many headers: 8 KiB of metadata in small entries, and more.
const MAX_HEADERS: usize = 512;

/// hyper's buffer for reading and writing: bodies move in pieces of up to this size.
const CONNECTION_BUFFER: usize = 1 << 20;

/// A running server; it ends when this is dropped.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<ServerState>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens, and serves on the runtime that calls this.
    ///
    /// # Errors
    /// An address that is not loopback or not free; a folder that cannot be made.
    pub async fn start(config: Config) -> io::Result<Server> {
        if !config.listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a loopback address", config.listen.ip()),
            ));
        }
        let state = ServerState::new(config)?;
        let listener = TcpListener::bind(state.config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(state);
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, shared.clone(), stopped));
        Ok(Server {
            addr,
            shared,
            stop,
            accepting,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For a client's `--endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    #[cfg(feature = "instruments")]
    pub fn instruments(&self) -> &Arc<Instruments> {
        &self.shared.instruments
    }

    /// Makes the bucket if it does not exist. Blocks.
    ///
    /// # Errors
    /// Those of [`LocalStore::open`]; [`Error::NoSuchBucket`] for a name no bucket can have.
    pub fn create_bucket(&self, name: &str) -> std::result::Result<LocalStore, Error> {
        self.shared.create_bucket_blocking(name)
    }

    /// Takes no further connection and ends those that are open when their request is answered, or after
    /// `patience`.
    pub async fn shutdown(mut self, patience: Duration) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(patience, &mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The connections' tasks are in a set that ends with this one.
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < shared.config.max_connections;
        let accepted = tokio::select! {
            accepted = listener.accept(), if has_room => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            () = until(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, shared.clone(), stopped.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free again.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns when the server shall stop.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    shared: Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let patience = shared.config.patience;
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { answer(shared, request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(CONNECTION_BUFFER)
        .serve_connection(TokioIo::new(Paced::new(stream, patience.answer)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a connection ended: {error}");
    }
}
