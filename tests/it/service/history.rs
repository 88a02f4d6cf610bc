//! Tests of the past over the wire: statements, accounts as of a moment, the ledger in its order, and the chain of blocks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally::engine::HISTORY_READS_MAX;
use tally::proto::{
    Account, AccountEntry, Balances, GetAccountRequest, GetChainHeadRequest, GetTransactionRequest,
    ListAccountEntriesRequest, ListTransactionsRequest, ProcessTransactionRequest,
    ProcessTransactionsRequest, Side, Transaction, TransactionPhase, TransferEffect, amount,
    get_account_request::AsOf, transaction,
};
use tally::store::embedded::{HistoryReader, RecordError, history::CHUNK_BYTES};
use tonic::Code;

use super::{
    expected,
    ledger_client::{hold, post, post_part, reversal, update, void},
    summary,
};
use crate::support::in_process::{Service, account, config, transaction, transfer};

const ACCOUNTS: [&str; 4] = ["hot", "b", "c", "cold"];

/// The columns: debits pending and posted, credits pending and posted.
pub(super) type Columns = [i64; 4];

/// A row of a statement, computed from `ListTransactions`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExpectedRow {
    sequence: i64,
    transfer: i32,
    is_debit: bool,
    columns: Columns,
}

fn units(amount: Option<&tally::proto::Amount>) -> i64 {
    match amount.and_then(|amount| amount.value.as_ref()) {
        None => 0,
        Some(amount::Value::MinorUnits(units)) => *units,
        Some(amount::Value::WideMinorUnits(wide)) => panic!("{wide:?}"),
    }
}

pub(super) fn columns(balances: Option<&Balances>) -> Columns {
    let balances = balances.unwrap();
    [
        units(balances.debits_pending.as_ref()),
        units(balances.debits_posted.as_ref()),
        units(balances.credits_pending.as_ref()),
        units(balances.credits_posted.as_ref()),
    ]
}

/// A history with every kind of record: 400 transactions, most of them on `hot`.
async fn fill(service: &Service) {
    service.open_accounts(&ACCOUNTS).await;
    let mut client = service.transactions().await;
    for block in 0..20_i64 {
        let mut requests = Vec::new();
        for number in 0..20 {
            let name = format!("t{block}-{number}");
            let id = name.as_str();
            let hold_of = |back: i64| format!("t{block}-{}", number - back);
            let request: ProcessTransactionRequest = match number % 10 {
                0 => hold(id, vec![transfer("hot", "b", 100), transfer("c", "hot", 7)]),
                1 => ProcessTransactionRequest {
                    keep_remaining: true,
                    ..post_part(
                        id,
                        &hold_of(1),
                        vec![transfer("hot", "b", 30), transfer("c", "hot", 0)],
                    )
                },
                2 => post(id, &hold_of(2), Vec::new()),
                3 => hold(id, vec![transfer("hot", "c", 50)]),
                4 => void(id, &hold_of(1)),
                5 => transaction(
                    id,
                    vec![
                        transfer("hot", "b", 3),
                        transfer("hot", "c", 4),
                        transfer("b", "hot", 5),
                    ],
                ),
                6 => reversal(id, &hold_of(1), Vec::new()),
                7 if block % 5 == 0 => transaction(id, vec![transfer("b", "cold", 1)]),
                // Refused, and so in no statement.
                8 => post(id, &hold_of(8), Vec::new()),
                _ => transaction(id, vec![transfer("b", "hot", number + 1)]),
            };
            requests.push(request);
        }
        let request = ProcessTransactionsRequest {
            transactions: requests,
        };
        client.process_transactions(request).await.unwrap();
    }
}

async fn list(service: &Service, request: &ListTransactionsRequest) -> Vec<Transaction> {
    let mut client = service.transactions().await;
    let mut request = request.clone();
    let mut all = Vec::new();
    loop {
        let page = client
            .list_transactions(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(
            request.page_size == 0 || page.transactions.len() <= usize::try_from(request.page_size).unwrap()
        );
        all.extend(page.transactions);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

async fn statement(service: &Service, request: &ListAccountEntriesRequest) -> Vec<AccountEntry> {
    let mut client = service.accounts().await;
    let mut request = request.clone();
    let mut all = Vec::new();
    loop {
        let page = client
            .list_account_entries(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(request.page_size == 0 || page.entries.len() <= usize::try_from(request.page_size).unwrap());
        all.extend(page.entries);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

pub(super) fn place(transaction: &Transaction) -> (i64, prost_types::Timestamp) {
    match transaction.outcome.as_ref().unwrap() {
        transaction::Outcome::Committed(committed) => (committed.sequence, committed.commit_time.unwrap()),
        transaction::Outcome::Error(error) => panic!("{error:?}"),
    }
}

pub(super) fn apply(columns: &mut Columns, effect: &TransferEffect, is_debit: bool) {
    let [pending, posted] = if is_debit { [0, 1] } else { [2, 3] };
    columns[posted] += units(effect.posted_amount.as_ref());
    columns[pending] += units(effect.reserved_amount.as_ref())
        - units(effect.unreserved_amount.as_ref())
        - units(effect.released_amount.as_ref());
}

/// Computes the rows of all accounts from the transactions in the order of the ledger.
fn rows(ledger: &[Transaction]) -> BTreeMap<String, Vec<ExpectedRow>> {
    let mut rows = BTreeMap::<String, Vec<ExpectedRow>>::new();
    for transaction in ledger {
        for (transfer, effect) in (0..).zip(&transaction.effects) {
            for (id, is_debit) in [
                (&effect.debit_account_id, true),
                (&effect.credit_account_id, false),
            ] {
                let of_account = rows.entry(id.clone()).or_default();
                let mut columns = of_account.last().map_or([0; 4], |row| row.columns);
                // A transfer that changes nothing has no row.
                let amounts = [
                    &effect.posted_amount,
                    &effect.reserved_amount,
                    &effect.unreserved_amount,
                    &effect.released_amount,
                ];
                if amounts.iter().all(|amount| amount.is_none()) {
                    continue;
                }
                apply(&mut columns, effect, is_debit);
                of_account.push(ExpectedRow {
                    sequence: place(transaction).0,
                    transfer,
                    is_debit,
                    columns,
                });
            }
        }
    }
    rows
}

fn found(entry: &AccountEntry) -> ExpectedRow {
    ExpectedRow {
        sequence: entry.sequence,
        transfer: entry.transfer_index,
        is_debit: entry.side() == Side::Debit,
        columns: columns(entry.balances.as_ref()),
    }
}

pub(super) async fn as_of(service: &Service, id: &str, moment: AsOf) -> Result<Account, tonic::Status> {
    let request = GetAccountRequest {
        account_id: id.to_owned(),
        as_of: Some(moment),
    };
    let response = service.accounts().await.get_account(request).await?;
    Ok(response.into_inner().account.unwrap())
}

/// Compares statements and past balances with the transactions in the order of the ledger.
async fn check(service: &Service) {
    let ledger = list(service, &ListTransactionsRequest::default()).await;
    for (transaction, sequence) in ledger.iter().zip(1..) {
        assert_eq!(place(transaction).0, sequence, "the order has no gaps");
    }
    for page_size in [1, 7, 1000] {
        let newest_first = ListTransactionsRequest {
            newest_first: true,
            page_size,
            ..ListTransactionsRequest::default()
        };
        let mut listed = list(service, &newest_first).await;
        listed.reverse();
        assert_eq!(listed, ledger);
    }
    let rows = rows(&ledger);
    assert_eq!(rows.len(), ACCOUNTS.len());
    for (id, expected) in &rows {
        for (page_size, newest_first) in [1, 7, 1000]
            .into_iter()
            .flat_map(|size| [(size, false), (size, true)])
        {
            let request = ListAccountEntriesRequest {
                account_id: id.clone(),
                page_size,
                newest_first,
                ..ListAccountEntriesRequest::default()
            };
            let mut listed: Vec<_> = statement(service, &request).await.iter().map(found).collect();
            if newest_first {
                listed.reverse();
            }
            assert_eq!(
                &listed, expected,
                "{id}, pages of {page_size}, newest first: {newest_first}"
            );
        }
        check_past(service, id, expected, &ledger).await;
    }
}

async fn check_past(service: &Service, id: &str, rows: &[ExpectedRow], ledger: &[Transaction]) {
    for transaction in ledger.iter().step_by(7) {
        let (sequence, time) = place(transaction);
        let last = rows.iter().rfind(|row| row.sequence <= sequence);
        let expected = last.map_or([0; 4], |row| row.columns);
        for moment in [AsOf::AsOfSequence(sequence), AsOf::AsOfTime(time)] {
            let account = as_of(service, id, moment).await.unwrap();
            assert_eq!(
                columns(account.balances.as_ref()),
                expected,
                "{id} as of {sequence}"
            );
            assert_eq!(account.etag, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_past_balances_agree_with_the_ledger_in_its_order() {
    let service = Service::start(&config()).await;
    fill(&service).await;
    check(&service).await;
    // The same after a restart from a checkpoint and the journal, and after more transactions.
    let disk = service.stop().await;
    let service = Service::start_on(disk, &config()).await;
    check(&service).await;
    let mut client = service.transactions().await;
    for number in 0..100 {
        let request = transaction(&format!("later-{number}"), vec![transfer("hot", "cold", 1)]);
        client.process_transaction(request).await.unwrap();
    }
    check(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_select_by_sequence_and_by_time() {
    let service = Service::start(&config()).await;
    fill(&service).await;
    let ledger = list(&service, &ListTransactionsRequest::default()).await;
    let (from, to) = (57, 203);
    let (from_time, to_time) = (place(&ledger[from - 1]).1, place(&ledger[to - 1]).1);
    let by_sequence = ListTransactionsRequest {
        from_sequence: from as i64,
        to_sequence: to as i64,
        page_size: 10,
        ..ListTransactionsRequest::default()
    };
    let by_time = ListTransactionsRequest {
        from_time: Some(from_time),
        to_time: Some(to_time),
        page_size: 10,
        ..ListTransactionsRequest::default()
    };
    for request in [by_sequence, by_time] {
        assert_eq!(list(&service, &request).await, ledger[from - 1..to - 1]);
    }
    let all = statement(
        &service,
        &ListAccountEntriesRequest {
            account_id: "hot".to_owned(),
            page_size: 1000,
            ..ListAccountEntriesRequest::default()
        },
    )
    .await;
    let expected: Vec<_> = all
        .iter()
        .filter(|entry| (from as i64..to as i64).contains(&entry.sequence))
        .cloned()
        .collect();
    for newest_first in [false, true] {
        for by_time in [false, true] {
            let request = ListAccountEntriesRequest {
                account_id: "hot".to_owned(),
                from_sequence: if by_time { 0 } else { from as i64 },
                to_sequence: if by_time { 0 } else { to as i64 },
                from_time: by_time.then_some(from_time),
                to_time: by_time.then_some(to_time),
                page_size: 9,
                newest_first,
                ..ListAccountEntriesRequest::default()
            };
            let mut listed = statement(&service, &request).await;
            if newest_first {
                listed.reverse();
            }
            assert_eq!(listed, expected);
        }
    }
    let prefix = ListTransactionsRequest {
        id_prefix: "t3-".to_owned(),
        ..ListTransactionsRequest::default()
    };
    let expected: Vec<_> = ledger
        .iter()
        .filter(|transaction| transaction.transaction_id.starts_with("t3-"))
        .cloned()
        .collect();
    assert_eq!(list(&service, &prefix).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_decides_where_a_list_ends_and_tokens_survive_a_restart() {
    let service = Service::start(&config()).await;
    fill(&service).await;
    let before = list(&service, &ListTransactionsRequest::default()).await;
    let mut transactions = ListTransactionsRequest {
        page_size: 100,
        ..ListTransactionsRequest::default()
    };
    let mut entries = ListAccountEntriesRequest {
        account_id: "hot".to_owned(),
        page_size: 100,
        ..ListAccountEntriesRequest::default()
    };
    let all = statement(&service, &entries).await;
    let first = service
        .transactions()
        .await
        .list_transactions(transactions.clone())
        .await
        .unwrap();
    let shown = first.get_ref().durable_sequence;
    let mut listed = first.get_ref().transactions.clone();
    transactions.page_token = first.into_inner().next_page_token;
    let first = service
        .accounts()
        .await
        .list_account_entries(entries.clone())
        .await
        .unwrap();
    assert_eq!(first.get_ref().durable_sequence, shown);
    let mut rows = first.get_ref().entries.clone();
    entries.page_token = first.into_inner().next_page_token;
    let later = transaction("later", vec![transfer("hot", "b", 1)]);
    service
        .transactions()
        .await
        .process_transaction(later)
        .await
        .unwrap();
    let service = Service::start_on(service.stop().await, &config()).await;
    // The pages together are complete up to the sequence in the first page. Transactions committed between the pages are not in them.
    let second = service
        .transactions()
        .await
        .list_transactions(transactions.clone())
        .await
        .unwrap();
    assert_eq!(second.get_ref().durable_sequence, shown);
    let second = service
        .accounts()
        .await
        .list_account_entries(entries.clone())
        .await
        .unwrap();
    assert_eq!(second.get_ref().durable_sequence, shown);
    listed.extend(list(&service, &transactions).await);
    rows.extend(statement(&service, &entries).await);
    assert_eq!(listed, before);
    assert_eq!(rows, all);
    // A token belongs to its request.
    for (page_size, newest_first, account_id) in [(100, true, "hot"), (100, false, "b")] {
        let request = ListAccountEntriesRequest {
            account_id: account_id.to_owned(),
            newest_first,
            page_size,
            ..entries.clone()
        };
        let error = service
            .accounts()
            .await
            .list_account_entries(request)
            .await
            .unwrap_err();
        assert_eq!(
            summary(&error),
            expected(Code::InvalidArgument, "INVALID_FIELD", "false")
        );
    }
    let request = ListTransactionsRequest {
        id_prefix: "t".to_owned(),
        ..transactions
    };
    let error = service
        .transactions()
        .await
        .list_transactions(request)
        .await
        .unwrap_err();
    assert_eq!(
        summary(&error),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_as_of_a_moment_has_the_terms_of_that_moment() {
    use tally::proto::{AccountStatus, BalanceRule, UpdateAccountRequest};
    let service = Service::start(&config()).await;
    service.open_accounts(&["bank"]).await;
    let mut accounts = service.accounts().await;
    let wallet = Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account("wallet")
    };
    let create = tally::proto::CreateAccountRequest {
        account: Some(wallet),
    };
    accounts.create_account(create).await.unwrap();
    let pay = |number: i64| transaction(&format!("p{number}"), vec![transfer("bank", "wallet", 100)]);
    for number in 1..=3 {
        service
            .transactions()
            .await
            .process_transaction(pay(number))
            .await
            .unwrap();
        let update = UpdateAccountRequest {
            account: Some(Account {
                id: "wallet".to_owned(),
                overdraft_limit: Some(tally::proto::Amount {
                    value: Some(amount::Value::MinorUnits(10 * number)),
                }),
                status: AccountStatus::DebitsFrozen.into(),
                ..Account::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["overdraft_limit".to_owned(), "status".to_owned()],
            }),
        };
        accounts.update_account(update).await.unwrap();
    }
    let state = |account: &Account| {
        (
            columns(account.balances.as_ref())[3],
            units(account.overdraft_limit.as_ref()),
            account.status(),
            units(account.available.as_ref()),
        )
    };
    let (open, frozen) = (AccountStatus::Open, AccountStatus::DebitsFrozen);
    let expected_states = [
        (0, 0, open, 0),
        (100, 0, open, 100),
        (200, 10, frozen, 210),
        (300, 20, frozen, 320),
    ];
    for (sequence, expected) in (0..).zip(expected_states) {
        if sequence == 0 {
            // The account did not exist at the beginning.
            let error = as_of(&service, "wallet", AsOf::AsOfSequence(0))
                .await
                .unwrap_err();
            assert_eq!(
                summary(&error),
                super::expected(Code::NotFound, "ACCOUNT_NOT_FOUND", "false")
            );
            continue;
        }
        let account = as_of(&service, "wallet", AsOf::AsOfSequence(sequence))
            .await
            .unwrap();
        assert_eq!(state(&account), expected, "as of {sequence}");
    }
    for moment in [
        AsOf::AsOfSequence(4),
        AsOf::AsOfSequence(-1),
        AsOf::AsOfTime(prost_types::Timestamp {
            seconds: 5_000_000_000,
            nanos: 0,
        }),
        AsOf::AsOfTime(prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        }),
    ] {
        let error = as_of(&service, "wallet", moment).await.unwrap_err();
        assert_eq!(
            summary(&error),
            super::expected(Code::InvalidArgument, "INVALID_FIELD", "false")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_head_is_the_hash_of_the_last_block_and_rows_name_their_blocks() {
    let service = Service::start(&config()).await;
    fill(&service).await;
    let head = service
        .transactions()
        .await
        .get_chain_head(GetChainHeadRequest {})
        .await
        .unwrap()
        .into_inner();
    let request = ListTransactionsRequest {
        with_blocks: true,
        newest_first: true,
        ..ListTransactionsRequest::default()
    };
    let newest = service
        .transactions()
        .await
        .list_transactions(request)
        .await
        .unwrap()
        .into_inner();
    let newest = &newest.transactions[0];
    assert_eq!(place(newest).0, head.sequence);
    assert_eq!(newest.block, head.block);
    assert_eq!(head.block.as_ref().unwrap().block_hash.len(), 32);
    let get = GetTransactionRequest {
        transaction_id: newest.transaction_id.clone(),
        with_block: true,
    };
    let found = service
        .transactions()
        .await
        .get_transaction(get)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.transaction.unwrap().block, head.block);
    // The next block changes the head, and not the block of an old transaction.
    let later = transaction("later", vec![transfer("hot", "b", 1)]);
    service
        .transactions()
        .await
        .process_transaction(later)
        .await
        .unwrap();
    let later = service
        .transactions()
        .await
        .get_chain_head(GetChainHeadRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_ne!(later.block, head.block);
    let request = ListAccountEntriesRequest {
        account_id: newest.effects[0].debit_account_id.clone(),
        from_sequence: head.sequence,
        to_sequence: head.sequence + 1,
        with_blocks: true,
        ..ListAccountEntriesRequest::default()
    };
    let entries = statement(&service, &request).await;
    assert!(!entries.is_empty());
    assert!(entries.iter().all(|entry| entry.block == head.block));
    assert!(
        entries
            .iter()
            .all(|entry| entry.phase() != TransactionPhase::Unspecified)
    );
}

#[tokio::test]
async fn the_terms_of_an_account_with_many_updates_are_found_with_few_reads() {
    const UPDATES: i64 = 600;
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut accounts = service.accounts().await;
    let mut client = service.transactions().await;
    for number in 1..=UPDATES {
        let mut changed = account("a");
        changed.metadata.insert("number".to_owned(), number.to_string());
        accounts
            .update_account(update(changed, &["metadata"]))
            .await
            .unwrap();
        if number % 100 == 0 {
            let pay = transaction(&format!("t{number}"), vec![transfer("a", "b", 1)]);
            client.process_transaction(pay).await.unwrap();
        }
    }
    for sequence in 1..=UPDATES / 100 {
        let (_, before) = service.engine.history_figures();
        let account = as_of(&service, "a", AsOf::AsOfSequence(sequence)).await.unwrap();
        let (_, after) = service.engine.history_figures();
        assert_eq!(account.metadata["number"], (sequence * 100).to_string());
        assert!(after - before <= 150, "{} records for {sequence}", after - before);
    }
}

#[tokio::test]
async fn a_page_reads_little_of_a_large_block() {
    const TRANSACTIONS: i64 = 2000;
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let pays = (1..=TRANSACTIONS).map(|number| {
        let mut pay = transaction(&format!("t{number}"), vec![transfer("a", "b", 1)]);
        pay.metadata.insert("text".to_owned(), "x".repeat(1000));
        pay
    });
    let transactions = pays.collect();
    let mut client = service.transactions().await;
    let request = ProcessTransactionsRequest { transactions };
    client.process_transactions(request).await.unwrap();
    let all = list(
        &service,
        &ListTransactionsRequest {
            with_blocks: true,
            page_size: 1000,
            ..ListTransactionsRequest::default()
        },
    )
    .await;
    let block = |found: &Transaction| found.block.as_ref().unwrap().block_sequence;
    let largest = all
        .iter()
        .filter(|found| block(found) == block(&all[1000]))
        .count();
    assert!(
        largest >= 500,
        "{largest} transactions in the block of the middle"
    );
    // The whole ledger was read before, so all marks exist.
    let limit = 3 * u64::from(CHUNK_BYTES);
    for from in [1, 500, 1000, 1990] {
        for newest_first in [false, true] {
            let request = ListTransactionsRequest {
                from_sequence: from,
                to_sequence: from + 5,
                newest_first,
                ..ListTransactionsRequest::default()
            };
            let before = service.engine.history_bytes_scanned();
            let page = list(&service, &request).await;
            let bytes = service.engine.history_bytes_scanned() - before;
            let mut sequences: Vec<i64> = page.iter().map(|found| place(found).0).collect();
            if newest_first {
                sequences.reverse();
            }
            assert_eq!(sequences, (from..from + 5).collect::<Vec<_>>());
            assert!(
                bytes <= limit,
                "{bytes} bytes from {from}, newest first: {newest_first}"
            );
        }
        let before = service.engine.history_bytes_scanned();
        let account = as_of(&service, "a", AsOf::AsOfSequence(from)).await.unwrap();
        let bytes = service.engine.history_bytes_scanned() - before;
        assert_eq!(columns(account.balances.as_ref())[1], from);
        assert!(bytes <= limit, "{bytes} bytes as of {from}");
    }
}

/// Reads until nobody waits for the read any more.
fn endless(reader: &HistoryReader) -> Result<(), RecordError> {
    loop {
        reader.check()?;
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_cancelled_read_ends_and_gives_back_its_permit() {
    let service = Service::start(&config()).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let reads: Vec<_> = (0..HISTORY_READS_MAX)
        .map(|_| {
            let (engine, begun) = (service.engine.clone(), Arc::clone(&begun));
            tokio::spawn(async move {
                let read = engine.read_history(None, move |reader, _| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    endless(reader)
                });
                read.await
            })
        })
        .collect();
    while begun.load(Ordering::Relaxed) < HISTORY_READS_MAX {
        tokio::task::yield_now().await;
    }
    for read in reads {
        read.abort();
    }
    // Without a free permit, this read would wait for ever.
    let read = service.engine.read_history(None, |_, _| Ok(7)).await;
    assert_eq!(read.unwrap(), 7);
}
