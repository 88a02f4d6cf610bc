//! Tests of invalid fields of transactions.

use tally::proto::{Uint128, transfer as transfer_proto};
use tonic_types::StatusExt;

use super::{Change, violation};
use crate::support::in_process::{Service, config, pay, transaction, transfer};

#[tokio::test]
async fn every_invalid_field_of_a_transaction_is_rejected() {
    let cases: Vec<(Change, &str, &str)> = vec![
        (|r| r.transaction_id.clear(), "transaction_id", "empty"),
        (
            |r| r.transaction_id = "x".repeat(65),
            "transaction_id",
            "65 bytes, at most 64",
        ),
        (
            |r| r.transaction_id = "a b".into(),
            "transaction_id",
            "' ' at byte 1",
        ),
        (|r| r.phase = 99, "phase", "99"),
        (|r| r.transfers.clear(), "transfers", "0 transfers, 1 to 256"),
        (
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 1 to 256",
        ),
        (
            |r| r.transfers[0].debit_account_id.clear(),
            "transfers[0].debit_account_id",
            "empty",
        ),
        (
            |r| r.transfers[0].credit_account_id = "é".into(),
            "transfers[0].credit_account_id",
            "'é'",
        ),
        (
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers[0].minor_units",
            "is 0, must be 1 to",
        ),
        (
            |r| r.transfers[0] = transfer("a", "b", -7),
            "transfers[0].minor_units",
            "is -7, must be 1 to",
        ),
        (
            |r| r.transfers[0].amount = None,
            "transfers[0].amount",
            "must be set",
        ),
        (
            |r| r.transfers[0].amount = Some(transfer_proto::Amount::WideMinorUnits(Uint128::default())),
            "transfers[0].wide_minor_units",
            "is 0",
        ),
        (
            |r| r.transfers[0].code = -1,
            "transfers[0].code",
            "is -1, must be 0 to",
        ),
        (
            |r| r.pending_transaction_id = "p".into(),
            "pending_transaction_id",
            "must be unset",
        ),
        (
            |r| r.pending_timeout = Some(prost_types::Duration::default()),
            "pending_timeout",
            "must be unset",
        ),
        (
            |r| {
                r.effective_time = Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                })
            },
            "effective_time.seconds",
            "outside the years",
        ),
        (
            |r| {
                r.effective_time = Some(prost_types::Timestamp {
                    seconds: 0,
                    nanos: -1,
                })
            },
            "effective_time.nanos",
            "is -1",
        ),
        (
            |r| r.metadata = (0..17).map(|n| (n.to_string(), String::new())).collect(),
            "metadata",
            "17 entries, at most 16",
        ),
        (
            |r| r.metadata = [("k".into(), "x".repeat(1024))].into(),
            "metadata",
            "1025 bytes, at most 1024",
        ),
        (
            |r| r.metadata = [(String::new(), "x".into())].into(),
            "metadata",
            "a key of 0 bytes, 1 to 64",
        ),
    ];
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    for (change, field, words) in cases {
        let mut request = pay("t");
        change(&mut request);
        let (named, description) = violation(&client.process_transaction(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    // Check that no rejected request has changed the ledger.
    assert_eq!(
        client
            .process_transaction(pay("t"))
            .await
            .unwrap()
            .into_inner()
            .sequence,
        1
    );
}

#[tokio::test]
async fn several_violations_are_reported_together() {
    let service = Service::start(&config()).await;
    let request = transaction("", vec![transfer("", "b", -1)]);
    let status = service
        .transactions()
        .await
        .process_transaction(request)
        .await
        .unwrap_err();
    let fields: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|it| it.field)
        .collect();
    assert_eq!(
        fields,
        [
            "transaction_id",
            "transfers[0].debit_account_id",
            "transfers[0].minor_units"
        ]
    );
}
