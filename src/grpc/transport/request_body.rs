//! The bodies of requests. A body takes its DATA frames out of the HTTP/2 library as soon as they arrive, also while nobody reads it.
//!
//! The library keeps each DATA frame that was not taken in an entry of about 256 bytes, however short the frame is, and ends the
//! connection when too many short frames wait (`http2.rs`). So an ordinary client that sends each short message in a frame of its own
//! would lose its connection as soon as the service reads the call more slowly than the client sends it. A body joins short frames
//! instead. Only the bytes of the frames take memory then, and the flow control of HTTP/2 bounds them: the client may send more only
//! after the service has read them.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};
use parking_lot::Mutex;

/// A DATA frame with fewer bytes is copied behind the one before it. Without a copy, each frame holds the buffer into which the library has
/// read it, which is 8 KiB or longer. So a client could make the service hold far more than the bytes that count as arrived.
const SHORT_BYTES: usize = 8 << 10;
/// Joined frames have at most this many bytes: the length of a frame that every client may send.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// The body of a request.
#[derive(Debug)]
pub(crate) struct RequestBody(Arc<Mutex<Option<Arriving>>>);

/// Takes the frames of a body while nobody reads the body. The task that answers the call has this value.
#[derive(Debug)]
pub(super) struct Gatherer(Arc<Mutex<Option<Arriving>>>);

/// What has arrived of a body. `None` in its place after the body was dropped.
#[derive(Debug)]
struct Arriving {
    stream: RecvStream,
    frames: Joined,
    /// How the DATA frames have ended; `None` before their end.
    end: Option<Result<(), h2::Error>>,
    /// Whether everything was read, including the trailers.
    is_over: bool,
    /// Wakes the task of the [`Gatherer`]. The library keeps only one waker, and this one must be it, because the reader may wait for
    /// something else than the body. `None` before the task has waited.
    gatherer: Option<Waker>,
    /// Wakes the reader of the body.
    reader: Option<Waker>,
}

/// DATA frames in their order, of which the short ones are joined.
#[derive(Debug, Default)]
struct Joined {
    complete: VecDeque<Bytes>,
    /// The short frames behind those of `complete`.
    open: BytesMut,
}

/// Returns the body of a request, and the value that takes its frames.
pub(super) fn request_body(stream: RecvStream) -> (RequestBody, Gatherer) {
    let shared = Arc::new(Mutex::new(Some(Arriving {
        stream,
        frames: Joined::default(),
        end: None,
        is_over: false,
        gatherer: None,
        reader: None,
    })));
    (RequestBody(Arc::clone(&shared)), Gatherer(shared))
}

// ===== impl Gatherer =====

impl Gatherer {
    /// Takes the frames that have arrived, and wakes the reader if there are any. Call this function each time before the task waits.
    pub(super) fn gather(&self, context: &mut Context<'_>) {
        let mut shared = self.0.lock();
        let Some(arriving) = &mut *shared else {
            return;
        };
        let waker = context.waker();
        if !arriving
            .gatherer
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            arriving.gatherer = Some(waker.clone());
        }
        if arriving.take_frames(context)
            && let Some(reader) = arriving.reader.take()
        {
            reader.wake();
        }
    }
}

impl Drop for Gatherer {
    /// Wakes the reader when the task that answers the call has ended. The reader may be another task, such as that of a connection to the
    /// leader. It must learn how the body ends, and from now on the library must wake it directly.
    fn drop(&mut self) {
        if let Some(arriving) = &mut *self.0.lock() {
            arriving.gatherer = None;
            if let Some(reader) = arriving.reader.take() {
                reader.wake();
            }
        }
    }
}

// ===== impl Arriving =====

impl Arriving {
    /// Takes the frames that have arrived. Returns whether the reader has something new: frames, or their end.
    fn take_frames(&mut self, context: &mut Context<'_>) -> bool {
        let mut is_new = false;
        while self.end.is_none() && !self.is_over {
            let Poll::Ready(frame) = self.stream.poll_data(context) else {
                break;
            };
            is_new = true;
            match frame {
                Some(Ok(bytes)) => self.frames.push(bytes),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
        is_new
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let gatherer = self.gatherer.clone();
        let mut for_library = Context::from_waker(gatherer.as_ref().unwrap_or(context.waker()));
        if self.frames.is_empty() {
            self.take_frames(&mut for_library);
        }
        if let Some(bytes) = self.frames.pop() {
            // The library has counted these bytes as arrived and not read, so this can't fail.
            let _released = self.stream.flow_control().release_capacity(bytes.len());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let ended = match self.end.take() {
            None => Poll::Pending,
            Some(Ok(())) => {
                self.end = Some(Ok(()));
                self.stream.poll_trailers(&mut for_library)
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
        };
        let Poll::Ready(ended) = ended else {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        self.is_over = true;
        Poll::Ready(match ended {
            Ok(trailers) => trailers.map(Frame::trailers).map(Ok),
            // With this reason a client ends a call whose answer it has, without an error (RFC 9113, 8.1).
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            Err(error) => Some(Err(error)),
        })
    }
}

// ===== impl Joined =====

impl Joined {
    fn is_empty(&self) -> bool {
        self.complete.is_empty() && self.open.is_empty()
    }

    /// Adds a frame. Keeps the first one and the long ones as they are, without a copy.
    fn push(&mut self, frame: Bytes) {
        let is_long = frame.len() >= SHORT_BYTES;
        let is_full = is_long || self.open.len() + frame.len() > JOINED_BYTES_MAX;
        if is_full && !self.open.is_empty() {
            self.complete.push_back(std::mem::take(&mut self.open).freeze());
        }
        if is_long || self.is_empty() {
            self.complete.push_back(frame);
        } else {
            self.open.extend_from_slice(&frame);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let first = self.complete.pop_front();
        first.or_else(|| (!self.open.is_empty()).then(|| std::mem::take(&mut self.open).freeze()))
    }

    /// Number of bytes.
    fn len(&self) -> usize {
        self.complete.iter().map(Bytes::len).sum::<usize>() + self.open.len()
    }
}

// ===== impl RequestBody =====

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match &mut *self.0.lock() {
            Some(arriving) => arriving.poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.0.lock() {
            Some(arriving) => {
                arriving.is_over || (arriving.frames.is_empty() && arriving.stream.is_end_stream())
            }
            None => true,
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let arriving = self.0.lock().take();
        if let Some(mut arriving) = arriving {
            // Otherwise these bytes would take room in the window of the connection until the call is over.
            let unread = arriving.frames.len();
            let _released = arriving.stream.flow_control().release_capacity(unread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_frames_are_joined_and_nothing_changes_its_order() {
        for lengths in [
            vec![3, 4, 5],
            vec![2000, 1, 2, 3000, 4, 5],
            vec![1; 40_000],
            vec![1023; 100],
            vec![1024; 400],
            vec![8191; 50],
            vec![16_384, 1, 16_384, 1],
        ] {
            let mut joined = Joined::default();
            let mut expected = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let frame = vec![u8::try_from(number % 251).unwrap(); length];
                expected.extend_from_slice(&frame);
                joined.push(frame.into());
            }
            assert_eq!(joined.len(), expected.len());
            // No two neighbours are short, except for the first frame.
            let frames = joined.complete.len() + 1;
            assert!(frames <= 2 + 2 * expected.len().div_ceil(SHORT_BYTES), "{frames}");
            let mut popped = Vec::new();
            while let Some(frame) = joined.pop() {
                assert!(!frame.is_empty() && frame.len() <= JOINED_BYTES_MAX);
                popped.extend_from_slice(&frame);
            }
            assert!(popped == expected && joined.is_empty());
        }
    }
}
