//! Compares the protobuf readers of the hot path with prost: both get the same bytes, and must accept the same messages
//! and find the same values. The checks of the fields are compared with a naive form of the same rules.
//!
//! The readers of the service differ from prost in three ways, and only in these:
//!
//! - They keep the first [`TRANSFERS_MAX`] transfers of a transaction, and count the others.
//! - The reader of a `ProcessTransactionsRequest` does not read a transaction of more than [`SPLIT_BYTES_MAX`] bytes, but
//!   reports its length.
//! - The count of the accounts in a `BatchCreateAccountsRequest` rejects a message without accounts, with more than 1000
//!   accounts, or with more than 16 entries of metadata or more than 4 velocity limits in an account. Entries with the same key
//!   all count.

use prost::Message;
use tally::{
    grpc::fuzzing::{self, ReadTransaction, SPLIT_BYTES_MAX, SplitTransaction},
    proto::{
        Account, Amount, BatchCreateAccountsRequest, CreateAccountRequest, ProcessTransactionRequest,
        ProcessTransactionsRequest, StreamTransactionsRequest, Transfer, Uint128, VelocityLimit, amount,
        transfer,
    },
};
use tally_ledger::{Metadata, Names, TRANSFERS_MAX, TransactionView};

/// Maximum number of accounts in a `BatchCreateAccountsRequest`.
const ACCOUNTS_MAX: usize = 1000;
/// Maximum number of entries of metadata.
const ENTRIES_MAX: usize = 16;
/// Maximum number of velocity limits of an account.
const LIMITS_MAX: usize = 4;

/// A `ProcessTransactionsRequest` whose transactions are not decoded.
#[derive(Clone, PartialEq, Message)]
struct RawTransactions {
    #[prost(bytes = "vec", repeated, tag = "1")]
    transactions: Vec<Vec<u8>>,
}

/// A `BatchCreateAccountsRequest` of which only the entries of metadata and the velocity limits are decoded. Entries with the same
/// key stay separate.
#[derive(Clone, PartialEq, Message)]
struct RawAccounts {
    #[prost(message, repeated, tag = "1")]
    requests: Vec<RawRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct RawRequest {
    #[prost(message, optional, tag = "1")]
    account: Option<RawAccount>,
}

#[derive(Clone, PartialEq, Message)]
struct RawAccount {
    #[prost(message, repeated, tag = "6")]
    metadata: Vec<RawEntry>,
    #[prost(message, repeated, tag = "10")]
    velocity_limits: Vec<RawEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct RawEntry {}

/// Checks the readers on an input: one byte that selects how the message arrives and what surrounds it, and the message.
pub(crate) fn check(input: &[u8]) {
    let Some((selector, message)) = input.split_first() else {
        return;
    };
    let pieces = usize::from(selector & 0x1f);
    match selector >> 5 {
        0..=2 => check_message(message, pieces),
        3 => check_frames(message, pieces),
        4 => check_message(&delimited(1, message), pieces),
        5 => check_message(&delimited(3, message), pieces),
        6 => check_message(&delimited(1, &delimited(3, message)), pieces),
        _ => check_long(message, pieces),
    }
}

/// Returns inputs with valid messages.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let accounts: Vec<_> = (0..3).map(account).collect();
    let batch = BatchCreateAccountsRequest {
        requests: accounts.clone(),
        skip_existing: true,
    };
    let many = ProcessTransactionRequest {
        transfers: vec![transaction(1).transfers.remove(0); 260],
        ..transaction(2)
    };
    let mut messages = vec![
        batch.encode_to_vec(),
        accounts[1].encode_to_vec(),
        many.encode_to_vec(),
    ];
    for number in 0..8 {
        messages.push(transaction(number).encode_to_vec());
        messages.push(
            StreamTransactionsRequest {
                transaction: Some(transaction(number)),
            }
            .encode_to_vec(),
        );
        messages.push(
            ProcessTransactionsRequest {
                transactions: (0..number).map(transaction).collect(),
            }
            .encode_to_vec(),
        );
    }
    // An unknown group with fields in it, as a later version may send.
    messages.push(
        [
            &[0x7b, 0x0a, 1, b'x', 0x10, 5, 0x7c],
            &*transaction(1).encode_to_vec(),
        ]
        .concat(),
    );
    let frames = [
        &[0, 0, 0, 0, 3, 1, 2, 3],
        &[0; 5][..],
        &[0, 0, 0, 1, 4],
        &[b'x'; 260],
        &[0, 0],
    ]
    .concat();
    let selectors = [0, 1, 7, 0x80, 0xa3, 0xc5, 0xe9];
    let selected = |(place, message): (usize, &Vec<u8>)| {
        [&[selectors[place % selectors.len()]], message.as_slice()].concat()
    };
    let mut seeds: Vec<Vec<u8>> = messages.iter().enumerate().map(selected).collect();
    seeds.extend([0x60, 0x61, 0x67].map(|selector| [&[selector], frames.as_slice()].concat()));
    seeds
}

fn transaction(number: u32) -> ProcessTransactionRequest {
    let transfer = |leg: i64| Transfer {
        debit_account_id: format!("a:{leg}"),
        credit_account_id: "b".to_owned(),
        amount: Some(if leg == 1 {
            transfer::Amount::WideMinorUnits(Uint128 { high: 1, low: 7 })
        } else {
            transfer::Amount::MinorUnits(leg + 5)
        }),
        code: 7,
        amount_rule: i32::from(number == 2) * 2,
    };
    let phase = match number {
        1 => 1,
        3 => 2,
        4 | 5 => 3,
        6 => 4,
        _ => 0,
    };
    ProcessTransactionRequest {
        transaction_id: format!("t-{number}"),
        phase,
        transfers: match number {
            4 | 6 => Vec::new(),
            _ => (0..i64::from(number.max(1))).map(transfer).collect(),
        },
        pending_transaction_id: match number {
            4..=6 => "hold".to_owned(),
            _ => String::new(),
        },
        keep_remaining: number == 5,
        reverses_transaction_id: match number {
            7 => "t-1".to_owned(),
            _ => String::new(),
        },
        return_balances: number == 7,
        effective_time: (number == 2).then_some(prost_types::Timestamp {
            seconds: 728_438_400,
            nanos: 5,
        }),
        pending_timeout: (number == 3).then_some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        metadata: (0..number)
            .map(|n| (format!("key{n}"), "value č".to_owned()))
            .collect(),
    }
}

fn account(number: i32) -> CreateAccountRequest {
    CreateAccountRequest {
        account: Some(Account {
            id: format!("account/{number}"),
            asset: "EUR".to_owned(),
            balance_rule: number + 1,
            overdraft_limit: (number > 0).then_some(Amount {
                value: Some(amount::Value::MinorUnits(100)),
            }),
            status: if number == 2 { 4 } else { 1 },
            metadata: [("owner".to_owned(), "x".to_owned())].into(),
            velocity_limits: (0..number)
                .map(|place| VelocityLimit {
                    side: place + 1,
                    window: Some(prost_types::Duration {
                        seconds: 60,
                        nanos: 1,
                    }),
                    max_count: i64::from(place),
                    max_amount: Some(Amount {
                        value: Some(amount::Value::MinorUnits(5)),
                    }),
                    single_amount_max: None,
                })
                .collect(),
            ..Account::default()
        }),
    }
}

/// Returns a field that contains `bytes`.
fn delimited(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![field << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut all);
    all.extend_from_slice(bytes);
    all
}

/// Compares the messages that the service finds in gRPC's frames with those that a naive reader finds.
fn check_frames(call: &[u8], pieces: usize) {
    const MESSAGE_BYTES_MAX: usize = 300;
    let ours = fuzzing::messages(&in_pieces(call, pieces), MESSAGE_BYTES_MAX);
    let (mut rest, mut messages) = (call, Vec::new());
    let expected = loop {
        let Some((header, behind)) = rest.split_at_checked(5) else {
            break Some((messages, !rest.is_empty()));
        };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if header[0] != 0 || length > MESSAGE_BYTES_MAX {
            break None;
        }
        let Some((message, behind)) = behind.split_at_checked(length) else {
            break Some((messages, true));
        };
        messages.push(message.to_vec());
        rest = behind;
    };
    assert_eq!(ours.as_ref().ok(), expected.as_ref(), "{ours:?}");
}

fn check_message(message: &[u8], pieces: usize) {
    let theirs = ProcessTransactionRequest::decode(message);
    compare(fuzzing::transaction(message), theirs, "ProcessTransactionRequest");
    let theirs =
        StreamTransactionsRequest::decode(message).map(|message| message.transaction.unwrap_or_default());
    compare(
        fuzzing::stream_message(message),
        theirs,
        "StreamTransactionsRequest",
    );
    check_transactions(message, pieces);
    check_accounts(message);
    if let Ok(request) = CreateAccountRequest::decode(message) {
        let is_valid = request.account.as_ref().is_some_and(is_valid_account);
        let ours = fuzzing::new_account(request.clone());
        assert_eq!(ours.is_ok(), is_valid, "{ours:?}");
        if let Ok(ours) = ours {
            assert_same_account(&ours.expect("an account"), &request.account.expect("an account"));
        }
    }
}

/// Checks a transaction whose length is near the longest length that the service reads.
fn check_long(message: &[u8], pieces: usize) {
    let (offset, message) = message.split_first().unwrap_or((&0, &[]));
    // Field 15 is unknown. Its key and its length take 4 bytes.
    let padding = (SPLIT_BYTES_MAX + usize::from(*offset)).saturating_sub(message.len() + 128 + 4);
    let transaction = [message, &delimited(15, &vec![b'x'; padding])].concat();
    check_transactions(
        &[delimited(1, &transaction), delimited(1, message)].concat(),
        pieces,
    );
}

fn compare(
    ours: Result<ReadTransaction, tonic::Status>,
    theirs: Result<ProcessTransactionRequest, prost::DecodeError>,
    name: &str,
) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => assert_same(&ours, theirs),
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{name}: this reader: {ours:?}, prost: {theirs:?}"),
    }
}

fn assert_same(ours: &ReadTransaction, mut theirs: ProcessTransactionRequest) {
    let is_valid = is_valid_transaction(&theirs);
    assert_eq!(ours.transfer_count, theirs.transfers.len());
    theirs.transfers.truncate(TRANSFERS_MAX);
    assert_eq!(ours.request, theirs);
    assert_eq!(ours.checked.is_ok(), is_valid, "{:?}: {theirs:?}", ours.checked);
    match &ours.checked {
        Ok(bytes) => assert_encodes(bytes, &theirs),
        Err(message) => assert!(!message.is_empty()),
    }
}

/// Checks that `bytes`, which the ledger gets, contain the transaction.
fn assert_encodes(bytes: &[u8], request: &ProcessTransactionRequest) {
    let view = TransactionView::<'_, &[u8]>::parse(bytes).expect("the ledger reads what the service writes");
    assert_eq!(view.id(), request.transaction_id);
    let time = view
        .effective_time()
        .map(|time| (time.seconds, i64::from(time.nanos)));
    let expected = request
        .effective_time
        .map(|time| (time.seconds, i64::from(time.nanos)));
    assert_eq!(time, expected);
    assert_eq!(view.metadata().expect("metadata"), request.metadata);
    assert_eq!(view.phase() as i32, request.phase.max(1));
    let other = match view.names() {
        Names::Nothing => (&[][..], &[][..]),
        Names::Hold(id) => (id, &[][..]),
        Names::Reversed(id) => (&[][..], id),
    };
    let (hold, reversed) = (&request.pending_transaction_id, &request.reverses_transaction_id);
    assert_eq!(other, (hold.as_bytes(), reversed.as_bytes()));
    assert_eq!(view.keep_remaining(), request.keep_remaining);
    let timeout = request
        .pending_timeout
        .map(|timeout| i128::from(timeout.seconds) * 1_000_000_000 + i128::from(timeout.nanos));
    assert_eq!(view.pending_timeout().map(i128::from), timeout);
    let found: Vec<_> = view
        .transfers()
        .map(|transfer| transfer.expect("a transfer"))
        .map(|transfer| {
            (
                transfer.debit,
                transfer.credit,
                transfer.amount.minor_units(),
                i64::from(transfer.code),
                transfer.rule as i32,
            )
        })
        .collect();
    let expected: Vec<_> = request
        .transfers
        .iter()
        .map(|transfer| {
            (
                transfer.debit_account_id.as_bytes(),
                transfer.credit_account_id.as_bytes(),
                units(transfer),
                i64::from(transfer.code),
                transfer.amount_rule.max(1),
            )
        })
        .collect();
    assert_eq!(found, expected);
}

/// Returns the amount of a transfer; 0 if it is unset or negative.
fn units(transfer: &Transfer) -> u128 {
    match &transfer.amount {
        Some(transfer::Amount::MinorUnits(units)) => u128::try_from(*units).unwrap_or(0),
        Some(transfer::Amount::WideMinorUnits(wide)) => u128::from(wide.high) << 64 | u128::from(wide.low),
        None => 0,
    }
}

fn is_valid_id(id: &str, bytes_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/@".contains(&byte);
    !id.is_empty() && id.len() <= bytes_max && id.bytes().all(allowed)
}

fn is_valid_metadata(metadata: &Metadata) -> bool {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let keys = metadata.keys().all(|key| (1..=64).contains(&key.len()));
    metadata.len() <= ENTRIES_MAX && bytes <= 1024 && keys
}

/// The rules of `proto/tally/v1/transaction_service.proto` for a transaction.
fn is_valid_transaction(request: &ProcessTransactionRequest) -> bool {
    let count = request.transfers.len();
    let (hold, reversed) = (&request.pending_transaction_id, &request.reverses_transaction_id);
    let is_other = |id: &str| is_valid_id(id, 64) && id != request.transaction_id;
    let (posts_hold, voids_hold) = (request.phase == 3, request.phase == 4);
    let reverses = request.phase <= 1 && !reversed.is_empty();
    let is_partial = posts_hold || reverses;
    let is_valid_transfer = |transfer: &Transfer| {
        let is_zero = match &transfer.amount {
            Some(transfer::Amount::MinorUnits(units)) => *units == 0,
            Some(transfer::Amount::WideMinorUnits(_)) => units(transfer) == 0,
            None => false,
        };
        is_valid_id(&transfer.debit_account_id, 64)
            && is_valid_id(&transfer.credit_account_id, 64)
            && (units(transfer) > 0 || is_zero && is_partial)
            && transfer.code >= 0
            && (0..=if is_partial { 1 } else { 4 }).contains(&transfer.amount_rule)
    };
    // The service looks only at the amounts of the transfers that it keeps, but a request with more of them is invalid anyway.
    let moves_nothing =
        is_partial && count > 0 && request.transfers.iter().all(|transfer| units(transfer) == 0);
    let is_valid_timeout = |timeout: &prost_types::Duration| {
        let nanos = i128::from(timeout.seconds) * 1_000_000_000 + i128::from(timeout.nanos);
        request.phase == 2
            && (0..1_000_000_000).contains(&timeout.nanos)
            && (1_000_000..=3650 * 24 * 3600 * 1_000_000_000).contains(&nanos)
    };
    let is_valid_time = |time: &prost_types::Timestamp| {
        (-62_135_596_800..=253_402_300_799).contains(&time.seconds)
            && (0..1_000_000_000).contains(&time.nanos)
    };
    is_valid_id(&request.transaction_id, 64)
        && (0..=4).contains(&request.phase)
        && (usize::from(!is_partial && !voids_hold)..=TRANSFERS_MAX).contains(&count)
        && (!voids_hold || count == 0)
        && request.transfers.iter().all(is_valid_transfer)
        && !moves_nothing
        && if posts_hold || voids_hold {
            is_other(hold)
        } else {
            hold.is_empty()
        }
        && if reverses {
            is_other(reversed)
        } else {
            reversed.is_empty()
        }
        && (!request.keep_remaining || posts_hold && count > 0)
        && request.pending_timeout.as_ref().is_none_or(is_valid_timeout)
        && request.effective_time.as_ref().is_none_or(is_valid_time)
        && is_valid_metadata(&request.metadata)
}

/// Returns an amount, 0 if it is unset. `None` if it has no value or a negative one.
fn naive_amount(amount: Option<&Amount>) -> Option<u128> {
    match amount {
        None => Some(0),
        Some(Amount { value: None }) => None,
        Some(Amount {
            value: Some(amount::Value::MinorUnits(units)),
        }) => u128::try_from(*units).ok(),
        Some(Amount {
            value: Some(amount::Value::WideMinorUnits(wide)),
        }) => Some(u128::from(wide.high) << 64 | u128::from(wide.low)),
    }
}

fn is_valid_limit(limit: &VelocityLimit) -> bool {
    let is_maximum =
        |amount: Option<&Amount>| amount.is_none() || naive_amount(amount).is_some_and(|amount| amount > 0);
    let has_window = limit.max_count > 0 || limit.max_amount.is_some();
    let is_window = |window: &prost_types::Duration| {
        let nanos = i128::from(window.seconds) * 1_000_000_000 + i128::from(window.nanos);
        (0..1_000_000_000).contains(&window.nanos)
            && (1_000_000_000..=30 * 24 * 3600 * 1_000_000_000).contains(&nanos)
    };
    (1..=2).contains(&limit.side)
        && limit.max_count >= 0
        && is_maximum(limit.max_amount.as_ref())
        && is_maximum(limit.single_amount_max.as_ref())
        && (has_window || limit.single_amount_max.is_some())
        && match &limit.window {
            Some(window) => has_window && is_window(window),
            None => !has_window,
        }
}

/// The rules of `proto/tally/v1/types.proto` for a new account.
fn is_valid_account(account: &Account) -> bool {
    let limit = naive_amount(account.overdraft_limit.as_ref());
    is_valid_id(&account.id, 64)
        && is_valid_id(&account.asset, 16)
        && (0..=3).contains(&account.balance_rule)
        && (0..=4).contains(&account.status)
        && limit.is_some_and(|limit| limit == 0 || account.balance_rule > 1)
        && account.balances.is_none()
        && account.create_time.is_none()
        && account.available.is_none()
        && account.etag.is_empty()
        && is_valid_metadata(&account.metadata)
        && account.velocity_limits.len() <= LIMITS_MAX
        && account.velocity_limits.iter().all(is_valid_limit)
}

fn assert_same_account(ours: &tally_ledger::NewAccount, theirs: &Account) {
    assert_eq!(
        (&ours.id, &ours.asset, &ours.metadata),
        (&theirs.id, &theirs.asset, &theirs.metadata)
    );
    assert_eq!(ours.rule as i32, theirs.balance_rule.max(1));
    assert_eq!(ours.status as i32, theirs.status.max(1));
    let naive = |limit: &VelocityLimit| {
        let window = limit.window.unwrap_or_default();
        let window = i128::from(window.seconds) * 1_000_000_000 + i128::from(window.nanos);
        let maximum = |amount: &Option<Amount>| amount.as_ref().and_then(|amount| naive_amount(Some(amount)));
        let maxima = (maximum(&limit.max_amount), maximum(&limit.single_amount_max));
        (limit.side, window, i128::from(limit.max_count), maxima)
    };
    let found = |limit: &tally_ledger::VelocityLimit| {
        let maximum = |amount: Option<tally_ledger::Amount>| amount.map(tally_ledger::Amount::minor_units);
        let maxima = (maximum(limit.max_amount), maximum(limit.single_amount_max));
        let (window, count) = (limit.window_nanos.into(), limit.max_count.into());
        (limit.side as i32 + 1, window, count, maxima)
    };
    assert_eq!(
        ours.velocity_limits.iter().map(found).collect::<Vec<_>>(),
        theirs.velocity_limits.iter().map(naive).collect::<Vec<_>>()
    );
}

/// Returns `message` in `count` pieces of about the same length; in pieces of one byte if `count` is 0.
fn in_pieces(message: &[u8], count: usize) -> Vec<&[u8]> {
    let length = message.len().checked_div(count).unwrap_or(0) + 1;
    message.chunks(length).collect()
}

fn check_transactions(message: &[u8], pieces: usize) {
    let ours = fuzzing::transactions(&in_pieces(message, pieces));
    let raw = RawTransactions::decode(message);
    let has_long = raw.as_ref().is_ok_and(|raw| {
        raw.transactions
            .iter()
            .any(|transaction| transaction.len() > SPLIT_BYTES_MAX)
    });
    let theirs = if has_long {
        let read = raw.expect("checked").transactions.into_iter().map(|bytes| {
            if bytes.len() > SPLIT_BYTES_MAX {
                Ok(Err(bytes.len()))
            } else {
                ProcessTransactionRequest::decode(bytes.as_slice()).map(Ok)
            }
        });
        read.collect::<Result<Vec<_>, _>>()
    } else {
        ProcessTransactionsRequest::decode(message)
            .map(|request| request.transactions.into_iter().map(Ok).collect())
    };
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                match (ours, theirs) {
                    (SplitTransaction::Read(ours), Ok(theirs)) => assert_same(ours, theirs),
                    (SplitTransaction::TooLong(ours), Err(theirs)) => assert_eq!(*ours, theirs),
                    (ours, theirs) => panic!("this reader: {ours:?}, prost: {theirs:?}"),
                }
            }
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ProcessTransactionsRequest: this reader: {ours:?}, prost: {theirs:?}"),
    }
}

fn check_accounts(message: &[u8]) {
    let ours = fuzzing::count_accounts(message);
    let Ok(request) = BatchCreateAccountsRequest::decode(message) else {
        return;
    };
    let raw = RawAccounts::decode(message).expect("prost has read the same message");
    let is_small = |request: &RawRequest| {
        request.account.as_ref().is_none_or(|account| {
            account.metadata.len() <= ENTRIES_MAX && account.velocity_limits.len() <= LIMITS_MAX
        })
    };
    let count = request.requests.len();
    let is_bounded = (1..=ACCOUNTS_MAX).contains(&count) && raw.requests.iter().all(is_small);
    assert_eq!(ours.as_ref().ok(), is_bounded.then_some(&count), "{ours:?}");
    if !is_bounded {
        return;
    }
    let is_valid = |request: &CreateAccountRequest| request.account.as_ref().is_some_and(is_valid_account);
    let all_valid = request.requests.iter().all(is_valid);
    let accounts = fuzzing::new_accounts(request.clone());
    assert_eq!(accounts.is_ok(), all_valid, "{accounts:?}");
    for (ours, theirs) in accounts.iter().flatten().zip(&request.requests) {
        assert_same_account(ours, theirs.account.as_ref().expect("an account"));
    }
}
