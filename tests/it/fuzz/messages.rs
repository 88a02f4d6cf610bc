//! Compares the protobuf readers of the hot path with prost: both get the same bytes, and must accept the same messages
//! and find the same values. The checks of the fields are compared with a naive form of the same rules.
//!
//! The readers of the service differ from prost in three ways, and only in these:
//!
//! - They keep the first [`TRANSFERS_MAX`] transfers of a transaction, and count the others.
//! - The reader of a `ProcessTransactionsRequest` does not read a transaction of more than [`SPLIT_BYTES_MAX`] bytes, but
//!   reports its length.
//! - The count of the accounts in a `BatchCreateAccountsRequest` rejects a message without accounts, with more than 1000
//!   accounts, or with more than 16 entries of metadata in an account. Entries with the same key all count.

use prost::Message;
use tally::{
    grpc::fuzzing::{self, ReadTransaction, SPLIT_BYTES_MAX, SplitTransaction},
    proto::{
        Account, Amount, BatchCreateAccountsRequest, CreateAccountRequest, ProcessTransactionRequest,
        ProcessTransactionsRequest, StreamTransactionsRequest, Transfer, Uint128, amount, transfer,
    },
};
use tally_ledger::{Metadata, TRANSFERS_MAX, TransactionView};

/// Maximum number of accounts in a `BatchCreateAccountsRequest`.
const ACCOUNTS_MAX: usize = 1000;
/// Maximum number of entries of metadata.
const ENTRIES_MAX: usize = 16;

/// A `ProcessTransactionsRequest` whose transactions are not decoded.
#[derive(Clone, PartialEq, Message)]
struct RawTransactions {
    #[prost(bytes = "vec", repeated, tag = "1")]
    transactions: Vec<Vec<u8>>,
}

/// A `BatchCreateAccountsRequest` of which only the entries of metadata are decoded. Entries with the same key stay
/// separate.
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
    for number in 0..4 {
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
    };
    ProcessTransactionRequest {
        transaction_id: format!("t-{number}"),
        phase: i32::from(number == 1),
        transfers: (0..i64::from(number.max(1))).map(transfer).collect(),
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
        ..ProcessTransactionRequest::default()
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
            status: 1,
            metadata: [("owner".to_owned(), "x".to_owned())].into(),
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
    let found: Vec<_> = view
        .transfers()
        .map(|transfer| transfer.expect("a transfer"))
        .map(|transfer| {
            (
                transfer.debit,
                transfer.credit,
                transfer.amount.minor_units(),
                i64::from(transfer.code),
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

/// The rules of `proto/tally/v1/transaction_service.proto` for a transaction of this release.
fn is_valid_transaction(request: &ProcessTransactionRequest) -> bool {
    let is_valid_transfer = |transfer: &Transfer| {
        is_valid_id(&transfer.debit_account_id, 64)
            && is_valid_id(&transfer.credit_account_id, 64)
            && units(transfer) > 0
            && transfer.code >= 0
    };
    let is_valid_time = |time: &prost_types::Timestamp| {
        (-62_135_596_800..=253_402_300_799).contains(&time.seconds)
            && (0..1_000_000_000).contains(&time.nanos)
    };
    is_valid_id(&request.transaction_id, 64)
        && (0..=1).contains(&request.phase)
        && (1..=TRANSFERS_MAX).contains(&request.transfers.len())
        && request.transfers.iter().all(is_valid_transfer)
        && request.pending_transaction_id.is_empty()
        && request.pending_timeout.is_none()
        && request.effective_time.as_ref().is_none_or(is_valid_time)
        && is_valid_metadata(&request.metadata)
}

/// The rules of `proto/tally/v1/types.proto` for a new account.
fn is_valid_account(account: &Account) -> bool {
    let limit = match &account.overdraft_limit {
        None => Some(0),
        Some(Amount { value: None }) => None,
        Some(Amount {
            value: Some(amount::Value::MinorUnits(units)),
        }) => u128::try_from(*units).ok(),
        Some(Amount {
            value: Some(amount::Value::WideMinorUnits(wide)),
        }) => Some(u128::from(wide.high) << 64 | u128::from(wide.low)),
    };
    is_valid_id(&account.id, 64)
        && is_valid_id(&account.asset, 16)
        && (0..=3).contains(&account.balance_rule)
        && (0..=3).contains(&account.status)
        && limit.is_some_and(|limit| limit == 0 || account.balance_rule > 1)
        && account.balances.is_none()
        && account.create_time.is_none()
        && is_valid_metadata(&account.metadata)
}

fn assert_same_account(ours: &tally_ledger::NewAccount, theirs: &Account) {
    assert_eq!(
        (&ours.id, &ours.asset, &ours.metadata),
        (&theirs.id, &theirs.asset, &theirs.metadata)
    );
    assert_eq!(ours.rule as i32, theirs.balance_rule.max(1));
    assert_eq!(ours.status as i32, theirs.status.max(1));
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
    let entries = |request: &RawRequest| {
        request
            .account
            .as_ref()
            .map_or(0, |account| account.metadata.len())
    };
    let count = request.requests.len();
    let is_bounded = (1..=ACCOUNTS_MAX).contains(&count)
        && raw.requests.iter().all(|request| entries(request) <= ENTRIES_MAX);
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
