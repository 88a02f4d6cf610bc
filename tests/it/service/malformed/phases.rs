//! Tests that a request is rejected if it sets a field that does not belong to the phase of its transaction.

use tally::proto::{ProcessTransactionRequest, TransactionPhase, Uint128, transfer as transfer_proto};
use tonic::Code;

use super::{Change, timeout, violation};
use crate::{
    service::{expected, summary},
    support::in_process::{Service, config, pay, transfer},
};

#[tokio::test]
async fn a_field_that_does_not_belong_to_the_phase_is_rejected() {
    let service = Service::start(&config()).await;
    let mut ledger = service.transactions().await;
    let posts = |r: &mut ProcessTransactionRequest| {
        r.phase = TransactionPhase::PostPending.into();
        r.pending_transaction_id = "h".into();
    };
    let reverses = |r: &mut ProcessTransactionRequest| r.reverses_transaction_id = "r".into();
    let holds = |r: &mut ProcessTransactionRequest| r.phase = TransactionPhase::Pending.into();
    let base = |change: &dyn Fn(&mut ProcessTransactionRequest)| {
        let mut request = pay("t");
        change(&mut request);
        request
    };
    let (plain, hold) = (pay("t"), base(&holds));
    let (post, reversal) = (base(&posts), base(&reverses));
    let void = ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        transfers: Vec::new(),
        ..post.clone()
    };
    let cases: Vec<(&ProcessTransactionRequest, Change, &str, &str)> = vec![
        (&plain, |r| r.phase = 5, "phase", "output only"),
        (&plain, |r| r.phase = -1, "phase", "-1 is not a phase"),
        // Fields that name another transaction.
        (
            &hold,
            |r| r.pending_transaction_id = "h".into(),
            "pending_transaction_id",
            "must be unset unless",
        ),
        (
            &reversal,
            |r| r.pending_transaction_id = "h".into(),
            "pending_transaction_id",
            "must be unset unless",
        ),
        (
            &post,
            |r| r.pending_transaction_id.clear(),
            "pending_transaction_id",
            "must not be empty",
        ),
        (
            &void,
            |r| r.pending_transaction_id.clear(),
            "pending_transaction_id",
            "must not be empty",
        ),
        (
            &void,
            |r| r.pending_transaction_id = "a b".into(),
            "pending_transaction_id",
            "' ' at byte 1",
        ),
        (
            &post,
            |r| r.pending_transaction_id = "t".into(),
            "pending_transaction_id",
            "the transaction itself",
        ),
        (
            &hold,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &post,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &void,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &plain,
            |r| r.reverses_transaction_id = "a b".into(),
            "reverses_transaction_id",
            "' ' at byte 1",
        ),
        (
            &plain,
            |r| r.reverses_transaction_id = "t".into(),
            "reverses_transaction_id",
            "the transaction itself",
        ),
        // The timeout.
        (
            &post,
            |r| r.pending_timeout = timeout(60, 0),
            "pending_timeout",
            "must be unset unless",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(0, 0),
            "pending_timeout",
            "is 0 s and 0 ns, must be 1 ms to 3650 days",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(0, 999_999),
            "pending_timeout",
            "must be 1 ms",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(315_360_000, 1),
            "pending_timeout",
            "must be 1 ms",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(-1, 0),
            "pending_timeout",
            "is -1 s",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(1, -1),
            "pending_timeout",
            "and -1 ns",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(1, 1_000_000_000),
            "pending_timeout",
            "and 1000000000 ns",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(i64::MAX, 0),
            "pending_timeout",
            "must be 1 ms",
        ),
        // `keep_remaining`.
        (
            &plain,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &hold,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &void,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &reversal,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &post,
            |r| {
                r.keep_remaining = true;
                r.transfers.clear();
            },
            "keep_remaining",
            "must be unset without transfers",
        ),
        // The transfers.
        (
            &hold,
            |r| r.transfers.clear(),
            "transfers",
            "0 transfers, 1 to 256",
        ),
        (
            &void,
            |r| r.transfers = pay("t").transfers,
            "transfers",
            "1 transfers, TRANSACTION_PHASE_VOID_PENDING has none",
        ),
        (
            &post,
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 0 to 256",
        ),
        (
            &reversal,
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 0 to 256",
        ),
        (
            &hold,
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers[0].minor_units",
            "is 0, must be 1 to",
        ),
        (
            &post,
            |r| r.transfers[0] = transfer("a", "b", -1),
            "transfers[0].minor_units",
            "is -1, must be 0 to",
        ),
        (
            &post,
            |r| r.transfers[0].amount = None,
            "transfers[0].amount",
            "must be set",
        ),
        (
            &post,
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers",
            "all amounts are 0",
        ),
        (
            &reversal,
            |r| r.transfers[0].amount = Some(transfer_proto::Amount::WideMinorUnits(Uint128::default())),
            "transfers",
            "all amounts are 0",
        ),
        // The amount rule.
        (
            &plain,
            |r| r.transfers[0].amount_rule = 5,
            "transfers[0].amount_rule",
            "5 is not a rule",
        ),
        (
            &post,
            |r| r.transfers[0].amount_rule = 2,
            "transfers[0].amount_rule",
            "must be unset or AMOUNT_RULE_EXACT",
        ),
        (
            &reversal,
            |r| r.transfers[0].amount_rule = 4,
            "transfers[0].amount_rule",
            "must be unset or AMOUNT_RULE_EXACT",
        ),
    ];
    for (base, change, field, words) in cases {
        let mut request = base.clone();
        change(&mut request);
        let (named, description) = violation(&ledger.process_transaction(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    // The smallest and the largest allowed values.
    service.open_accounts(&["a", "b"]).await;
    for (number, timeout) in [timeout(0, 1_000_000), timeout(315_360_000, 0)]
        .into_iter()
        .enumerate()
    {
        let request = ProcessTransactionRequest {
            transaction_id: format!("h{number}"),
            pending_timeout: timeout,
            ..hold.clone()
        };
        let committed = ledger.process_transaction(request).await.unwrap().into_inner();
        assert_eq!(committed.transaction_id, format!("h{number}"));
    }
    let partly_zero = vec![transfer("a", "b", 0), transfer("a", "b", 1)];
    for (request, reason) in [(post, "PENDING_NOT_FOUND"), (reversal, "REVERSED_NOT_FOUND")] {
        for (id, transfers) in [("1", partly_zero.clone()), ("2", Vec::new())] {
            let request = ProcessTransactionRequest {
                transaction_id: format!("{reason}-{id}"),
                transfers,
                ..request.clone()
            };
            let status = ledger.process_transaction(request).await.unwrap_err();
            assert_eq!(summary(&status), expected(Code::NotFound, reason, "false"));
        }
    }
}
