//! The limits of one connection: the time in which a message must arrive, the memory of the calls, and the number of
//! refused calls after which the service cuts the connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tonic::Status;

use super::{
    budget::{ConnectionMemory, REFUSAL_BYTES, Reservation},
    governor::Throttle,
    outbound::{Answer, AnswerResult},
    windows::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};
use crate::grpc::status;

/// Maximum number of headers of a call. A usual call has about a dozen: the headers of gRPC, a token and the context of
/// a trace.
const HEADERS_MAX: usize = 64;

/// The limits of a connection. All calls of the connection share this value.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    /// The address of the client.
    pub(crate) address: IpAddr,
    /// The longest time in which a message must arrive, and in which a client may take nothing of a watch.
    pub(crate) time_max: Duration,
    pub(crate) memory: Arc<ConnectionMemory>,
    pub(super) throttle: Arc<Throttle>,
    parked: Mutex<ParkedStreams>,
}

/// The streams that the service does not read now. The HTTP/2 library buffers what their client sends, and
/// `reservation` covers this buffer.
#[derive(Debug, Default)]
struct ParkedStreams {
    count: usize,
    reservation: Option<Reservation>,
}

/// A stream that the service does not read now. Drop this value before you read the stream again.
#[derive(Debug)]
pub(crate) struct Parked(Arc<ConnectionLimits>);

// ===== impl ConnectionLimits =====

impl ConnectionLimits {
    /// Returns the limits of a new connection from this address.
    pub(crate) fn new(
        address: IpAddr,
        time_max: Duration,
        memory: Arc<ConnectionMemory>,
        throttle: Arc<Throttle>,
    ) -> Self {
        ConnectionLimits {
            address,
            time_max,
            memory,
            throttle,
            parked: Mutex::default(),
        }
    }

    /// Checks the number of a call's headers. `exempt` headers do not count, because another replica has added them.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the call has too many headers.
    pub(crate) fn check_headers(headers: &HeaderMap, exempt: usize) -> Result<(), Status> {
        // With header compression, one byte on the wire can become a header that takes a hundred bytes of memory.
        let count = headers.len().saturating_sub(exempt);
        if count > HEADERS_MAX {
            return Err(status::too_many_headers(count, HEADERS_MAX));
        }
        Ok(())
    }

    /// Reserves the memory of a call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the budget has too little memory.
    pub(crate) fn admit(&self) -> Result<Reservation, Status> {
        let reservation = self.memory.reserve_call();
        let reservation = reservation.ok_or_else(|| self.memory_limit_reached())?;
        self.throttle.call_admitted();
        Ok(reservation)
    }

    /// Reserves `bytes` for a health check.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if the budget has too little memory, and the connection already has a health check that was
    /// admitted although the memory limit was reached.
    pub(crate) fn admit_probe(&self, bytes: usize) -> Result<Reservation, Status> {
        let reservation = self.memory.reserve_probe(bytes);
        reservation.ok_or_else(|| self.memory_limit_reached())
    }

    /// Returns the error for a call that the memory limit refuses. The service cuts a connection that gets this error
    /// too often, unless the client holds no more than the small minimum that every client may hold (the floor in
    /// `budget.rs`).
    pub(crate) fn memory_limit_reached(&self) -> Status {
        if !self.memory.holds_little() {
            self.throttle.count_refusal();
        }
        status::memory_limit()
    }

    /// Counts a refused call. The service cuts a connection with too many refused calls.
    pub(crate) fn count_refusal(&self) {
        self.throttle.count_refusal();
    }

    /// Answers a call that was not admitted. The answer reserves no memory. Instead, the service does not read the
    /// connection while too many answers to refused calls are unsent.
    pub(crate) fn answer_unadmitted(&self, status: Status) -> http::Response<Answer> {
        Answer::unadmitted(status, self.throttle.count_unsent())
    }

    /// Answers a call that was admitted, with one framed message and its reservation, or with an error.
    pub(crate) fn answer(&self, answer: AnswerResult) -> http::Response<Answer> {
        match answer {
            Ok((message, reservation)) => Answer::message(message, reservation),
            Err(status) => self.answer_failed(status),
        }
    }

    /// Answers a call that was admitted and failed. The call has already released more memory than this answer takes.
    pub(crate) fn answer_failed(&self, status: Status) -> http::Response<Answer> {
        Answer::status(status, self.memory.reserve_beyond_limit(REFUSAL_BYTES))
    }

    /// Notes that the service does not read a stream until the returned value is dropped. Reserves memory for the bytes
    /// that the client may send in the meantime. Returns `None` if the budget has too little memory.
    pub(crate) fn park(self: &Arc<Self>) -> Option<Parked> {
        let mut parked = self.parked.lock();
        let streams = parked.count.saturating_add(1);
        let bytes = streams.saturating_mul(STREAM_WINDOW_BYTES as usize);
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
