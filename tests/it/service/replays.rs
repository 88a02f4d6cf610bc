//! Tests of requests that are sent again with `return_balances`: the answer shows the balances of the original sequence.

use std::path::Path;

use tally::proto::{
    Account, AccountStatus, AmountRule, BalanceRule, ProcessTransactionRequest, ProcessTransactionResponse,
    ProcessTransactionsRequest, StreamTransactionsRequest, TransactionResult, transaction_result::Outcome,
};
use tonic::Code;

use super::{
    expected,
    ledger_client::{clamped, hold, post, post_part, reversal, status_update, void},
    summary,
};
use crate::support::in_process::{Service, account, config, patient_config, transaction, transfer};

fn shown(request: ProcessTransactionRequest) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        return_balances: true,
        ..request
    }
}

/// Requests of every kind that the service commits. The ids begin with `name`.
fn requests(name: &str) -> Vec<ProcessTransactionRequest> {
    let id = |number: u32| format!("{name}-{number}");
    let both = |hot, back| vec![transfer("hot", "shop", hot), transfer("bank", "hot", back)];
    let sweep = vec![
        clamped("purse", "bank", 1000, AmountRule::UpToDebitAvailable),
        transfer("bank", "hot", 1),
    ];
    let mut requests = vec![
        transaction(&id(0), vec![transfer("bank", "purse", 70)]),
        hold(&id(1), both(100, 7)),
        post_part(&id(2), &id(1), both(30, 0)),
        post(&id(3), &id(1), both(20, 7)),
        hold(&id(4), both(10, 5)),
        post(&id(5), &id(4), Vec::new()),
        hold(&id(6), both(3, 2)),
        void(&id(7), &id(6)),
        transaction(&id(8), sweep),
        reversal(&id(9), &id(8), Vec::new()),
        reversal(&id(10), &id(0), vec![transfer("purse", "bank", 1)]),
        // The same accounts occur in several transfers.
        transaction(&id(11), [both(1, 2), both(3, 4), both(5, 6)].concat()),
    ];
    // More records than the distance between two waypoints.
    for number in 12..60 {
        requests.push(transaction(&id(number), vec![transfer("bank", "hot", 1)]));
    }
    requests.into_iter().map(shown).collect()
}

fn committed(result: TransactionResult) -> ProcessTransactionResponse {
    match result.outcome.unwrap() {
        Outcome::Committed(answer) => answer,
        Outcome::Error(error) => panic!("{}: {error:?}", result.transaction_id),
    }
}

async fn batch(service: &Service, requests: &[ProcessTransactionRequest]) -> Vec<TransactionResult> {
    let request = ProcessTransactionsRequest {
        transactions: requests.to_vec(),
    };
    let mut client = service.transactions().await;
    let answer = client.process_transactions(request).await.unwrap();
    answer.into_inner().results
}

async fn stream(service: &Service, requests: &[ProcessTransactionRequest]) -> Vec<TransactionResult> {
    let messages: Vec<_> = requests
        .iter()
        .map(|request| StreamTransactionsRequest {
            transaction: Some(request.clone()),
        })
        .collect();
    let mut client = service.transactions().await;
    let answers = client.stream_transactions(tokio_stream::iter(messages)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut results = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        results.push(answer.result.unwrap());
    }
    results
}

/// Sends the requests again, in every way, and compares the answers with the first ones.
async fn check(
    service: &Service,
    requests: &[ProcessTransactionRequest],
    first: &[ProcessTransactionResponse],
) {
    let expected: Vec<_> = first
        .iter()
        .map(|first| ProcessTransactionResponse {
            replayed: true,
            ..first.clone()
        })
        .collect();
    let mut client = service.transactions().await;
    for (request, expected) in requests.iter().zip(&expected) {
        let again = client.process_transaction(request.clone()).await.unwrap();
        assert_eq!(&again.into_inner(), expected);
    }
    let of_batch = batch(service, requests).await;
    let of_batch: Vec<_> = of_batch.into_iter().map(committed).collect();
    assert_eq!(of_batch, expected);
    // The answers stay in order even if there are new transactions between the repeated ones.
    let new = |number: usize| shown(transaction("", vec![transfer("bank", "hot", number as i64 + 1)]));
    let mixed: Vec<_> = (0..)
        .zip(requests)
        .flat_map(|(number, request)| {
            let id = format!("new-{}-{number}", request.transaction_id);
            let new = ProcessTransactionRequest {
                transaction_id: id,
                ..new(number)
            };
            [new, request.clone()]
        })
        .collect();
    let of_stream = stream(service, &mixed).await;
    assert_eq!(of_stream.len(), mixed.len());
    for (place, (result, sent)) in of_stream.into_iter().zip(&mixed).enumerate() {
        assert_eq!(result.transaction_id, sent.transaction_id);
        let answer = committed(result);
        if place % 2 == 1 {
            assert_eq!(answer, expected[place / 2]);
        } else {
            assert_eq!(answer.balances.len(), 2, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_shows_the_balances_of_the_original_sequence() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["bank", "hot", "shop"]).await;
    let mut accounts = service.accounts().await;
    let purse = Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account("purse")
    };
    let purse = tally::proto::CreateAccountRequest { account: Some(purse) };
    accounts.create_account(purse).await.unwrap();
    let one = requests("one");
    let first: Vec<_> = batch(&service, &one).await.into_iter().map(committed).collect();
    assert!(
        first
            .iter()
            .all(|answer| !answer.replayed && answer.balances.len() >= 2)
    );
    check(&service, &one, &first).await;
    // A transaction and its repetition in one batch, and so in one block.
    let twice = shown(transaction("twice", vec![transfer("bank", "hot", 1)]));
    let between = transaction("between", vec![transfer("bank", "hot", 1)]);
    let answers = batch(&service, &[twice.clone(), between, twice]).await;
    let answers: Vec<_> = answers.into_iter().map(committed).collect();
    assert_eq!(answers[0].balances, answers[2].balances);
    assert!(answers[2].replayed);
    // An account that was closed after the transaction.
    let empty = transaction("empty", vec![transfer("purse", "bank", 69)]);
    batch(&service, &[empty]).await;
    accounts
        .update_account(status_update("purse", AccountStatus::Closed))
        .await
        .unwrap();
    check(&service, &one, &first).await;
    let service = Service::start_on(service.stop().await, &config()).await;
    check(&service, &one, &first).await;
}

/// The journal is damaged at a record that the balances of one transaction need. The other transactions of the call are answered.
#[tokio::test(flavor = "multi_thread")]
async fn balances_that_cant_be_read_concern_their_own_transaction_only() {
    const DAMAGED: &str = "an-id-that-occurs-once";
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["bank", "shop"]).await;
    let pay = |id: &str| shown(transaction(id, vec![transfer("bank", "shop", 1)]));
    batch(&service, &[pay("old"), pay(DAMAGED)]).await;
    // The chain back to the old record leads through this record.
    let segment = Path::new("/data/journal/0000000000.segment");
    let contents = service.disk.contents(segment);
    let offset = contents
        .windows(DAMAGED.len())
        .position(|window| window == DAMAGED.as_bytes());
    service.disk.flip_bit(segment, 8 * offset.unwrap() as u64);
    let damaged = expected(Code::DataLoss, "DATA_DAMAGED", "unknown");
    let results = batch(&service, &[pay("old"), pay("next")]).await;
    let Some(Outcome::Error(error)) = &results[0].outcome else {
        panic!("{results:?}");
    };
    let details = prost::Message::encode_to_vec(error).into();
    let status = tonic::Status::with_details(Code::from(error.code), error.message.clone(), details);
    assert_eq!(summary(&status), damaged);
    assert_eq!(results[0].transaction_id, "old");
    assert_eq!(committed(results[1].clone()).balances.len(), 2);
    let mut client = service.transactions().await;
    let status = client.process_transaction(pay("old")).await.unwrap_err();
    assert_eq!(summary(&status), damaged);
    // Without the balances, the answer needs no other record.
    let plain = ProcessTransactionRequest {
        return_balances: false,
        ..pay("old")
    };
    assert!(
        client
            .process_transaction(plain)
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
}
