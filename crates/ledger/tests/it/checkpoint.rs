//! A checkpoint as the store makes it: copies of accounts and holds, a few at a time, while transactions change them.

use tally_ledger::{
    chain::{put_balances, take_balances},
    codec::{Reader, put_varint},
    *,
};

/// Copies of all accounts, and then of all holds.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The first record that a replay must apply.
    pub(super) first_entry: u64,
    accounts_at_start: usize,
    accounts: usize,
    encoded: Vec<u8>,
    holds: Vec<Hold>,
    /// The next slot of the table of holds; `None` if all were copied.
    next_slot: Option<u32>,
}

// ===== impl Checkpoint =====

impl Checkpoint {
    pub(super) fn begin(ledger: &Ledger, first_entry: u64) -> Self {
        Checkpoint {
            first_entry,
            accounts_at_start: ledger.accounts().len(),
            accounts: 0,
            encoded: Vec::new(),
            holds: Vec::new(),
            next_slot: Some(0),
        }
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.accounts >= self.accounts_at_start && self.next_slot.is_none()
    }

    /// Copies up to `count` accounts, or looks at `count` slots of the table of holds.
    pub(super) fn copy(&mut self, ledger: &Ledger, count: usize) {
        if self.accounts >= self.accounts_at_start {
            if let Some(slot) = self.next_slot {
                let (holds, next) = ledger.holds().page(slot, count);
                self.holds.extend(holds);
                self.next_slot = next;
            }
            return;
        }
        let table = ledger.accounts();
        let from = AccountIndex(u32::try_from(self.accounts).unwrap());
        for index in table.indexes_from(from).take(count) {
            let (content, create_time) = table.content(index).unwrap();
            let account = table.get(index).unwrap();
            content.put(&mut self.encoded);
            put_balances(&mut self.encoded, &account.balances);
            put_varint(&mut self.encoded, u128::from(account.head));
            put_varint(&mut self.encoded, u128::from(create_time.as_nanos()));
            table.put_extras(index, &mut self.encoded);
            self.accounts += 1;
        }
    }

    pub(super) fn restore(&self) -> Ledger {
        let mut ledger = Ledger::new(3);
        let mut reader = Reader::new(&self.encoded);
        while !reader.is_empty() {
            let account = NewAccount::take(&mut reader).unwrap();
            let balances = take_balances(&mut reader).unwrap();
            let head = reader.varint_u64().unwrap();
            let create_time = Timestamp::from_nanos(reader.varint_u64().unwrap());
            let table = ledger.accounts_mut();
            let index = table.push(account, head, create_time).unwrap();
            table.get_mut(index).unwrap().balances = balances;
            table.take_extras(index, &mut reader).unwrap();
        }
        for hold in &self.holds {
            ledger.holds_mut().insert(*hold);
        }
        ledger
    }
}
