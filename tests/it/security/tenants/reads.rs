//! Tests of lists and their page tokens, and of what a tenant sees of transactions that an unrestricted caller has made with ids of several
//! tenants.

use prost::Message;
use tally::proto::{
    Account, BalanceRule, GetTransactionRequest, GetTransactionResponse, ListAccountsRequest,
    ListAccountsResponse, ListHoldsRequest, ListHoldsResponse, ProcessTransactionRequest,
    ProcessTransactionsRequest, StreamTransactionsRequest, Transaction, TransactionPhase,
    transaction::Outcome,
};
use tonic::{Code, Status};

use super::{
    GET_TRANSACTION, LIST_ACCOUNTS, LIST_HOLDS, PROCESS_MANY, PROCESS_ONE, STREAM, Seen, Tenants, contains,
    hold,
};
use crate::support::{
    in_process::{account, transaction, transfer},
    operators::get,
};

/// Number of accounts, and of holds, of each tenant in the tests of pages.
const COUNT: usize = 5;

/// Encodes a request for a page of this list.
fn page_request(path: &str, page_token: &str) -> Vec<u8> {
    let page_token = page_token.to_owned();
    match path {
        LIST_ACCOUNTS => ListAccountsRequest {
            page_size: 1,
            page_token,
            ..ListAccountsRequest::default()
        }
        .encode_to_vec(),
        _ => ListHoldsRequest {
            page_size: 1,
            page_token,
            ..ListHoldsRequest::default()
        }
        .encode_to_vec(),
    }
}

/// Returns the ids of a page, and the token of the next one.
fn page(path: &str, body: &[u8]) -> (Vec<String>, String) {
    if path == LIST_ACCOUNTS {
        let page = ListAccountsResponse::decode(&body[5..]).unwrap();
        let ids = page.accounts.into_iter().map(|account| account.id);
        return (ids.collect(), page.next_page_token);
    }
    let page = ListHoldsResponse::decode(&body[5..]).unwrap();
    let ids = page.holds.into_iter().map(|hold| hold.transaction_id);
    (ids.collect(), page.next_page_token)
}

/// Reads all pages from `page_token` on. Returns the ids, and the tokens of the pages.
async fn pages(
    tenants: &Tenants,
    token: &str,
    path: &str,
    mut page_token: String,
) -> (Vec<String>, Vec<String>) {
    let (mut ids, mut page_tokens) = (Vec::new(), Vec::new());
    loop {
        let (status, body) = tenants.raw(token, path, &page_request(path, &page_token)).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        if !token.starts_with("all") {
            let (own, foreign) = if token.starts_with("acme") {
                ("acme", "beta")
            } else {
                ("beta", "acme")
            };
            assert!(
                !contains(&body, foreign),
                "{path} shows {own} something of {foreign}"
            );
        }
        let (found, next) = page(path, &body);
        ids.extend(found);
        if next.is_empty() {
            return (ids, page_tokens);
        }
        page_tokens.push(next.clone());
        page_token = next;
    }
}

#[tokio::test]
async fn lists_show_only_the_own_and_a_page_token_is_of_use_only_to_its_owner() {
    let tenants = Tenants::start().await;
    for number in 0..COUNT {
        for tenant in ["acme", "beta"] {
            let (a, b) = (format!("{tenant}/a"), format!("{tenant}/b"));
            let writer = format!("{tenant}-write");
            tenants
                .create(&writer, account(&format!("{tenant}/{number}")))
                .await;
            let held = hold(&format!("{tenant}/h{number}"), &a, &b);
            tenants.commits(&writer, &held).await;
        }
    }
    for (path, own) in [(LIST_ACCOUNTS, COUNT + 2), (LIST_HOLDS, COUNT + 1)] {
        let mut tokens = Vec::new();
        for (token, prefix, count) in [
            ("acme-read", "acme/", own),
            ("beta-admin", "beta/", own),
            ("all-read", "", 2 * own),
        ] {
            let (ids, of_pages) = pages(&tenants, token, path, String::new()).await;
            assert_eq!(ids.len(), count, "{path}: {ids:?}");
            assert!(ids.iter().all(|id| id.starts_with(prefix)), "{path}: {ids:?}");
            tokens.push((token, of_pages));
        }
        // A page token of another caller is refused, whatever its position.
        for (token, _) in &tokens {
            for (_, foreign) in tokens.iter().filter(|(owner, _)| owner != token) {
                for page_token in foreign {
                    let seen = tenants.sees(token, path, &page_request(path, page_token)).await;
                    assert_eq!(
                        (seen.code, seen.reason.as_str()),
                        (Code::InvalidArgument, "INVALID_FIELD"),
                        "{path} {token} {page_token}"
                    );
                    assert!(!seen.contains("acme") && !seen.contains("beta"), "{seen:?}");
                }
            }
        }
        // A caller can forge a page token with its own fingerprint and any position. The list still shows nothing foreign, which `pages`
        // checks.
        let (token, own_tokens) = &tokens[0];
        let own_token = own_tokens.first().unwrap();
        let fingerprint = own_token.rsplit('.').next().unwrap();
        for position in ["0", "1", "3", "a", "ff", "fffffffe"] {
            let forged = if path == LIST_ACCOUNTS {
                vec![format!("a{position}.{fingerprint}")]
            } else {
                ["0", "1", "ffffffff"]
                    .map(|after| format!("h{position}.{after}.{fingerprint}"))
                    .to_vec()
            };
            for forged in forged {
                let (ids, _) = pages(&tenants, token, path, forged).await;
                assert!(ids.iter().all(|id| id.starts_with("acme/")), "{path}: {ids:?}");
            }
        }
    }
    // Neither metrics nor the page of the operators name ids or prefixes.
    for page in ["/metrics", "/stats.json"] {
        let text = get(&tenants.server, page).await.2;
        assert!(!text.contains("acme") && !text.contains("beta"), "{page}");
    }
}

#[tokio::test]
async fn the_id_spaces_of_tenants_are_disjoint() {
    let tenants = Tenants::start().await;
    let payment = |tenant: &str, units| {
        let (a, b) = (format!("{tenant}/a"), format!("{tenant}/b"));
        transaction(&format!("{tenant}/same"), vec![transfer(&a, &b, units)])
    };
    // The same name with other content is another transaction, because the prefix is a part of the id.
    assert!(!tenants.commits("acme-write", &payment("acme", 1)).await.replayed);
    assert!(!tenants.commits("beta-write", &payment("beta", 2)).await.replayed);
    assert!(tenants.commits("beta-write", &payment("beta", 2)).await.replayed);
    let other = payment("beta", 3).encode_to_vec();
    let seen = tenants.sees("beta-write", PROCESS_ONE, &other).await;
    assert_eq!(seen.reason, "TRANSACTION_ID_REUSED");
    assert!(!seen.contains("acme"), "{seen:?}");
}

/// Accounts that belong to no tenant, and transactions with ids of a tenant that an unrestricted caller has made with them.
async fn with_house() -> Tenants {
    let tenants = Tenants::start().await;
    let all = "all-write";
    tenants.create(all, account("house/bank")).await;
    tenants
        .create(
            all,
            Account {
                balance_rule: BalanceRule::CreditBalance.into(),
                ..account("house/fees")
            },
        )
        .await;
    let fee = transaction("acme/fee", vec![transfer("acme/a", "house/fees", 10)]);
    tenants.commits(all, &fee).await;
    // 3 of the 10 are left.
    let out = transaction("house/out", vec![transfer("house/fees", "house/bank", 7)]);
    tenants.commits(all, &out).await;
    tenants
}

async fn find(tenants: &Tenants, token: &str, id: &str) -> Transaction {
    let request = GetTransactionRequest {
        transaction_id: id.to_owned(),
        ..GetTransactionRequest::default()
    };
    let found: GetTransactionResponse = tenants.asks(token, GET_TRANSACTION, &request).await;
    found.transaction.unwrap()
}

/// Checks that `acme` finds a rejected transaction with its reason, and sees no foreign ids or figures. Returns what `acme` sees of the error.
async fn finds_rejection(tenants: &Tenants, id: &str, reason: &str) -> Seen {
    let found = find(tenants, "acme-read", id).await;
    let bytes = found.encode_to_vec();
    assert!(
        !contains(&bytes, "house/") && !contains(&bytes, "beta/"),
        "{found:?}"
    );
    let Some(Outcome::Error(error)) = found.outcome else {
        panic!("{found:?}")
    };
    let details = error.encode_to_vec().into();
    let status = Status::with_details(Code::from(error.code), error.message, details);
    let seen = Seen::of(&status, bytes::Bytes::new());
    assert_eq!(seen.reason, reason, "{seen:?}");
    seen
}

fn reversal(id: &str, of: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        reverses_transaction_id: of.to_owned(),
        ..transaction(id, Vec::new())
    }
}

#[tokio::test]
async fn a_rejection_has_no_figure_of_a_foreign_account() {
    let tenants = with_house().await;
    let refund = reversal("acme/refund", "acme/fee");
    let many = ProcessTransactionsRequest {
        transactions: vec![refund.clone()],
    };
    let one = StreamTransactionsRequest {
        transaction: Some(refund.clone()),
    };
    for (path, message) in [
        (PROCESS_ONE, refund.encode_to_vec()),
        (PROCESS_MANY, many.encode_to_vec()),
        (STREAM, one.encode_to_vec()),
    ] {
        let seen = tenants.sees("acme-write", path, &message).await;
        assert_eq!(seen.reason, "INSUFFICIENT_FUNDS", "{seen:?}");
        assert!(!seen.has("available") && !seen.has("needs"), "{seen:?}");
        assert!(
            !seen.contains("house/") && !seen.message.contains("has 3"),
            "{seen:?}"
        );
        // A caller that may see the account sees its figures.
        let seen = tenants.sees("all-write", path, &message).await;
        assert_eq!(seen.metadata["available"], "3", "{seen:?}");
    }
    let seen = finds_rejection(&tenants, "acme/refund", "INSUFFICIENT_FUNDS").await;
    assert!(!seen.has("available"), "{seen:?}");

    // Transactions that an unrestricted caller has sent with an id of the tenant.
    let poor = transaction("acme/poor", vec![transfer("house/fees", "acme/a", 1000)]);
    let seen = tenants
        .sees("all-write", PROCESS_ONE, &poor.encode_to_vec())
        .await;
    assert_eq!(seen.metadata["available"], "3", "{seen:?}");
    let seen = finds_rejection(&tenants, "acme/poor", "INSUFFICIENT_FUNDS").await;
    assert!(!seen.has("available") && !seen.has("account_id"), "{seen:?}");
    let void = ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        pending_transaction_id: "beta/none".to_owned(),
        ..transaction("acme/void", Vec::new())
    };
    let seen = tenants
        .sees("all-write", PROCESS_ONE, &void.encode_to_vec())
        .await;
    assert_eq!(seen.reason, "PENDING_NOT_FOUND", "{seen:?}");
    let seen = finds_rejection(&tenants, "acme/void", "PENDING_NOT_FOUND").await;
    assert!(!seen.has("pending_transaction_id"), "{seen:?}");
    assert_eq!(
        find(&tenants, "all-read", "acme/void")
            .await
            .pending_transaction_id,
        "beta/none"
    );
}

#[tokio::test]
async fn foreign_accounts_of_an_own_transaction_are_blank() {
    let tenants = with_house().await;
    let found = find(&tenants, "acme-read", "acme/fee").await;
    assert_eq!(found.principal, "all-write");
    let parties = |transaction: &Transaction| {
        let transfer = &transaction.transfers[0];
        (
            transfer.debit_account_id.clone(),
            transfer.credit_account_id.clone(),
        )
    };
    assert_eq!(parties(&found), ("acme/a".to_owned(), String::new()));
    // A foreign transaction that changes the tenant's account does not belong to the tenant.
    let touches = transaction("house/t", vec![transfer("acme/a", "house/bank", 1)]);
    tenants.commits("all-write", &touches).await;
    tenants
        .commits("all-write", &hold("house/h", "acme/a", "house/bank"))
        .await;
    tenants
        .commits("all-write", &hold("acme/h", "acme/a", "house/fees"))
        .await;
    let holds = async |token: &str, account_id: &str| {
        let request = ListHoldsRequest {
            account_id: account_id.to_owned(),
            ..ListHoldsRequest::default()
        };
        let listed: ListHoldsResponse = tenants.asks(token, LIST_HOLDS, &request).await;
        assert_eq!(listed.next_page_token, "");
        listed.holds
    };
    let ids = |holds: &[Transaction]| {
        holds
            .iter()
            .map(|hold| hold.transaction_id.clone())
            .collect::<Vec<_>>()
    };
    for account_id in ["", "acme/a"] {
        let listed = holds("acme-read", account_id).await;
        assert_eq!(ids(&listed), ["acme/hold", "acme/h"]);
        assert_eq!(parties(&listed[1]), ("acme/a".to_owned(), String::new()));
    }
    // The list must not show which account was left blank: the list of a foreign account is empty, as if the account did not exist.
    for account_id in ["house/fees", "house/bank", "house/nothing"] {
        assert!(holds("acme-read", account_id).await.is_empty(), "{account_id}");
    }
    assert_eq!(ids(&holds("all-read", "house/fees").await), ["acme/h"]);

    // The tenant may post its hold, and sees its own balances only.
    let post = ProcessTransactionRequest {
        phase: TransactionPhase::PostPending.into(),
        pending_transaction_id: "acme/h".to_owned(),
        return_balances: true,
        ..transaction("acme/post", Vec::new())
    };
    let posted = tenants.commits("acme-write", &post).await;
    let shown: Vec<_> = posted
        .balances
        .iter()
        .map(|balances| balances.account_id.as_str())
        .collect();
    assert_eq!(shown, ["acme/a"]);
    assert_eq!(posted.moved_amounts.len(), 1);
    // A repetition gets the same answer.
    let again = tenants.commits("acme-write", &post).await;
    assert_eq!(
        again,
        tally::proto::ProcessTransactionResponse {
            replayed: true,
            ..posted
        }
    );
    // A foreign transaction may have ended a hold or reversed a transaction of the tenant.
    tenants
        .commits("all-write", &hold("acme/h2", "acme/a", "acme/b"))
        .await;
    let void = ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        pending_transaction_id: "acme/h2".to_owned(),
        ..transaction("house/v", Vec::new())
    };
    tenants.commits("all-write", &void).await;
    tenants
        .commits("all-write", &reversal("house/r", "acme/paid"))
        .await;
    for (id, shown) in [("acme/h2", ("", 0)), ("acme/paid", ("", 1))] {
        let found = find(&tenants, "acme-read", id).await;
        assert_eq!(
            (found.ended_by.as_str(), found.reversed_by.len()),
            shown,
            "{found:?}"
        );
        assert!(!contains(&found.encode_to_vec(), "house/"), "{found:?}");
    }
}
