//! A test of checkpoints that are written while accounts are created and transactions are processed. A start from such
//! a checkpoint must show every effect exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use tally::{
    engine::{CheckpointInterval, EngineConfig},
    proto::{
        Balances, BatchCreateAccountsRequest, CreateAccountRequest, ListAccountsRequest,
        ProcessTransactionsRequest, TransactionResult, transaction_result,
    },
};

use crate::support::in_process::{Service, account, config, patient, transaction, transfer};

/// Number of accounts created in one call. A few calls create more accounts than fit one chunk of a checkpoint.
const ACCOUNTS: usize = 700;
/// Maximum number of rounds until the checkpoints exist. The maintenance thread checks every 20 ms whether a checkpoint
/// is due.
const ROUNDS_MAX: usize = 3000;
/// Number of checkpoints to wait for. The last checkpoint then has several chunks of accounts.
const CHECKPOINTS: usize = 4;
/// Number of rounds that create accounts. Every round processes transactions.
const GROWING_ROUNDS: usize = 12;

/// Returns the balances of every account, by account id.
async fn balances(service: &Service) -> BTreeMap<String, Balances> {
    let mut accounts = service.accounts().await;
    let mut balances = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let page = accounts
            .list_accounts(ListAccountsRequest {
                page_size: 1000,
                page_token,
                ..ListAccountsRequest::default()
            })
            .await
            .unwrap()
            .into_inner();
        for account in page.accounts {
            balances.insert(account.id, account.balances.unwrap());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return balances;
        }
    }
}

fn account_name(number: usize) -> String {
    format!("account-{number:06}")
}

/// Creates accounts in the first [`GROWING_ROUNDS`] rounds, and then moves money among all existing accounts with
/// [`ACCOUNTS`] transactions in one call.
async fn round(service: &Service, number: usize) {
    if number < GROWING_ROUNDS {
        let requests = (number * ACCOUNTS..(number + 1) * ACCOUNTS)
            .map(|account_number| CreateAccountRequest {
                account: Some(account(&account_name(account_number))),
            })
            .collect();
        let mut accounts = service.accounts().await;
        accounts
            .batch_create_accounts(BatchCreateAccountsRequest {
                requests,
                skip_existing: false,
            })
            .await
            .unwrap();
    }
    let existing = (number + 1).min(GROWING_ROUNDS) * ACCOUNTS;
    let transactions = (0..ACCOUNTS)
        .map(|index| {
            let debit = account_name((number + index * 13) % existing);
            let credit = account_name((number + index * 13 + 1) % existing);
            transaction(
                &format!("t{number}-{index}"),
                vec![transfer(&debit, &credit, 1 + i64::try_from(index).unwrap())],
            )
        })
        .collect();
    let mut client = service.transactions().await;
    let results = client
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await
        .unwrap()
        .into_inner()
        .results;
    let committed = |result: &TransactionResult| {
        matches!(result.outcome, Some(transaction_result::Outcome::Committed(_)))
    };
    assert!(results.len() == ACCOUNTS && results.iter().all(committed));
}

#[tokio::test]
async fn a_start_from_a_checkpoint_that_was_written_during_changes_shows_every_effect_once() {
    let config = EngineConfig {
        checkpoint: CheckpointInterval(32 << 10),
        breaker: patient(),
        ..config()
    };
    let service = Service::start(&config).await;
    let directory = Path::new("/data/checkpoint");
    let mut seen = BTreeSet::new();
    for number in 0..ROUNDS_MAX {
        round(&service, number).await;
        let disk = service.disk.handle();
        let names = disk.list(directory).unwrap();
        seen.extend(names.into_iter().filter(|name| name.ends_with(".ckpt")));
        if number >= GROWING_ROUNDS && seen.len() >= CHECKPOINTS {
            break;
        }
    }
    assert!(seen.len() >= CHECKPOINTS, "{seen:?}");
    let before = balances(&service).await;
    assert_eq!(before.len(), GROWING_ROUNDS * ACCOUNTS);

    let disk = service.disk.clone();
    disk.crash();
    let _dead = service.stop().await;
    disk.restart();
    let service = Service::start_on(disk, &config).await;
    assert!(service.engine.recovery().checkpoint.is_some());
    assert_eq!(balances(&service).await, before);
}
