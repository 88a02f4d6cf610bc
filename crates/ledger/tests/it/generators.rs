//! Makes random requests that fit a state of the model. Only a few accounts exist, so requests often use the same
//! accounts. A request is made from a random number and the state, so a history is a list of numbers: it can be run
//! again from a seed, and it can be shortened.

use tally_ledger::*;

use super::{
    content::{Content, Other},
    model::{Model, ModelLeg},
};

/// Ids of accounts. The last account is never created.
pub(super) const ACCOUNTS: [&str; 8] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "nobody"];
/// Number of accounts that are created first.
pub(super) const CREATED_FIRST: usize = 5;
const SECOND: u64 = 1_000_000_000;

/// A fast source of pseudorandom numbers (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

// ===== impl Random =====

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub(super) const fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// One of the items, if there is one.
    fn any<T>(&mut self, mut items: impl Iterator<Item = T> + Clone) -> Option<T> {
        let len = items.clone().count();
        (len > 0).then(|| items.nth(self.index(len))).flatten()
    }
}

// ===== accounts =====

fn account_id(random: &mut Random) -> String {
    // Most ids belong to accounts that are created first.
    let from = match random.below(100) {
        0..94 => &ACCOUNTS[..CREATED_FIRST],
        94..99 => &ACCOUNTS[CREATED_FIRST..ACCOUNTS.len() - 1],
        _ => &ACCOUNTS[ACCOUNTS.len() - 1..],
    };
    random.pick(from).to_owned()
}

fn metadata(random: &mut Random) -> Metadata {
    if random.percent(80) {
        return Metadata::new();
    }
    Metadata::from([("k".to_owned(), format!("v{}", random.below(3)))])
}

fn limits(random: &mut Random) -> Vec<VelocityLimit> {
    let mut limits = Vec::new();
    for _ in 0..=random.below(3) {
        let (has_count, has_amount) = (random.percent(50), random.percent(50));
        let has_window = has_count || has_amount;
        let single = !has_window || random.percent(20);
        limits.push(VelocityLimit {
            side: random.pick(&[Side::Debit, Side::Credit]),
            window_nanos: if has_window {
                random.pick(&[SECOND, 63 * SECOND, 30 * 24 * 3600 * SECOND])
            } else {
                0
            },
            max_count: u64::from(has_count) * (1 + random.below(8)),
            max_amount: has_amount.then(|| Amount::from(20 + random.below(150))),
            single_amount_max: single.then(|| Amount::from(8 + random.below(20))),
        });
    }
    limits
}

fn overdraft(random: &mut Random) -> Amount {
    Amount::new(random.pick(&[0, 0, 10, 40, u128::MAX]))
}

fn status(random: &mut Random) -> AccountStatus {
    match random.below(20) {
        0..17 => AccountStatus::Open,
        17 => AccountStatus::Frozen,
        18 => AccountStatus::DebitsFrozen,
        _ => AccountStatus::Closed,
    }
}

pub(super) fn new_account(random: &mut Random, id: &str) -> NewAccount {
    let rule = random.pick(&[
        BalanceRule::Unlimited,
        BalanceRule::Unlimited,
        BalanceRule::CreditBalance,
        BalanceRule::DebitBalance,
    ]);
    NewAccount {
        id: id.to_owned(),
        asset: if random.percent(92) {
            "EUR"
        } else {
            random.pick(&["USD", "ETH-wei"])
        }
        .to_owned(),
        rule,
        overdraft_limit: overdraft(random),
        status: status(random),
        metadata: metadata(random),
        velocity_limits: if random.percent(25) {
            limits(random)
        } else {
            Vec::new()
        },
    }
}

/// One to three accounts, which may exist already.
pub(super) fn new_accounts(model: &Model, random: &mut Random) -> Vec<NewAccount> {
    let known = &ACCOUNTS[..ACCOUNTS.len() - 1];
    let mut accounts: Vec<NewAccount> = Vec::new();
    for _ in 0..=random.below(3) {
        let id = random.pick(known);
        let again = accounts.iter().find(|account| account.id == id).cloned();
        accounts.push(match (again, model.created(id)) {
            (Some(again), _) if random.percent(70) => again,
            (_, Some(created)) if random.percent(70) => created.clone(),
            _ => new_account(random, id),
        });
    }
    accounts
}

pub(super) fn update(model: &Model, random: &mut Random) -> AccountUpdate {
    let id = account_id(random);
    let revision = model.revision(&id);
    // Closed accounts stay closed, so few are closed.
    let mut status = status(random);
    if status == AccountStatus::Closed && random.percent(70) {
        status = AccountStatus::Open;
    }
    AccountUpdate {
        id,
        status: random.percent(60).then_some(status),
        overdraft_limit: random.percent(25).then(|| overdraft(random)),
        metadata: random.percent(15).then(|| metadata(random)),
        velocity_limits: random.percent(30).then(|| {
            if random.percent(50) {
                limits(random)
            } else {
                Vec::new()
            }
        }),
        expected_revision: match random.below(10) {
            0 => Some(u64::MAX),
            1..4 => Some(revision),
            _ => None,
        },
    }
}

// ===== transactions =====

fn amount(random: &mut Random, is_wide: bool) -> Amount {
    Amount::new(if is_wide && random.percent(15) {
        random.pick(&[u128::MAX, u128::MAX - 20, u128::MAX / 2])
    } else {
        u128::from(1 + random.below(20))
    })
}

fn transfers(random: &mut Random, is_wide: bool) -> Vec<Transfer<String>> {
    // Most transactions are short, because long transactions are rarely committed.
    let count = if random.percent(80) {
        1 + random.below(2)
    } else {
        3 + random.below(4)
    };
    let is_clamped = random.percent(25);
    let mut transfers = Vec::new();
    for _ in 0..count {
        let (debit, mut credit) = (account_id(random), account_id(random));
        if debit == credit && random.percent(90) {
            credit = account_id(random);
        }
        transfers.push(Transfer {
            debit,
            credit,
            amount: amount(random, is_wide),
            code: u32::try_from(random.below(3)).unwrap(),
            rule: if is_clamped {
                random.pick(&[
                    AmountRule::Exact,
                    AmountRule::UpToDebitAvailable,
                    AmountRule::UpToCreditAvailable,
                    AmountRule::UpToBothAvailable,
                ])
            } else {
                AmountRule::Exact
            },
        });
    }
    transfers
}

/// Transfers that take parts of what is left of `legs`; sometimes more, or from other accounts.
fn parts(random: &mut Random, legs: &[ModelLeg]) -> Vec<Transfer<String>> {
    let mut parts: Vec<_> = legs
        .iter()
        .map(|leg| {
            let left = leg.remaining;
            let amount = match random.below(20) {
                0..4 => 0,
                4..9 => left,
                9 => left.saturating_add(1),
                _ if left == 0 => 0,
                _ => 1 + u128::from(random.next()) % left,
            };
            super::content::transfer(&leg.debit, &leg.credit, amount)
        })
        .collect();
    // The service refuses a request in which all amounts are zero, so one of them is changed.
    if parts.iter().all(|part| part.amount.is_zero()) {
        parts[0].amount = Amount::from(1);
    }
    match random.below(40) {
        0 => parts.push(parts[0].clone()),
        1 if parts.len() > 1 && !parts[0].amount.is_zero() => {
            parts.pop();
        }
        2 | 3 => {
            let place = random.index(parts.len());
            parts[place].debit = account_id(random);
        }
        4 | 5 => {
            let place = random.index(parts.len());
            parts[place].credit = account_id(random);
        }
        _ => {}
    }
    parts
}

fn timeout(random: &mut Random) -> Option<u64> {
    match random.below(10) {
        0..3 => None,
        3..7 => Some(1 + random.below(3_000)),
        7..9 => Some(1 + random.below(5 * SECOND)),
        _ => Some(u64::MAX),
    }
}

fn post(model: &Model, random: &mut Random, id: &str) -> Content {
    let outstanding = if random.percent(85) {
        random.any(model.outstanding().collect::<Vec<_>>().into_iter())
    } else {
        random.any(model.holds.iter())
    };
    let Some((hold, found)) = outstanding else {
        return Content::post(id, "t0", &[]);
    };
    match random.below(10) {
        0..3 => Content::post(id, hold, &[]),
        3..6 => Content::post(id, hold, &parts(random, &found.legs)),
        6..9 => Content::post_and_keep(id, hold, &parts(random, &found.legs)),
        _ => Content::post(id, &format!("t{}", random.below(40)), &[]),
    }
}

fn void(model: &Model, random: &mut Random, id: &str) -> Content {
    let outstanding = model.outstanding().collect::<Vec<_>>().into_iter();
    let hold = match random.below(10) {
        0..7 => random.any(outstanding),
        _ => random.any(model.holds.iter()),
    };
    Content::void(id, hold.map_or("t1", |(hold, _)| hold))
}

fn reversal(model: &Model, random: &mut Random, id: &str) -> Content {
    let is_left = |legs: &&Vec<ModelLeg>| legs.iter().any(|leg| leg.remaining > 0);
    let found = match random.below(10) {
        0..7 => {
            let left = model.reversible.iter().filter(|(_, legs)| is_left(legs));
            random.any(left.collect::<Vec<_>>().into_iter())
        }
        7 | 8 => random.any(model.reversible.iter()),
        _ => None,
    };
    let Some((reversed, legs)) = found else {
        return Content::reversal(id, &format!("t{}", random.below(60)), &[]);
    };
    if random.percent(40) {
        return Content::reversal(id, reversed, &[]);
    }
    let swapped: Vec<_> = legs
        .iter()
        .map(|leg| ModelLeg {
            debit: leg.credit.clone(),
            credit: leg.debit.clone(),
            ..leg.clone()
        })
        .collect();
    Content::reversal(id, reversed, &parts(random, &swapped))
}

/// A new transaction with this id.
pub(super) fn content(model: &Model, random: &mut Random, id: &str, is_wide: bool) -> Content {
    let mut content = match random.below(100) {
        0..38 => Content::posted(id, &transfers(random, is_wide)),
        38..60 => {
            let timeout = timeout(random);
            Content::pending(id, timeout, &transfers(random, is_wide))
        }
        60..80 => post(model, random, id),
        80..85 => void(model, random, id),
        _ => reversal(model, random, id),
    };
    if random.percent(10) {
        content.effective_time = Some(EffectiveTime {
            seconds: random.next().cast_signed(),
            nanos: 7,
        });
    }
    content.metadata = metadata(random);
    content
}

/// Changes one field of a transaction, before it is sent again. The result has an allowed form.
pub(super) fn change(random: &mut Random, mut content: Content) -> Content {
    let place = random.index(content.transfers.len().max(1));
    let is_plain = content.other == Other::Nothing;
    match random.below(13) {
        0 => {
            content.effective_time = match content.effective_time {
                None => Some(EffectiveTime { seconds: 0, nanos: 0 }),
                Some(_) => None,
            }
        }
        1 => {
            content.metadata.insert("changed".to_owned(), String::new());
        }
        2 => {
            let more = content.transfers.first().cloned();
            content.transfers.extend(more);
        }
        3 if content.transfers.len() > 1 => content.transfers.truncate(1),
        4 => {
            content.phase = match content.phase {
                Phase::Posted if is_plain => Phase::Pending,
                Phase::Pending => Phase::Posted,
                Phase::VoidPending => Phase::PostPending,
                Phase::PostPending if content.transfers.is_empty() => Phase::VoidPending,
                phase @ (Phase::Posted | Phase::PostPending) => phase,
            };
            content.pending_timeout = None;
        }
        5 if content.phase == Phase::Pending => {
            content.pending_timeout = match content.pending_timeout {
                None => Some(77),
                Some(_) => None,
            }
        }
        6 if content.phase == Phase::PostPending && !content.transfers.is_empty() => {
            content.keep_remaining = !content.keep_remaining;
        }
        7 => match &mut content.other {
            Other::Hold(id) | Other::Reversed(id) => id.push('x'),
            Other::Nothing => {}
        },
        8 if content.phase == Phase::Posted => {
            content.other = match content.other {
                Other::Nothing => Other::Reversed("t0".to_owned()),
                other @ (Other::Hold(_) | Other::Reversed(_)) => other,
            };
            for transfer in &mut content.transfers {
                transfer.rule = AmountRule::Exact;
            }
        }
        what => {
            if let Some(transfer) = content.transfers.get_mut(place) {
                match what {
                    9 => transfer.debit = account_id(random),
                    10 => transfer.credit = account_id(random),
                    11 => transfer.amount = Amount::from(21),
                    12 if is_plain => transfer.rule = AmountRule::UpToBothAvailable,
                    _ => transfer.code += 1,
                }
            }
        }
    }
    content
}

/// By how many nanoseconds a block is later than the transaction before it.
pub(super) fn later_by(random: &mut Random) -> u64 {
    match random.below(100) {
        0..60 => random.below(2_000),
        60..85 => random.below(2 * SECOND),
        85..97 => random.below(70 * SECOND),
        _ => random.below(40 * 24 * 3600 * SECOND),
    }
}
