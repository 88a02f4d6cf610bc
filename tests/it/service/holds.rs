//! Tests of holds, clamped transfers and reversals over the wire: balances, moved amounts, states and lists.

use prost::Message;
use tally::proto::{
    Account, AmountRule, BalanceRule, HoldState, ListHoldsRequest, ProcessTransactionRequest,
    ProcessTransactionResponse, ProcessTransactionsRequest, transaction_result::Outcome,
};
use tally_ledger::TRANSFERS_MAX;
use tonic::{Code, Status};
use tonic_types::Status as RpcStatus;

use super::{
    expected,
    ledger_client::{
        Ledger, all_units, balances, clamped, columns, hold, post, post_part, reversal, units, void,
    },
    summary,
};
use crate::support::in_process::{account, config, transaction, transfer};

/// A ledger with an unlimited `bank`, a `card` with 1000, and an empty `shop`. `card` and `shop` may not be overdrawn.
async fn card_ledger() -> Ledger {
    let mut ledger = Ledger::start(&config()).await;
    ledger.create(account("bank")).await;
    for id in ["card", "shop"] {
        ledger
            .create(Account {
                balance_rule: BalanceRule::CreditBalance.into(),
                ..account(id)
            })
            .await;
    }
    ledger
        .commits(transaction("fund", vec![transfer("bank", "card", 1000)]))
        .await;
    ledger
}

fn shown(request: ProcessTransactionRequest) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        return_balances: true,
        ..request
    }
}

fn buy(units: i64) -> Vec<tally::proto::Transfer> {
    vec![transfer("card", "shop", units)]
}

#[tokio::test]
async fn a_card_payment_is_authorized_increased_captured_in_parts_and_refunded() {
    let mut ledger = card_ledger().await;
    let authorized = ledger.commits(shown(hold("auth", buy(600)))).await;
    assert_eq!(
        balances(&authorized),
        [("card", (600, 0, 0, 1000)), ("shop", (0, 0, 600, 0))]
    );
    assert!(authorized.moved_amounts.is_empty());
    assert_eq!(units(&ledger.account("card").await.available), 400);

    let increased = ledger.commits(shown(hold("auth-2", buy(100)))).await;
    assert_eq!(
        balances(&increased),
        [("card", (700, 0, 0, 1000)), ("shop", (0, 0, 700, 0))]
    );

    let captured = ledger
        .commits(shown(post_part("capture", "auth", buy(250))))
        .await;
    assert_eq!(
        balances(&captured),
        [("card", (450, 250, 0, 1000)), ("shop", (0, 0, 450, 250))]
    );
    assert_eq!(all_units(&captured.moved_amounts), [250]);
    assert_eq!(
        ledger.hold_state("auth").await,
        (HoldState::Pending, vec![250], vec![350])
    );

    let rest = ledger.commits(shown(post("capture-2", "auth", Vec::new()))).await;
    assert_eq!(
        balances(&rest),
        [("card", (100, 600, 0, 1000)), ("shop", (0, 0, 100, 600))]
    );
    assert_eq!(all_units(&rest.moved_amounts), [350]);
    assert_eq!(
        ledger.hold_state("auth").await,
        (HoldState::Posted, vec![600], vec![0])
    );
    assert_eq!(ledger.find("auth").await.ended_by, "capture-2");

    let released = ledger.commits(shown(void("release", "auth-2"))).await;
    assert_eq!(
        balances(&released),
        [("card", (0, 600, 0, 1000)), ("shop", (0, 0, 0, 600))]
    );
    assert!(released.moved_amounts.is_empty());
    assert_eq!(
        ledger.hold_state("auth-2").await,
        (HoldState::Voided, vec![0], vec![0])
    );

    // The capture of 350 is refunded in two parts.
    let refund = reversal("refund", "capture-2", vec![transfer("shop", "card", 50)]);
    let refunded = ledger.commits(shown(refund)).await;
    assert_eq!(
        balances(&refunded),
        [("shop", (0, 50, 0, 600)), ("card", (0, 600, 0, 1050))]
    );
    assert_eq!(all_units(&refunded.moved_amounts), [50]);
    let refunded = ledger
        .commits(shown(reversal("refund-2", "capture-2", Vec::new())))
        .await;
    assert_eq!(
        balances(&refunded),
        [("shop", (0, 350, 0, 600)), ("card", (0, 600, 0, 1350))]
    );
    assert_eq!(all_units(&refunded.moved_amounts), [300]);
    let reversed = ledger.find("capture-2").await;
    assert_eq!(reversed.reversed_by, ["refund", "refund-2"]);
    let found = ledger.find("refund-2").await;
    assert_eq!(found.reverses_transaction_id, "capture-2");
    let Some(tally::proto::transaction::Outcome::Committed(committed)) = found.outcome else {
        panic!("{found:?}");
    };
    assert_eq!(all_units(&committed.moved_amounts), [300]);
    assert_eq!(
        ledger.account("card").await.balances,
        refunded.balances[1].balances
    );
    assert!(ledger.holds("", 10).await.is_empty());
}

#[tokio::test]
async fn a_repetition_gets_the_moved_amounts_and_the_balances_again() {
    let mut ledger = card_ledger().await;
    ledger.commits(hold("auth", buy(600))).await;
    for request in [
        post_part("capture", "auth", buy(1)),
        post("rest", "auth", Vec::new()),
        reversal("refund", "rest", Vec::new()),
        transaction(
            "sweep",
            vec![clamped("card", "bank", 5000, AmountRule::UpToDebitAvailable)],
        ),
    ] {
        let request = shown(request);
        let first = ledger.commits(request.clone()).await;
        assert!(!first.replayed && first.balances.len() == 2, "{first:?}");
        // `return_balances` is not part of the compared content.
        for return_balances in [true, false] {
            let again = ProcessTransactionRequest {
                return_balances,
                ..request.clone()
            };
            let again = ledger.commits(again).await;
            let expected = ProcessTransactionResponse {
                replayed: true,
                balances: if return_balances {
                    first.balances.clone()
                } else {
                    Vec::new()
                },
                ..first.clone()
            };
            assert_eq!(again, expected);
        }
    }
}

#[tokio::test]
async fn a_clamped_transfer_moves_what_is_available() {
    let mut ledger = card_ledger().await;
    let sweep = |id: &str, rule| {
        transaction(
            id,
            vec![clamped("card", "bank", 5000, rule), transfer("bank", "shop", 1)],
        )
    };
    ledger.commits(hold("auth", buy(100))).await;
    let swept = ledger
        .commits(shown(sweep("sweep", AmountRule::UpToDebitAvailable)))
        .await;
    assert_eq!(all_units(&swept.moved_amounts), [900, 1]);
    assert_eq!(
        columns(&ledger.account("card").await.balances),
        (100, 900, 0, 1000)
    );
    let found = ledger.find("sweep").await;
    assert_eq!(
        found.transfers,
        sweep("sweep", AmountRule::UpToDebitAvailable).transfers
    );
    // A reversal is bounded by what was moved.
    let back = ledger.commits(reversal("back", "sweep", Vec::new())).await;
    assert_eq!(all_units(&back.moved_amounts), [1, 900]);
    // A clamped hold reserves what is available.
    let held = transaction(
        "all",
        vec![clamped("card", "shop", 5000, AmountRule::UpToBothAvailable)],
    );
    let held = ProcessTransactionRequest { phase: 2, ..held };
    assert_eq!(all_units(&ledger.commits(held).await.moved_amounts), [900]);
    assert_eq!(
        ledger.hold_state("all").await,
        (HoldState::Pending, vec![0], vec![900])
    );
    assert_eq!(units(&ledger.account("card").await.available), 0);
}

#[tokio::test]
async fn a_hold_with_many_transfers_is_posted_in_parts_and_expires() {
    let mut ledger = card_ledger().await;
    let legs = |units: [i64; 3]| {
        vec![
            transfer("card", "shop", units[0]),
            transfer("card", "bank", units[1]),
            transfer("bank", "shop", units[2]),
        ]
    };
    ledger.commits(hold("auth", legs([10, 20, 30]))).await;
    let part = ledger.commits(post_part("part", "auth", legs([10, 0, 5]))).await;
    assert_eq!(all_units(&part.moved_amounts), [10, 0, 5]);
    assert_eq!(
        ledger.hold_state("auth").await,
        (HoldState::Pending, vec![10, 0, 5], vec![0, 20, 25])
    );
    ledger.commits(post("last", "auth", legs([0, 20, 1]))).await;
    assert_eq!(
        ledger.hold_state("auth").await,
        (HoldState::Posted, vec![10, 20, 6], vec![0, 0, 0])
    );
    let short = ProcessTransactionRequest {
        pending_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        ..hold("short", legs([1, 2, 3]))
    };
    let committed = ledger.commits(short).await;
    let found = loop {
        let found = ledger.find("short").await;
        if found.hold_state() != HoldState::Pending {
            break found;
        }
    };
    assert_eq!(found.hold_state(), HoldState::Expired);
    assert_eq!(
        (found.ended_by.as_str(), found.pending_transaction_id.as_str()),
        ("", "")
    );
    assert_eq!(all_units(&found.posted_amounts), [0, 0, 0]);
    let (made, expires) = (committed.commit_time.unwrap(), found.expire_time.unwrap());
    let nanos =
        |time: prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    assert_eq!(nanos(expires) - nanos(made), 1_000_000);
    // The expiry is a transaction with a separate sequence.
    let next = ledger.commits(transaction("next", buy(1))).await;
    assert_eq!(next.sequence, committed.sequence + 2);
}

#[tokio::test]
async fn holds_are_listed_in_pages_and_by_account() {
    const COUNT: usize = 130;
    let mut ledger = card_ledger().await;
    let requests = (0..COUNT).map(|number| {
        let mut transfers = vec![transfer("bank", "shop", 1)];
        if number % 10 == 0 {
            transfers.push(transfer("bank", "card", 1));
        }
        hold(&format!("h{number:03}"), transfers)
    });
    let many = ProcessTransactionsRequest {
        transactions: requests.collect(),
    };
    let results = ledger
        .transactions
        .process_transactions(many)
        .await
        .unwrap()
        .into_inner();
    let is_committed = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Committed(_)));
    assert!(results.results.iter().all(|result| is_committed(&result.outcome)));
    for number in (5..COUNT).step_by(10) {
        ledger
            .commits(void(&format!("v{number}"), &format!("h{number:03}")))
            .await;
    }
    let part = post_part(
        "p",
        "h100",
        vec![transfer("bank", "shop", 0), transfer("bank", "card", 1)],
    );
    ledger.commits(part).await;
    let ids = |holds: &[tally::proto::Transaction]| {
        let mut ids: Vec<_> = holds.iter().map(|hold| hold.transaction_id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    let of = |keep: fn(usize) -> bool| {
        let numbers = (0..COUNT).filter(|number| keep(*number));
        numbers.map(|number| format!("h{number:03}")).collect::<Vec<_>>()
    };
    for page_size in [1, 7, 40, 1000] {
        let holds = ledger.holds("", page_size).await;
        assert_eq!(ids(&holds), of(|number| number % 10 != 5), "pages of {page_size}");
        let holds = ledger.holds("card", page_size).await;
        assert_eq!(ids(&holds), of(|number| number % 10 == 0), "pages of {page_size}");
    }
    assert!(ledger.holds("nobody", 10).await.is_empty());
    let listed = ledger.holds("card", 1000).await;
    let listed = listed.iter().find(|hold| hold.transaction_id == "h100").unwrap();
    assert_eq!(*listed, ledger.find("h100").await);
    assert_eq!(all_units(&listed.remaining_amounts), [1, 0]);

    // A token belongs to its account, and only outstanding holds can be listed.
    let request = |account_id: &str, page_token: &str, state: HoldState| ListHoldsRequest {
        account_id: account_id.to_owned(),
        state: state.into(),
        page_size: 1,
        page_token: page_token.to_owned(),
    };
    let first = request("card", "", HoldState::Pending);
    let token = ledger
        .accounts
        .list_holds(first)
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    for wrong in [
        request("shop", &token, HoldState::Unspecified),
        request("card", "a0", HoldState::Unspecified),
        request("card", "", HoldState::Voided),
        request("a b", "", HoldState::Unspecified),
    ] {
        let status = ledger.accounts.list_holds(wrong).await.unwrap_err();
        let invalid = expected(Code::InvalidArgument, "INVALID_FIELD", "false");
        assert_eq!(summary(&status), invalid, "{status:?}");
    }
}

/// The request that posts a hold does not contain the number of the hold's transfers. The details of the answer must fit into the memory of
/// the client. So one call posts only as many holds as fit, and each of the others is refused without effect.
#[tokio::test]
async fn the_answer_about_large_holds_is_bounded_by_the_memory_of_the_client() {
    const HOLDS: usize = 800;
    /// The memory of the only client: half of the default of `server.memory_max`.
    const CLIENT_BYTES: usize = 128 << 20;
    /// Memory of each leg after the first four: the amount, and the balances of two accounts.
    const LEG_BYTES: usize = 40 + 2 * 512;
    let mut ledger = Ledger::start(&config()).await;
    for id in ["bank", "shop"] {
        ledger.create(account(id)).await;
    }
    let transfers = vec![transfer("bank", "shop", 1); TRANSFERS_MAX];
    let requests: Vec<_> = (0..HOLDS)
        .map(|number| hold(&format!("h{number}"), transfers.clone()))
        .collect();
    for requests in requests.chunks(400) {
        let (committed, refused) = results(&mut ledger, requests).await;
        assert_eq!((committed.len(), refused.len()), (400, 0));
    }
    let mut posts: Vec<_> = (0..HOLDS)
        .map(|number| shown(post(&format!("p{number}"), &format!("h{number}"), Vec::new())))
        .collect();
    let all = posts.clone();
    let mut rounds = 0;
    while !posts.is_empty() {
        let (committed, refused) = results(&mut ledger, &posts).await;
        let most = CLIENT_BYTES / ((TRANSFERS_MAX - 4) * LEG_BYTES);
        assert!((most / 2..=most).contains(&committed.len()) || refused.is_empty());
        assert!(
            committed
                .iter()
                .all(|answer| answer.moved_amounts.len() == TRANSFERS_MAX)
        );
        for error in &refused {
            let details = error.encode_to_vec().into();
            let status = Status::with_details(error.code.into(), error.message.clone(), details);
            let limited = expected(Code::ResourceExhausted, "MEMORY_LIMIT", "false");
            assert_eq!(summary(&status), limited, "{error:?}");
        }
        posts.retain(|post| {
            committed
                .iter()
                .all(|answer| answer.transaction_id != post.transaction_id)
        });
        assert_eq!(posts.len(), refused.len());
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    // If a repetition is refused, the service must not say that the transaction was not executed, because the first request executed it.
    let (replayed, refused) = results(&mut ledger, &all).await;
    assert!(replayed.iter().all(|answer| answer.replayed));
    assert!(!replayed.is_empty() && !refused.is_empty());
    for error in &refused {
        let details = error.encode_to_vec().into();
        let status = Status::with_details(error.code.into(), error.message.clone(), details);
        let limited = expected(Code::ResourceExhausted, "MEMORY_LIMIT", "unknown");
        assert_eq!(summary(&status), limited, "{error:?}");
    }
    let posted = i128::try_from(HOLDS * TRANSFERS_MAX).unwrap();
    assert_eq!(columns(&ledger.account("bank").await.balances), (0, posted, 0, 0));
    // A single call has the memory for a hold of any size, also if it is sent again.
    ledger.commits(hold("h", transfers)).await;
    let request = shown(post("p", "h", Vec::new()));
    for replayed in [false, true] {
        let answer = ledger.commits(request.clone()).await;
        assert_eq!(
            (answer.moved_amounts.len(), answer.balances.len(), answer.replayed),
            (TRANSFERS_MAX, 2, replayed)
        );
    }
    let reversed = ledger.commits(shown(reversal("r", "p", Vec::new()))).await;
    assert_eq!(reversed.moved_amounts.len(), TRANSFERS_MAX);
}

/// Sends transactions in one call. Returns the answers of the committed ones, and the errors of the others.
async fn results(
    ledger: &mut Ledger,
    requests: &[ProcessTransactionRequest],
) -> (Vec<ProcessTransactionResponse>, Vec<RpcStatus>) {
    let many = ProcessTransactionsRequest {
        transactions: requests.to_vec(),
    };
    let answered = ledger
        .transactions
        .process_transactions(many)
        .await
        .unwrap()
        .into_inner();
    let (mut committed, mut refused) = (Vec::new(), Vec::new());
    for result in answered.results {
        match result.outcome.unwrap() {
            Outcome::Committed(answer) => committed.push(answer),
            Outcome::Error(error) => refused.push(error),
        }
    }
    (committed, refused)
}
