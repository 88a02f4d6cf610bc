//! The limits of one connection: how long its messages may take to arrive, how much memory its calls may hold, and how
//! often it may exceed these limits before it is cut.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tonic::Status;

use super::{
    budget::{ConnectionMemory, REFUSAL_BYTES, Reservation},
    governor::Throttle,
    outbound::Answer,
    windows::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};
use crate::grpc::status;

/// Most headers of a call. A usual call has about a dozen: those of gRPC, a token and a trace.
pub(crate) const HEADERS_MAX: usize = 64;

/// The limits of a connection, shared by its calls.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// The longest time that a message may take to arrive.
    time_max: Duration,
    memory: Arc<ConnectionMemory>,
    throttle: Arc<Throttle>,
    parked: Mutex<ParkedStreams>,
}

/// Streams that the service does not read now. The HTTP/2 library buffers what their client sends.
#[derive(Debug, Default)]
struct ParkedStreams {
    count: usize,
    reservation: Option<Reservation>,
}

/// A stream that the service does not read now.
#[derive(Debug)]
pub(crate) struct Parked(Arc<ConnectionLimits>);

// ===== impl ConnectionLimits =====

impl ConnectionLimits {
    /// The limits of a new connection.
    pub(crate) fn new(time_max: Duration, memory: Arc<ConnectionMemory>, throttle: Arc<Throttle>) -> Self {
        ConnectionLimits {
            time_max,
            memory,
            throttle,
            parked: Mutex::default(),
        }
    }

    /// Checks the number of a call's headers.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the call has too many headers.
    pub(crate) fn check_headers(headers: &HeaderMap) -> Result<(), Status> {
        // Header compression lets a client send one byte for a header that takes a hundred bytes of memory.
        let count = headers.len();
        if count > HEADERS_MAX {
            return Err(status::too_many_headers(count, HEADERS_MAX));
        }
        Ok(())
    }

    /// Reserves the memory of a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the budget does not allow it.
    pub(crate) fn admit(&self) -> Result<Reservation, Status> {
        let reservation = self
            .memory
            .reserve_call()
            .ok_or_else(|| self.memory_limit_reached())?;
        self.throttle.call_admitted();
        Ok(reservation)
    }

    /// Reserves `bytes` for a health check.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the budget does not allow it, and the connection already has a health check beyond the
    /// limit.
    pub(crate) fn admit_probe(&self, bytes: usize) -> Result<Reservation, Status> {
        self.memory
            .reserve_probe(bytes)
            .ok_or_else(|| self.memory_limit_reached())
    }

    /// The longest time that a message may take to arrive.
    pub(crate) const fn time_max(&self) -> Duration {
        self.time_max
    }

    /// Returns the memory of the connection.
    pub(crate) const fn memory(&self) -> &Arc<ConnectionMemory> {
        &self.memory
    }

    /// Returns the error for a call that the memory limit refuses. A connection that gets it too often is cut, unless
    /// its client holds no more than its floor.
    pub(crate) fn memory_limit_reached(&self) -> Status {
        if !self.memory.holds_little() {
            self.throttle.count_refusal();
        }
        status::memory_limit()
    }

    /// Counts a refused call. A connection with too many of them is cut.
    pub(crate) fn count_refusal(&self) {
        self.throttle.count_refusal();
    }

    /// Answers a call that was not admitted. Such an answer reserves no memory. Instead, the connection is not read
    /// while too many of them are unsent.
    pub(crate) fn answer_unadmitted(&self, status: Status) -> http::Response<Answer> {
        Answer::unadmitted(status, self.throttle.count_unsent())
    }

    /// Answers a call that was admitted: with one framed message and its reservation, or with an error.
    pub(crate) fn answer(&self, answer: Result<(Vec<u8>, Reservation), Status>) -> http::Response<Answer> {
        match answer {
            Ok((message, reservation)) => Answer::message(message, reservation),
            Err(status) => self.answer_failed(status),
        }
    }

    /// Answers a call that was admitted and failed. The call has already released more memory than this answer takes.
    pub(crate) fn answer_failed(&self, status: Status) -> http::Response<Answer> {
        Answer::status(status, self.memory.reserve_beyond_limit(REFUSAL_BYTES))
    }

    /// Stops reading a stream until the returned value is dropped. Returns `None` if the budget has no memory for what
    /// the client may send in the meantime.
    pub(crate) fn park(self: &Arc<Self>) -> Option<Parked> {
        let mut parked = self.parked.lock();
        let bytes = parked
            .count
            .saturating_add(1)
            .saturating_mul(STREAM_WINDOW_BYTES as usize);
        let bytes = bytes.min(CONNECTION_WINDOW_BYTES as usize);
        let covered = match &mut parked.reservation {
            Some(reservation) => reservation.grow_to(bytes),
            none => {
                *none = self.memory.reserve(bytes);
                none.is_some()
            }
        };
        if !covered {
            return None;
        }
        parked.count += 1;
        Some(Parked(Arc::clone(self)))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut parked = self.0.parked.lock();
        parked.count -= 1;
        if parked.count == 0 {
            parked.reservation = None;
        }
    }
}
