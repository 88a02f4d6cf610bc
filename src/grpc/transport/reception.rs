//! What a connection may ask for: how long its messages may take to arrive, how much memory its calls may hold meanwhile, and
//! how often it may be over these bounds.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tonic::Status;

use super::{
    budget::{Charge, Purse, REFUSAL_BYTES},
    governor::Conduct,
    outbound::Answer,
    windows::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
};
use crate::grpc::status;

/// Most headers of a call. Those of gRPC, a token and a trace are a dozen.
pub(crate) const HEADERS_MAX: usize = 64;

/// What the calls of a connection have in common.
#[derive(Debug)]
pub(crate) struct Reception {
    /// How long each message may take to arrive.
    time_max: Duration,
    purse: Arc<Purse>,
    conduct: Arc<Conduct>,
    parked: Mutex<ParkedStreams>,
}

/// Streams that are not read at the moment. What their client sends meanwhile waits in the HTTP/2 library.
#[derive(Debug, Default)]
struct ParkedStreams {
    count: usize,
    charge: Option<Charge>,
}

/// A stream that is not read at the moment.
#[derive(Debug)]
pub(crate) struct Parked(Arc<Reception>);

// ===== impl Reception =====

impl Reception {
    /// Of a connection.
    pub(crate) fn new(time_max: Duration, purse: Arc<Purse>, conduct: Arc<Conduct>) -> Self {
        Reception {
            time_max,
            purse,
            conduct,
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
    pub(crate) fn admit(&self) -> Result<Charge, Status> {
        let charge = self.purse.charge_call().ok_or_else(|| self.no_memory())?;
        self.conduct.let_in();
        Ok(charge)
    }

    /// What a health check of `bytes` costs.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it, and the connection has another one under way that there was none for.
    pub(crate) fn admit_probe(&self, bytes: usize) -> Result<Charge, Status> {
        self.purse.charge_probe(bytes).ok_or_else(|| self.no_memory())
    }

    /// How long each message may take to arrive.
    pub(crate) const fn time_max(&self) -> Duration {
        self.time_max
    }

    /// What pays for what the connection holds.
    pub(crate) const fn purse(&self) -> &Arc<Purse> {
        &self.purse
    }

    /// There is no memory for a call, or for the rest of one. A connection that hears it too often is cut, unless it is others
    /// who hold the memory.
    pub(crate) fn no_memory(&self) -> Status {
        if !self.purse.holds_little() {
            self.conduct.refused();
        }
        status::memory_limit()
    }

    /// A call was refused for something that the client should not ask for again and again.
    pub(crate) fn refused(&self) {
        self.conduct.refused();
    }

    /// The answer to a call that was not let in. It holds nothing of the budget: when too many such answers are not sent, no
    /// more calls are read.
    pub(crate) fn turn_away(&self, status: Status) -> http::Response<Answer> {
        Answer::turned_away(status, self.conduct.turn_away())
    }

    /// The answer to a call: one framed message with what it costs until it is sent, or a status.
    pub(crate) fn answer(&self, answer: Result<(Vec<u8>, Charge), Status>) -> http::Response<Answer> {
        match answer {
            Ok((message, charge)) => Answer::message(message, charge),
            Err(status) => self.refuse(status),
        }
    }

    /// The answer to a call that was let in and is refused. What the call has held is more than what this costs.
    pub(crate) fn refuse(&self, status: Status) -> http::Response<Answer> {
        Answer::status(status, self.purse.charge_anyway(REFUSAL_BYTES))
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
        let covered = match &mut parked.charge {
            Some(charge) => charge.cover(bytes),
            none => {
                *none = self.purse.charge(bytes);
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
            parked.charge = None;
        }
    }
}
