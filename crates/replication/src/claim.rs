//! How a standby becomes the leader: [`Claim`].
//!
//! A candidate appends a claim block on top of the last block that it has accepted. Readers accept the first claim of a
//! higher term that continues the chain, so at most one of several candidates wins, and the winner has read everything
//! before its claim. The candidate then reads until it sees its claim accepted, and serves.
//!
//! The candidate waits for the answer to the append, even if it sees its claim before: a visible record can still be
//! lost. After the answer, the candidate reads its last judged record once more, and everything up to its claim. This
//! proves that the log contains what the candidate has accepted as a standby.
//!
//! A candidate also asks every reachable replica for its last accepted block, before it sends the claim. The log must
//! hold all these blocks before the claim. Otherwise the log was rolled back, and the candidate halts.

use crate::{
    acceptance::{Accepted, Verdict},
    block::{BlockFacts, BlockHash, BlockKind},
    halt::HaltReason,
    mutation::planted,
    reader::LogReader,
    request::{Outcome, RequestId},
};

/// Maximum number of replicas that a candidate compares itself with.
pub const PEERS_MAX: usize = 16;

/// How far another replica has read the log. The candidate asks for it before it sends the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerPoint {
    /// The number of the last block that the replica has accepted.
    pub number: u64,
    /// The hash of this block.
    pub hash: BlockHash,
    /// The offset of the next record that the replica reads.
    pub next_offset: u64,
}

/// What a candidate must do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum ClaimStep {
    /// Send the claim alone in a request, and report the result.
    Send {
        /// Names the request.
        request: RequestId,
    },
    /// Drop the connection, find the leading broker, connect again after a suitable delay, and call
    /// [`Claim::reconnected`].
    Reconnect,
    /// Begin to read at this offset: the reader was restarted. Discard the records that still arrive from earlier
    /// reads.
    ReadFrom(u64),
    /// Nothing: the request was given up before.
    Ignore,
}

/// What a candidate knows about its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Decision {
    /// The candidate does not know yet. Continue to read, to apply blocks and to send the claim.
    Wait,
    /// The candidate leads. Create an [`Appender`](crate::Appender) with these values, and serve.
    Serve {
        /// The claim, which is the last accepted block.
        accepted: Accepted,
        /// The offset after the claim.
        next_offset: u64,
    },
    /// The chain continued without the claim. Continue as a standby. The next claim needs a higher term.
    Lost,
    /// The process must stop for good. If the reason is [`HaltReason::ReplicaAheadOfLog`] or
    /// [`HaltReason::LogLostData`], write a halt record, so that every replica stops.
    Halt(HaltReason),
}

/// The state of the append of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Append {
    InFlight(RequestId),
    Reconnecting,
    /// All records up to this offset are in the log for ever.
    Acknowledged(u64),
}

/// A claim of one process for one term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    block: BlockFacts,
    append: Append,
    next_request: u64,
    peers: Vec<PeerPoint>,
}

// ===== impl Claim =====

impl Claim {
    /// Begins a claim on top of the last accepted block of `reader`. `peers` are the points of all replicas that were
    /// reachable; ask them before this call. The result also contains the first step.
    ///
    /// The caller chooses the term and the writer of `block`: a term that is higher than every term that this process
    /// has claimed or seen, and a random writer number per process.
    ///
    /// # Errors
    /// [`HaltReason`] if the reader has halted.
    ///
    /// # Panics
    /// If `block` is not a claim that the reader would accept as the next block, or if there are more than
    /// [`PEERS_MAX`] peers.
    pub fn new(
        reader: &LogReader,
        block: BlockFacts,
        peers: &[PeerPoint],
    ) -> Result<(Self, ClaimStep), HaltReason> {
        if let Some(reason) = reader.halted() {
            return Err(reason);
        }
        assert_eq!(block.kind, BlockKind::Claim, "a term begins with a claim");
        let verdict = reader.accepted().judge(&block);
        assert_eq!(
            verdict,
            Verdict::Accept,
            "a claim continues the chain with a higher term"
        );
        assert!(
            peers.len() <= PEERS_MAX,
            "{} peers: at most {PEERS_MAX}",
            peers.len()
        );
        let request = RequestId(0);
        let claim = Self {
            block,
            append: Append::InFlight(request),
            next_request: 1,
            peers: peers.to_vec(),
        };
        Ok((claim, ClaimStep::Send { request }))
    }

    /// The claim block.
    #[must_use]
    pub fn block(&self) -> &BlockFacts {
        &self.block
    }

    /// Reports the result of a request. After an acknowledged append, the reader restarts, because records that it has
    /// read before may have been lost before the append.
    pub fn result(&mut self, reader: &mut LogReader, request: RequestId, outcome: Outcome) -> ClaimStep {
        if self.append != Append::InFlight(request) {
            return ClaimStep::Ignore;
        }
        match outcome {
            Outcome::Appended { base_offset } => {
                self.append = Append::Acknowledged(base_offset);
                ClaimStep::ReadFrom(reader.restart())
            }
            Outcome::Refused | Outcome::Unresolved => {
                self.append = Append::Reconnecting;
                ClaimStep::Reconnect
            }
        }
    }

    /// Whether the claim waits for the connection that [`ClaimStep::Reconnect`] asked for.
    #[must_use]
    pub fn waits_for_connection(&self) -> bool {
        self.append == Append::Reconnecting
    }

    /// Reports that the connection that [`ClaimStep::Reconnect`] asked for is ready. The claim is sent again, byte for
    /// byte. If the log has several copies, readers accept the first one.
    ///
    /// # Panics
    /// If no connection was asked for.
    pub fn reconnected(&mut self) -> ClaimStep {
        assert_eq!(self.append, Append::Reconnecting, "a connection was asked for");
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.append = Append::InFlight(request);
        ClaimStep::Send { request }
    }

    /// Decides after each record that was read. `applied` is the number of the last accepted block that the memory of
    /// the process contains. `hash_of` returns the hash of the accepted block with a number, or `None` if the local
    /// journal does not reach back to it.
    pub fn decide(
        &self,
        reader: &LogReader,
        applied: u64,
        hash_of: impl Fn(u64) -> Option<BlockHash>,
    ) -> Decision {
        if let Some(reason) = reader.halted() {
            return Decision::Halt(reason);
        }
        let accepted = *reader.accepted();
        if accepted.number >= self.block.number && accepted.hash != self.block.hash {
            return Decision::Lost;
        }
        let base_offset = match self.append {
            Append::Acknowledged(base_offset) => base_offset,
            Append::InFlight(_) | Append::Reconnecting
                if planted("serve_a_visible_claim") && accepted.hash == self.block.hash =>
            {
                reader.next_offset() - 1
            }
            Append::InFlight(_) | Append::Reconnecting => return Decision::Wait,
        };
        // The claim was appended after the peers were asked. So all records that the peers had read are before the
        // claim.
        if let Some(peer) = self.peers.iter().find(|peer| peer.next_offset > base_offset) {
            return Decision::Halt(HaltReason::ReplicaAheadOfLog { number: peer.number });
        }
        if !reader.is_verified() || reader.next_offset() <= base_offset {
            return Decision::Wait;
        }
        if accepted.hash != self.block.hash {
            // Everything up to an acknowledged copy of the claim was read. The chain has not moved on, so the claim
            // continues it and must have been accepted. But the claim was not accepted, so the log has lost data.
            return Decision::Halt(HaltReason::LogLostData { offset: base_offset });
        }
        if applied < self.block.number && !planted("claim_before_applying") {
            return Decision::Wait;
        }
        let is_held = |peer: &&PeerPoint| {
            peer.number <= accepted.number && hash_of(peer.number).is_none_or(|hash| hash == peer.hash)
        };
        if let Some(peer) = self.peers.iter().find(|peer| !is_held(peer)) {
            return Decision::Halt(HaltReason::ReplicaAheadOfLog { number: peer.number });
        }
        Decision::Serve {
            accepted,
            next_offset: base_offset + 1,
        }
    }
}
