//! What a connection may ask for: how long its messages may take to arrive, how much memory its calls may hold meanwhile, and
//! how often it may be over these bounds.

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

/// Most headers of a call. Those of gRPC, a token and a trace are a dozen.
pub(crate) const HEADERS_MAX: usize = 64;

/// What the calls of a connection have in common.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// How long each message may take to arrive.
    time_max: Duration,
    memory: Arc<ConnectionMemory>,
    throttle: Arc<Throttle>,
    parked: Mutex<ParkedStreams>,
}

/// Streams that are not read at the moment. What their client sends meanwhile waits in the HTTP/2 library.
#[derive(Debug, Default)]
struct ParkedStreams {
    count: usize,
    reservation: Option<Reservation>,
}

/// A stream that is not read at the moment.
#[derive(Debug)]
pub(crate) struct Parked(Arc<ConnectionLimits>);

// ===== impl ConnectionLimits =====

impl ConnectionLimits {
    /// Of a connection.
    pub(crate) fn new(time_max: Duration, memory: Arc<ConnectionMemory>, throttle: Arc<Throttle>) -> Self {
        ConnectionLimits {
            time_max,
            memory,
            throttle,
            parked: Mutex::default(),
        }
    }

    /// Looks at the headers of a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many.
    pub(crate) fn check_headers(headers: &HeaderMap) -> Result<(), Status> {
        // They are decoded already, and one byte on the wire can name one that takes a hundred here.
        let count = headers.len();
        if count > HEADERS_MAX {
            return Err(status::too_many_headers(count, HEADERS_MAX));
        }
        Ok(())
    }

    /// What a call costs, if it may begin.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it.
    pub(crate) fn admit(&self) -> Result<Reservation, Status> {
        let reservation = self
            .memory
            .reserve_call()
            .ok_or_else(|| self.memory_limit_reached())?;
        self.throttle.call_admitted();
        Ok(reservation)
    }

    /// What a health check of `bytes` costs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it, and the connection has another one under way that there was none for.
    pub(crate) fn admit_probe(&self, bytes: usize) -> Result<Reservation, Status> {
        self.memory
            .reserve_probe(bytes)
            .ok_or_else(|| self.memory_limit_reached())
    }

    /// How long each message may take to arrive.
    pub(crate) const fn time_max(&self) -> Duration {
        self.time_max
    }

    /// What pays for what the connection holds.
    pub(crate) const fn memory(&self) -> &Arc<ConnectionMemory> {
        &self.memory
    }

    /// There is no memory for a call, or for the rest of one. A connection that hears it too often is cut, unless it is others
    /// who hold the memory.
    pub(crate) fn memory_limit_reached(&self) -> Status {
        if !self.memory.holds_little() {
            self.throttle.count_refusal();
        }
        status::memory_limit()
    }

    /// A call was refused for something that the client should not ask for again and again.
    pub(crate) fn count_refusal(&self) {
        self.throttle.count_refusal();
    }

    /// The answer to a call that was not let in. It holds nothing of the budget: when too many such answers are not sent, no
    /// more calls are read.
    pub(crate) fn answer_unadmitted(&self, status: Status) -> http::Response<Answer> {
        Answer::unadmitted(status, self.throttle.count_unsent())
    }

    /// The answer to a call: one framed message with what it costs until it is sent, or a status.
    pub(crate) fn answer(&self, answer: Result<(Vec<u8>, Reservation), Status>) -> http::Response<Answer> {
        match answer {
            Ok((message, reservation)) => Answer::message(message, reservation),
            Err(status) => self.answer_failed(status),
        }
    }

    /// The answer to a call that was let in and is refused. What the call has held is more than what this costs.
    pub(crate) fn answer_failed(&self, status: Status) -> http::Response<Answer> {
        Answer::status(status, self.memory.reserve_beyond_limit(REFUSAL_BYTES))
    }

    /// A stream is not read from now on, until what is returned is dropped. `None` if there is no memory for what its client
    /// may send meanwhile.
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
