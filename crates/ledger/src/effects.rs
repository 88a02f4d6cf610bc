//! What a transaction moved, if this does not follow from its transfers alone. A record contains these effects outside
//! the content that idempotency compares, so that a replay needs no rules and no other record.
//!
//! ```text
//! effects:    origin: varint | legs
//! legs:       if the transaction has transfers:  amount: varint, for each transfer
//!             otherwise:  legs - 1: u8, then for each leg  debit: varint | credit: varint | amount: varint
//! ```
//!
//! | transaction | origin | amount of a leg |
//! |---|---|---|
//! | with amount rules | 0 | what was moved or reserved |
//! | posts a whole hold | place of the hold's record | posted |
//! | posts parts of a hold | place of the hold's record | the rest: released, or still reserved with `keep_remaining` |
//! | voids a hold | place of the hold's record | released |
//! | reverses all that is left | number of the reversal, from 1 | moved |
//! | reverses parts | number of the reversal, from 1 | the rest that can be reversed later |

use smallvec::SmallVec;

use super::{
    account::AccountIndex,
    codec::{Malformed, Reader, put_varint, put_varint_u64},
    money::Amount,
    shape::Shape,
    transaction::{Phase, TRANSFERS_MAX, TransactionView, Transfer},
};

/// What a transaction did with the two accounts of one of its transfers. In a reversal, these are the accounts that the reversal
/// debits and credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// The account that is debited.
    pub debit: AccountIndex,
    /// The account that is credited.
    pub credit: AccountIndex,
    /// What was moved: posted, or reserved by a hold.
    pub moved: Amount,
    /// What a hold no longer reserves, although it was not posted.
    pub released: Amount,
    /// What a hold still reserves afterwards. In a reversal: the part of the reversed transfer that can still be reversed.
    pub remaining: Amount,
}

/// The legs of a transaction. Most transactions have one.
pub type Legs = SmallVec<[Leg; 1]>;

/// The encoded effects of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Effects<'a> {
    /// The place of the hold's record, the number of the reversal, or 0.
    pub origin: u64,
    legs: &'a [u8],
}

/// What the amounts in encoded effects mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Moved,
    Released,
    Remaining,
}

// ===== impl Effects =====

impl<'a> Effects<'a> {
    /// Reads encoded effects, to the end of `reader`. [`legs`] decodes the legs.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes do not start with an origin.
    pub(crate) fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Effects {
            origin: reader.varint_u64()?,
            legs: reader.rest(),
        })
    }

    /// Whether the amount of each of `count` transfers is zero.
    pub(crate) fn is_zero(&self, count: usize) -> bool {
        self.legs.len() == count && self.legs.iter().all(|byte| *byte == 0)
    }
}

/// Appends the effects of a transaction of this shape to `out`. `legs` are those that the ledger applied.
pub(crate) fn put_effects(out: &mut Vec<u8>, shape: Shape, origin: u64, legs: &[Leg]) {
    put_varint_u64(out, origin);
    let (meaning, has_transfers) = (meaning(shape), shape.has_transfers());
    if !has_transfers {
        put_legs_len(out, legs.len());
    }
    for leg in legs {
        if !has_transfers {
            put_accounts(out, leg);
        }
        let amount = match meaning {
            Meaning::Moved => leg.moved,
            Meaning::Released => leg.released,
            Meaning::Remaining => leg.remaining,
        };
        put_varint(out, amount.minor_units());
    }
}

/// Appends legs that release their amounts, as an expiry does.
pub(crate) fn put_released(out: &mut Vec<u8>, legs: &[Leg]) {
    put_legs_len(out, legs.len());
    for leg in legs {
        put_accounts(out, leg);
        put_varint(out, leg.released.minor_units());
    }
}

/// Decodes legs that [`put_released`] wrote.
///
/// # Errors
/// [`Malformed`] if the bytes are not encoded legs.
pub(crate) fn take_released(reader: &mut Reader<'_>, legs: &mut Legs) -> Result<(), Malformed> {
    legs.clear();
    for _ in 0..=reader.u8()? {
        let (debit, credit) = take_accounts(reader)?;
        legs.push(Leg {
            released: Amount::new(reader.varint_u128()?),
            ..Leg::new(debit, credit)
        });
    }
    Ok(())
}

/// Decodes what `transaction` did. `effects` are those of its record, if the record has effects.
///
/// # Errors
/// [`Malformed`] if the transfers or the effects can't be decoded, or do not belong together.
pub fn legs(
    transaction: &TransactionView<'_, AccountIndex>,
    effects: Option<Effects<'_>>,
    legs: &mut Legs,
) -> Result<(), Malformed> {
    legs.clear();
    let Some(Effects { legs: encoded, .. }) = effects else {
        if transaction.is_derived() {
            return Err(Malformed {
                what: "the effects of a transaction",
            });
        }
        for transfer in transaction.transfers() {
            let transfer = transfer?;
            legs.push(Leg {
                moved: transfer.amount,
                ..Leg::new(transfer.debit, transfer.credit)
            });
        }
        return Ok(());
    };
    let (meaning, mut reader) = (meaning(Shape::of_decoded(transaction)), Reader::new(encoded));
    if transaction.transfer_count() == 0 {
        for _ in 0..=reader.u8()? {
            let (debit, credit) = take_accounts(&mut reader)?;
            legs.push(Leg::new(debit, credit).with(meaning, Amount::new(reader.varint_u128()?)));
        }
    } else {
        for transfer in transaction.transfers() {
            let transfer = transfer?;
            let leg = Leg {
                moved: transfer.amount,
                ..Leg::new(transfer.debit, transfer.credit)
            };
            legs.push(leg.with(meaning, Amount::new(reader.varint_u128()?)));
        }
    }
    Ok(())
}

const fn meaning(shape: Shape) -> Meaning {
    if shape.names_hold() {
        match shape.phase {
            Phase::VoidPending => Meaning::Released,
            Phase::Posted | Phase::Pending | Phase::PostPending if !shape.has_transfers() => Meaning::Moved,
            Phase::Posted | Phase::Pending | Phase::PostPending if shape.keep_remaining() => {
                Meaning::Remaining
            }
            Phase::Posted | Phase::Pending | Phase::PostPending => Meaning::Released,
        }
    } else if shape.names_reversed() && shape.has_transfers() {
        Meaning::Remaining
    } else {
        Meaning::Moved
    }
}

fn put_legs_len(out: &mut Vec<u8>, len: usize) {
    let Some(Ok(less_one)) = len.checked_sub(1).map(u8::try_from) else {
        panic!("{len} legs can't be encoded: 1 to {TRANSFERS_MAX} are allowed");
    };
    out.push(less_one);
}

fn put_accounts(out: &mut Vec<u8>, leg: &Leg) {
    put_varint_u64(out, u64::from(leg.debit.0));
    put_varint_u64(out, u64::from(leg.credit.0));
}

fn take_accounts(reader: &mut Reader<'_>) -> Result<(AccountIndex, AccountIndex), Malformed> {
    Ok((
        AccountIndex(reader.varint_u32()?),
        AccountIndex(reader.varint_u32()?),
    ))
}

// ===== impl Leg =====

impl Leg {
    /// A leg that moves nothing.
    pub(crate) const fn new(debit: AccountIndex, credit: AccountIndex) -> Self {
        Leg {
            debit,
            credit,
            moved: Amount::ZERO,
            released: Amount::ZERO,
            remaining: Amount::ZERO,
        }
    }

    /// A leg that moves or reserves the amount of a transfer.
    pub(crate) const fn of_transfer(transfer: &Transfer<AccountIndex>) -> Self {
        Leg {
            moved: transfer.amount,
            ..Leg::new(transfer.debit, transfer.credit)
        }
    }

    const fn with(mut self, meaning: Meaning, amount: Amount) -> Self {
        match meaning {
            Meaning::Moved => self.moved = amount,
            Meaning::Released => self.released = amount,
            Meaning::Remaining => self.remaining = amount,
        }
        self
    }
}
