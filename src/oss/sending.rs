//! A request body being sent: cut into pieces, counted, its CRC-64 computed.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::progress::Progress;
use crate::base::crc64::Crc64;
use crate::base::sync::lock;
use crate::object::error::{Error, Result};

/// A body is passed to the connection in pieces of this size, so that a slow link shows progress. Larger
/// pieces have no measurable benefit.
const SEND_PIECE: usize = 256 * 1024;
/// A request body being sent: cut into pieces, counted, its CRC-64 computed.
pub(crate) struct Sending {
    len: u64,
    progress: [Arc<Progress>; 2],
    /// Locked by the connection's task for each piece, and by the waiting task at the end.
    state: Mutex<SendingState>,
}

struct SendingState {
    sent: u64,
    crc: Crc64,
    failure: Option<Error>,
}

impl Sending {
    pub(crate) fn new(len: u64, progress: [Arc<Progress>; 2]) -> Sending {
        Sending {
            len,
            progress,
            state: Mutex::new(SendingState {
                sent: 0,
                crc: Crc64::new(),
                failure: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, SendingState> {
        lock(&self.state)
    }

    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    pub(crate) fn crc(&self) -> u64 {
        self.state().crc.value()
    }

    fn fail(&self, error: Error) -> std::io::Error {
        self.state().failure = Some(error);
        std::io::Error::other("the source of the upload failed")
    }

    pub(crate) fn stream(
        self: Arc<Self>,
        source: BoxStream<'static, Result<Bytes>>,
    ) -> BoxStream<'static, std::io::Result<Bytes>> {
        let pending = Bytes::new();
        futures_util::stream::try_unfold(
            (self, source, pending),
            |(sending, mut source, mut pending)| async move {
                while pending.is_empty() {
                    match source.next().await {
                        Some(Ok(bytes)) => pending = bytes,
                        Some(Err(error)) => return Err(sending.fail(error)),
                        None if sending.state().sent == sending.len => return Ok(None),
                        None => {
                            let short = std::io::Error::other("the body is shorter than announced");
                            return Err(sending.fail(Error::other(short)));
                        }
                    }
                }
                let piece = pending.split_to(pending.len().min(SEND_PIECE));
                let moved = piece.len();
                let excess = {
                    let mut state = sending.state();
                    state.sent += piece.len() as u64;
                    state.crc.update(&piece);
                    state.sent > sending.len
                };
                if excess {
                    let long = std::io::Error::other("the body is longer than announced");
                    return Err(sending.fail(Error::other(long)));
                }
                sending
                    .progress
                    .iter()
                    .for_each(|progress| progress.add(moved));
                Ok(Some((piece, (sending, source, pending))))
            },
        )
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::object::body::Body;

    #[tokio::test]
    async fn a_body_is_sent_in_pieces_and_must_have_its_length() {
        let run = |announced: usize, real: usize| async move {
            let progress = || Arc::new(Progress::new(Instant::now()));
            let sending = Arc::new(Sending::new(announced as u64, [progress(), progress()]));
            let body = Body::from_bytes(vec![7; real]);
            let pieces: Vec<_> = sending.clone().stream(body.open()).collect().await;
            let ok = pieces.iter().all(|piece| piece.is_ok());
            assert_eq!(ok, sending.take_failure().is_none());
            (ok, pieces.len())
        };
        assert_eq!(run(SEND_PIECE * 2 + 1, SEND_PIECE * 2 + 1).await, (true, 3));
        assert_eq!(run(5, 4).await, (false, 2));
        assert_eq!(run(4, 5).await, (false, 1));
    }
}
