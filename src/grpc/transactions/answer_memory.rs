//! The memory for the *details* of committed transactions in the answer: moved amounts and balances.
//!
//! This memory is reserved before a transaction is executed, because the service must be able to answer every executed transaction. If the
//! request has transfers, they determine the number of legs. Otherwise the number is known only at the execution. The service then reserves
//! memory for [`LEGS_CHARGED`] legs before it queues the transaction. If there are more legs, EXEC reserves more memory, or rejects
//! the transaction before anything has changed.

use crate::{
    engine::{Detail, LEGS_CHARGED, MemoryCharge},
    grpc::{
        transactions::wire::WireTransaction,
        transport::budget::{GrowingReservation, Reservation},
    },
    proto::TransactionPhase,
};

/// Maximum memory of an amount that was moved, in bytes: 16 in the engine's answer, and 22 in the message.
const MOVED_BYTES_MAX: usize = 40;
/// Maximum memory of the balances of an account, in bytes: the id and the four columns, in the engine's answer and in the message. The answer
/// to a repeated transaction has the beginning of the account's history instead, until the balances are read.
const BALANCES_BYTES_MAX: usize = 512;
/// Memory of a detail in addition to its amounts and balances, in bytes. The list of details can have twice the capacity that it needs.
const DETAIL_BYTES: usize = 2 * size_of::<Detail>();

/// The memory of a call, which can grow while the call is executed.
#[derive(Debug)]
pub(crate) struct AnswerMemory(GrowingReservation);

// ===== impl AnswerMemory =====

impl AnswerMemory {
    /// Charges a batch with a reservation.
    pub(crate) fn charge(reservation: Reservation) -> Box<dyn MemoryCharge> {
        Box::new(AnswerMemory(GrowingReservation::new(reservation)))
    }
}

impl MemoryCharge for AnswerMemory {
    fn hold_legs(&self, legs: usize, with_balances: bool) -> bool {
        // The answer does not show the amounts of a void, but their memory is reserved, too.
        let each = leg_bytes(true, with_balances);
        self.0.grow_by(legs.saturating_sub(LEGS_CHARGED) * each)
    }
}

/// Returns the memory for the details of a transaction, in bytes, in the engine's answer and in the message. If the transaction has no
/// transfers, this is the memory for [`LEGS_CHARGED`] legs.
pub(crate) fn detail_bytes(request: &WireTransaction<'_>) -> usize {
    let shows_moved = shows_moved(request);
    if !shows_moved && !request.return_balances {
        return 0;
    }
    let legs = match request.transfer_count {
        0 => LEGS_CHARGED,
        count => count,
    };
    DETAIL_BYTES + legs * leg_bytes(shows_moved, request.return_balances)
}

/// Whether the execution may find out that the answer needs more memory than [`detail_bytes`].
pub(crate) fn may_grow(request: &WireTransaction<'_>) -> bool {
    request.transfer_count == 0 && detail_bytes(request) > 0
}

fn shows_moved(request: &WireTransaction<'_>) -> bool {
    let posts_hold = !request.pending_transaction_id.is_empty()
        && request.phase != i32::from(TransactionPhase::VoidPending);
    posts_hold
        || !request.reverses_transaction_id.is_empty()
        || request.transfers.iter().any(|transfer| transfer.amount_rule > 1)
}

fn leg_bytes(shows_moved: bool, with_balances: bool) -> usize {
    let moved = usize::from(shows_moved) * MOVED_BYTES_MAX;
    // Both accounts of a leg.
    moved + 2 * usize::from(with_balances) * BALANCES_BYTES_MAX
}
