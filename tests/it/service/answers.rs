//! Tests of the answers to transactions and to calls about accounts.

use std::collections::HashSet;

use tally::proto::{
    Account, BalanceRule, BatchCreateAccountsRequest, CreateAccountRequest, GetAccountRequest,
    GetTransactionRequest, ListAccountsRequest, ProcessTransactionsRequest, StreamTransactionsRequest,
    TransactionResult, amount, transaction, transaction_result::Outcome,
};
use tokio_stream::{StreamExt, iter};
use tonic::{Code, Status};

use super::{expected, info, summary};
use crate::support::in_process::{self, Service, account, config, pay, transfer};

async fn service() -> Service {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    service
}

fn posted(account: &Account) -> (i64, i64) {
    let units = |amount: &Option<tally::proto::Amount>| match amount.as_ref().unwrap().value.as_ref().unwrap()
    {
        amount::Value::MinorUnits(units) => *units,
        amount::Value::WideMinorUnits(wide) => panic!("{wide:?}"),
    };
    let balances = account.balances.as_ref().unwrap();
    (units(&balances.debits_posted), units(&balances.credits_posted))
}

async fn balance(service: &Service, id: &str) -> (i64, i64) {
    let request = GetAccountRequest {
        account_id: id.to_owned(),
        ..GetAccountRequest::default()
    };
    posted(
        &service
            .accounts()
            .await
            .get_account(request)
            .await
            .unwrap()
            .into_inner()
            .account
            .unwrap(),
    )
}

fn sequence(result: &TransactionResult) -> Option<i64> {
    match result.outcome.as_ref().unwrap() {
        Outcome::Committed(committed) => Some(committed.sequence),
        Outcome::Error(_) => None,
    }
}

#[tokio::test]
async fn a_repetition_gets_the_first_answer_and_is_applied_once() {
    let service = service().await;
    let mut client = service.transactions().await;
    let first = client.process_transaction(pay("t1")).await.unwrap().into_inner();
    assert_eq!((first.sequence, first.replayed), (1, false));
    let again = client.process_transaction(pay("t1")).await.unwrap().into_inner();
    assert_eq!(
        (again.sequence, again.replayed, again.commit_time),
        (1, true, first.commit_time)
    );
    assert_eq!(balance(&service, "a").await, (1, 0));
}

#[tokio::test]
async fn an_id_with_other_content_is_rejected_and_the_field_is_named() {
    let service = service().await;
    service.open_accounts(&["c"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("t1")).await.unwrap();
    let other = [
        (
            in_process::transaction("t1", vec![transfer("a", "b", 2)]),
            "transfers[0].amount",
        ),
        (
            in_process::transaction("t1", vec![transfer("c", "b", 1)]),
            "transfers[0].debit_account_id",
        ),
        (
            in_process::transaction("t1", vec![transfer("a", "nobody", 1)]),
            "transfers[0].credit_account_id",
        ),
        (
            in_process::transaction("t1", vec![transfer("a", "b", 1), transfer("a", "b", 1)]),
            "transfers",
        ),
    ];
    for (request, field) in other {
        let status = client.process_transaction(request).await.unwrap_err();
        assert_eq!(
            summary(&status),
            expected(Code::AlreadyExists, "TRANSACTION_ID_REUSED", "false")
        );
        assert_eq!(info(&status).metadata["field"], field);
    }
}

#[tokio::test]
async fn a_rejection_is_replayed_even_if_the_account_has_enough_money_later() {
    let service = service().await;
    let wallet = Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account("wallet")
    };
    service
        .accounts()
        .await
        .create_account(CreateAccountRequest {
            account: Some(wallet),
        })
        .await
        .unwrap();
    let mut client = service.transactions().await;
    client
        .process_transaction(in_process::transaction(
            "begin",
            vec![transfer("b", "wallet", 1250)],
        ))
        .await
        .unwrap();
    let spend = || in_process::transaction("spend", vec![transfer("wallet", "b", 99_999)]);
    let check_figures = |status: &Status, replayed: &str| {
        assert!(
            status
                .message()
                .contains("needs 99,999, has 1,250. This is final for the id"),
            "{status:?}"
        );
        for (key, value) in [
            ("account_id", "wallet"),
            ("needs", "99999"),
            ("available", "1250"),
            ("retry", "new_id"),
            ("replayed", replayed),
        ] {
            assert_eq!(info(status).metadata[key], value, "{key}");
        }
    };

    let status = client.process_transaction(spend()).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "false")
    );
    check_figures(&status, "false");

    client
        .process_transaction(in_process::transaction(
            "fund",
            vec![transfer("b", "wallet", 1_000_000)],
        ))
        .await
        .unwrap();
    let status = client.process_transaction(spend()).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "false")
    );
    // The answer repeats the figures of the first answer. It does not contain the present figures.
    check_figures(&status, "true");
    assert_eq!(balance(&service, "wallet").await, (0, 1_001_250));

    // A new attempt needs a new id. The rejection used no sequence number.
    let retry = in_process::transaction("spend-2", vec![transfer("wallet", "b", 99_999)]);
    assert_eq!(
        client
            .process_transaction(retry)
            .await
            .unwrap()
            .into_inner()
            .sequence,
        3
    );
}

#[tokio::test]
async fn each_of_many_transactions_gets_its_own_answer_in_order() {
    let service = service().await;
    let transactions = vec![
        pay("m1"),
        pay("not an id"),
        in_process::transaction("m3", vec![transfer("a", "nobody", 1)]),
        pay("m1"),
        pay("m5"),
    ];
    let mut client = service.transactions().await;
    let results = client
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await
        .unwrap();
    let results = results.into_inner().results;
    assert_eq!(
        results.iter().map(sequence).collect::<Vec<_>>(),
        [Some(1), None, None, Some(1), Some(2)]
    );
    let code = |index: usize| match results[index].outcome.as_ref().unwrap() {
        Outcome::Error(error) => Code::from(error.code),
        Outcome::Committed(_) => Code::Ok,
    };
    assert_eq!((code(1), code(2)), (Code::InvalidArgument, Code::NotFound));
    assert!(matches!(results[3].outcome.as_ref().unwrap(), Outcome::Committed(again) if again.replayed));
    assert_eq!(results[4].transaction_id, "m5");
}

#[tokio::test]
async fn a_stream_gets_every_answer_in_order() {
    const COUNT: i64 = 3000;
    let service = service().await;
    let messages = (0..COUNT).map(|number| StreamTransactionsRequest {
        transaction: Some(pay(&format!("s{number}"))),
    });
    let mut answers = service
        .transactions()
        .await
        .stream_transactions(iter(messages))
        .await
        .unwrap()
        .into_inner();
    for number in 0..COUNT {
        let result = answers.next().await.unwrap().unwrap().result.unwrap();
        assert_eq!(result.transaction_id, format!("s{number}"));
        assert_eq!(sequence(&result), Some(number + 1));
    }
    assert!(answers.next().await.is_none());
    assert_eq!(balance(&service, "b").await, (0, COUNT));
}

#[tokio::test]
async fn concurrent_callers_get_unique_sequence_numbers_and_commit_times_in_the_same_order() {
    const CALLERS: usize = 8;
    const CALLS: usize = 50;
    let service = service().await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let mut client = service.transactions().await;
        callers.spawn(async move {
            let mut answers = Vec::new();
            for call in 0..CALLS {
                let answer = client
                    .process_transaction(pay(&format!("{caller}:{call}")))
                    .await
                    .unwrap();
                let answer = answer.into_inner();
                let time = answer.commit_time.unwrap();
                answers.push((answer.sequence, (time.seconds, time.nanos)));
            }
            answers
        });
    }
    let mut all = callers.join_all().await.concat();
    all.sort_unstable();
    assert_eq!(
        all.iter().map(|answer| answer.0).collect::<HashSet<_>>().len(),
        CALLERS * CALLS
    );
    assert!(
        all.iter().zip(1..).all(|(answer, index)| answer.0 == index),
        "a gap in the sequence numbers"
    );
    assert!(
        all.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "a commit time is not later than the commit time before it"
    );
}

#[tokio::test]
async fn a_transaction_can_be_read_with_its_outcome() {
    let service = service().await;
    let mut client = service.transactions().await;
    let mut sent = pay("t1");
    sent.effective_time = Some(prost_types::Timestamp {
        seconds: -1,
        nanos: 5,
    });
    sent.metadata.insert("order".to_owned(), "7".to_owned());
    let committed = client
        .process_transaction(sent.clone())
        .await
        .unwrap()
        .into_inner();
    let found = client
        .get_transaction(GetTransactionRequest {
            transaction_id: "t1".into(),
            ..GetTransactionRequest::default()
        })
        .await
        .unwrap();
    let found = found.into_inner().transaction.unwrap();
    assert_eq!(found.transfers, sent.transfers);
    assert_eq!(found.effective_time, sent.effective_time);
    assert_eq!(found.metadata, sent.metadata);
    assert_eq!(found.outcome, Some(transaction::Outcome::Committed(committed)));

    let status = client
        .get_transaction(GetTransactionRequest {
            transaction_id: "t2".into(),
            ..GetTransactionRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::NotFound, "TRANSACTION_NOT_FOUND", "false")
    );
}

#[tokio::test]
async fn accounts_are_created_once_all_or_none_and_listed_in_order() {
    let service = service().await;
    let mut client = service.accounts().await;
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    // A repetition with the same content succeeds. A repetition with different content is an error.
    client.create_account(create("a")).await.unwrap();
    let other = Account {
        asset: "USD".to_owned(),
        ..account("a")
    };
    let status = client
        .create_account(CreateAccountRequest {
            account: Some(other.clone()),
        })
        .await
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::AlreadyExists, "ACCOUNT_ID_REUSED", "false")
    );
    assert_eq!(info(&status).metadata["field"], "asset");
    assert!(
        status.message().ends_with("exists with a different asset"),
        "{status}"
    );

    let requests = vec![
        create("x1"),
        CreateAccountRequest {
            account: Some(other.clone()),
        },
    ];
    let status = client
        .batch_create_accounts(BatchCreateAccountsRequest {
            requests,
            skip_existing: false,
        })
        .await
        .unwrap_err();
    assert_eq!(info(&status).metadata["account_id"], "a");
    let gone = client
        .get_account(GetAccountRequest {
            account_id: "x1".into(),
            ..GetAccountRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        summary(&gone),
        expected(Code::NotFound, "ACCOUNT_NOT_FOUND", "false")
    );

    // An existing account is skipped, whatever its content, and so is a second account with the same id.
    let requests = vec![
        create("x1"),
        CreateAccountRequest {
            account: Some(other.clone()),
        },
        create("x1"),
    ];
    for expected in [vec!["x1"], vec![]] {
        let request = BatchCreateAccountsRequest {
            requests: requests.clone(),
            skip_existing: true,
        };
        let created = client.batch_create_accounts(request).await.unwrap().into_inner();
        let ids: Vec<&str> = created
            .accounts
            .iter()
            .map(|account| account.id.as_str())
            .collect();
        assert_eq!(ids, expected);
    }
    let unchanged = client
        .get_account(GetAccountRequest {
            account_id: "a".into(),
            ..GetAccountRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(unchanged.account.unwrap().asset, account("a").asset);

    let requests = (0..250).map(|number| create(&format!("n{number}"))).collect();
    client
        .batch_create_accounts(BatchCreateAccountsRequest {
            requests,
            skip_existing: false,
        })
        .await
        .unwrap();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAccountsRequest {
            page_size: 100,
            page_token,
            ..ListAccountsRequest::default()
        };
        let page = client.list_accounts(request).await.unwrap().into_inner();
        listed.extend(page.accounts.into_iter().map(|account| account.id));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    let created = ["a", "b", "x1"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..250).map(|number| format!("n{number}")));
    assert_eq!(listed, created.collect::<Vec<_>>());
}
