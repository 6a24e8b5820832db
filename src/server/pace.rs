//! How long clients may take: for a request's head, its body, and for reading the answer.
//!
//! A connection costs a descriptor and up to two megabytes of buffers. One that does not move is closed, so that
//! clients that hang, or mean harm, do not keep the others out.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes of a body that have to arrive within [`Patience::body`], or the last of it.
const FLOOR: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the whole head of a request, and between two requests.
    pub head: Duration,
    /// For a whole document, and for each [`FLOOR`] bytes of an object.
    pub body: Duration,
    /// For the client to take more of the answer.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            head: Duration::from_secs(120),
            body: Duration::from_secs(60),
            answer: Duration::from_secs(120),
        }
    }
}

/// The least speed of a body.
pub struct Floor {
    window: Duration,
    end: Instant,
    arrived: usize,
}

impl Floor {
    pub fn new(patience: Patience) -> Floor {
        Floor {
            window: patience.body,
            end: Instant::now() + patience.body,
            arrived: 0,
        }
    }

    /// # Errors
    /// When the window ends before that.
    pub async fn next<T>(
        &self,
        frame: impl Future<Output = T>,
    ) -> Result<T, tokio::time::error::Elapsed> {
        tokio::time::timeout_at(self.end, frame).await
    }

    pub fn arrived(&mut self, bytes: usize) {
        self.arrived = self.arrived.saturating_add(bytes);
        if self.arrived >= FLOOR {
            self.arrived = 0;
            self.end = Instant::now() + self.window;
        }
    }
}

/// A connection whose writes fail once the other side has taken nothing for a while.
pub struct Paced<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub fn new(stream: S, patience: Duration) -> Paced<S> {
        Paced {
            stream,
            patience,
            stalled: None,
        }
    }

    fn progress<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.progress(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.progress(context, ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails() {
        let (ours, _theirs) = tokio::io::duplex(10);
        let mut paced = Paced::new(ours, Duration::from_millis(200));
        let begin = Instant::now();
        let error = paced.write_all(&[0; 11]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= Duration::from_millis(200));
    }

    #[tokio::test]
    async fn a_body_has_to_keep_up_its_speed() {
        let window = Duration::from_millis(300);
        let patience = Patience {
            body: window,
            ..Patience::default()
        };
        let begin = Instant::now();
        let mut floor = Floor::new(patience);
        while begin.elapsed() < 3 * window {
            floor.next(std::future::ready(())).await.unwrap();
            floor.arrived(FLOOR);
        }
        let begin = Instant::now();
        let mut floor = Floor::new(patience);
        let pause = || tokio::time::sleep(Duration::from_millis(10));
        while floor.next(pause()).await.is_ok() {
            floor.arrived(1);
        }
        assert!(begin.elapsed() >= window);
    }
}
