//! Writes that name a foreign id are FORBIDDEN before any look-up: in every field, in every kind of call, with the same answer
//! whether or not the id exists. The fields come from the descriptors, so a test fails if a new field has no case.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use prost_types::FieldMask;
use tally::proto::{
    Account, AccountStatus, BatchCreateAccountsRequest, CircuitMode, CreateAccountRequest, GetAccountRequest,
    GetTransactionRequest, ListAccountsRequest, ListHoldsRequest, ProcessTransactionRequest,
    ProcessTransactionsRequest, ProcessTransactionsResponse, SetCircuitModeRequest, SetCircuitModeResponse,
    StreamTransactionsRequest, StreamTransactionsResponse, TransactionPhase, TransactionResult,
    UpdateAccountRequest, set_circuit_mode_request::Change,
};
use tonic::Code;

use super::{
    CREATE_ACCOUNT, CREATE_ACCOUNTS, GET_ACCOUNT, GET_TRANSACTION, LIST_ACCOUNTS, LIST_HOLDS, PROCESS_MANY,
    PROCESS_ONE, STREAM, Seen, Tenants, UPDATE_ACCOUNT,
};
use crate::support::in_process::{account, transaction, transfer};

/// A transaction with a foreign id in a field.
struct Case {
    field: &'static str,
    /// A foreign id that exists, of the kind that the field names.
    exists: &'static str,
    request: fn(foreign: &str) -> ProcessTransactionRequest,
}

const TOKEN: &str = "acme-write";

/// A transaction of the tenant.
fn own(id: &str) -> ProcessTransactionRequest {
    transaction(id, vec![transfer("acme/a", "acme/b", 1)])
}

fn reserves(foreign: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        ..transaction("acme/x", vec![transfer("acme/a", foreign, 1)])
    }
}

fn posts(hold: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::PostPending.into(),
        pending_transaction_id: hold.to_owned(),
        ..transaction("acme/x", Vec::new())
    }
}

fn voids(hold: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        ..posts(hold)
    }
}

fn reverses(id: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        reverses_transaction_id: id.to_owned(),
        ..transaction("acme/x", Vec::new())
    }
}

#[rustfmt::skip] // One line for each case.
const CASES: [Case; 13] = [
    Case { field: "transaction_id", exists: "beta/paid", request: own },
    Case { field: "transaction_id", exists: "beta/hold", request: |id| ProcessTransactionRequest { transaction_id: id.to_owned(), ..posts("acme/hold") } },
    Case { field: "transfers[0].debit_account_id", exists: "beta/a", request: |id| transaction("acme/x", vec![transfer(id, "acme/b", 1)]) },
    Case { field: "transfers[0].credit_account_id", exists: "beta/a", request: |id| transaction("acme/x", vec![transfer("acme/a", id, 1)]) },
    Case { field: "transfers[1].debit_account_id", exists: "beta/a", request: |id| transaction("acme/x", vec![transfer("acme/a", "acme/b", 1), transfer(id, "acme/b", 1)]) },
    Case { field: "transfers[0].credit_account_id", exists: "beta/a", request: reserves },
    Case { field: "transfers[0].debit_account_id", exists: "beta/a", request: |id| ProcessTransactionRequest { transfers: vec![transfer(id, "acme/b", 1)], ..posts("acme/hold") } },
    Case { field: "pending_transaction_id", exists: "beta/hold", request: posts },
    Case { field: "pending_transaction_id", exists: "beta/hold", request: |id| ProcessTransactionRequest { transfers: vec![transfer("acme/a", "acme/b", 1)], ..posts(id) } },
    Case { field: "pending_transaction_id", exists: "beta/hold", request: voids },
    Case { field: "reverses_transaction_id", exists: "beta/paid", request: reverses },
    Case { field: "reverses_transaction_id", exists: "beta/paid", request: |id| ProcessTransactionRequest { transfers: vec![transfer("acme/b", "acme/a", 1)], ..reverses(id) } },
    Case { field: "transfers[0].credit_account_id", exists: "beta/a", request: |id| ProcessTransactionRequest { transfers: vec![transfer("acme/b", id, 1)], ..reverses("acme/paid") } },
];

/// Foreign ids that do not exist: with the prefix of the other tenant, without a prefix, and similar to the tenant's own ids.
const NOTHING: [&str; 6] = ["beta/nothing", "nothing", "acme", "acme2/a", "ACME/a", "acme-/a"];

/// Checks that an answer is FORBIDDEN because of this field and id. Returns the answer without the id.
fn forbidden(seen: Seen, field: &str, id: &str) -> Seen {
    assert_eq!(
        (seen.code, seen.reason.as_str()),
        (Code::PermissionDenied, "FORBIDDEN"),
        "{field} {id}: {seen:?}"
    );
    for (key, value) in [
        ("field", field),
        ("prefix", "acme/"),
        ("executed", "false"),
        ("retry", "no"),
    ] {
        assert_eq!(seen.metadata[key], value, "{field} {id}: {seen:?}");
    }
    assert_eq!(seen.metadata.len(), 4, "{seen:?}");
    seen.without(&format!("{id:?}"))
}

/// Returns the results of three transactions in one call. The transaction in the middle is to be checked; the others are the tenant's own.
async fn in_the_middle(
    tenants: &Tenants,
    path: &str,
    request: &ProcessTransactionRequest,
    number: usize,
) -> [Seen; 3] {
    let transactions = vec![
        own(&format!("acme/{path}-{number}-1").replace("/tally.v1.", "")),
        request.clone(),
        own(&format!("acme/{path}-{number}-2").replace("/tally.v1.", "")),
    ];
    let results: Vec<TransactionResult> = if path == PROCESS_MANY {
        let request = ProcessTransactionsRequest { transactions };
        let response: ProcessTransactionsResponse = tenants.asks(TOKEN, path, &request).await;
        response.results
    } else {
        let messages: Vec<Vec<u8>> = transactions
            .into_iter()
            .map(|transaction| {
                let transaction = Some(transaction);
                StreamTransactionsRequest { transaction }.encode_to_vec()
            })
            .collect();
        let (status, mut body) = tenants.raw_messages(TOKEN, path, &messages).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        let mut results = Vec::new();
        while !body.is_empty() {
            let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
            let message = body.split_to(5 + length);
            let response = StreamTransactionsResponse::decode(&message[5..]).unwrap();
            results.push(response.result.unwrap());
        }
        results
    };
    assert_eq!(results.len(), 3);
    [0, 1, 2].map(|place| Seen::of_result(&results[place]))
}

/// Returns the requests that write accounts, with a foreign id in the field.
fn account_writes(id: &str) -> [(&'static str, &'static str, Vec<u8>); 3] {
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    let batch = BatchCreateAccountsRequest {
        requests: vec![create("acme/a"), create(id)],
        skip_existing: true,
    };
    let update = UpdateAccountRequest {
        account: Some(Account {
            status: AccountStatus::Frozen.into(),
            ..account(id)
        }),
        update_mask: Some(FieldMask {
            paths: vec!["status".to_owned()],
        }),
    };
    [
        (CREATE_ACCOUNT, "account.id", create(id).encode_to_vec()),
        (CREATE_ACCOUNTS, "requests[1].account.id", batch.encode_to_vec()),
        (UPDATE_ACCOUNT, "account.id", update.encode_to_vec()),
    ]
}

/// Returns everything that the other tenant sees of its own accounts and transactions.
async fn state_of_beta(tenants: &Tenants) -> Vec<Seen> {
    let get = |id: &str| GetAccountRequest {
        account_id: id.to_owned(),
        ..GetAccountRequest::default()
    };
    let find = |id: &str| GetTransactionRequest {
        transaction_id: id.to_owned(),
        ..GetTransactionRequest::default()
    };
    let mut seen = Vec::new();
    for (path, message) in [
        (GET_ACCOUNT, get("beta/a").encode_to_vec()),
        (GET_ACCOUNT, get("beta/b").encode_to_vec()),
        (GET_TRANSACTION, find("beta/paid").encode_to_vec()),
        (GET_TRANSACTION, find("beta/hold").encode_to_vec()),
        (LIST_ACCOUNTS, ListAccountsRequest::default().encode_to_vec()),
        (LIST_HOLDS, ListHoldsRequest::default().encode_to_vec()),
    ] {
        let answer = tenants.sees("beta-read", path, &message).await;
        assert_eq!(answer.code, Code::Ok);
        seen.push(answer);
    }
    seen
}

#[tokio::test]
async fn a_foreign_id_is_forbidden_in_every_field_and_every_kind_of_call() {
    let tenants = Tenants::start().await;
    let before = state_of_beta(&tenants).await;
    let mut number = 0;
    for case in &CASES {
        let mut first = None;
        for id in [case.exists].into_iter().chain(NOTHING) {
            number += 1;
            let request = (case.request)(id);
            let alone = tenants.sees(TOKEN, PROCESS_ONE, &request.encode_to_vec()).await;
            let alone = forbidden(alone, case.field, id);
            // The answer is the same for an id that exists and for an id that does not, and in every kind of call.
            assert_eq!(*first.get_or_insert_with(|| alone.clone()), alone, "{id}");
            for path in [PROCESS_MANY, STREAM] {
                let [before, middle, after] = in_the_middle(&tenants, path, &request, number).await;
                assert_eq!((before.code, after.code), (Code::Ok, Code::Ok), "{path} {id}");
                assert_eq!(forbidden(middle, case.field, id), alone, "{path} {id}");
            }
        }
    }
    for id in ["beta/a"].into_iter().chain(NOTHING) {
        for (path, field, message) in account_writes(id) {
            let seen = tenants.sees(TOKEN, path, &message).await;
            forbidden(seen, field, id);
        }
    }
    assert_eq!(state_of_beta(&tenants).await, before);
    // The refused transactions have used none of the tenant's own ids.
    let unused = tenants.commits(TOKEN, &own("acme/x")).await;
    assert!(!unused.replayed);
}

#[tokio::test]
async fn a_foreign_id_is_forbidden_before_anything_is_looked_up() {
    let tenants = Tenants::start().await;
    let close = SetCircuitModeRequest {
        change: Some(Change::Mode(CircuitMode::ForcedOpen.into())),
        ..SetCircuitModeRequest::default()
    };
    let path = "/tally.v1.EngineService/SetCircuitMode";
    let _open: SetCircuitModeResponse = tenants.asks("all-admin", path, &close).await;
    // The engine rejects every write with CIRCUIT_OPEN. So a call with another answer has not reached the engine, and took no time there.
    let reaches = tenants
        .sees(TOKEN, PROCESS_ONE, &own("acme/x").encode_to_vec())
        .await;
    assert_eq!(reaches.reason, "CIRCUIT_OPEN");
    for case in &CASES {
        for id in [case.exists, "beta/nothing"] {
            let request = (case.request)(id);
            let many = ProcessTransactionsRequest {
                transactions: vec![request.clone()],
            };
            let one = StreamTransactionsRequest {
                transaction: Some(request.clone()),
            };
            for (path, message) in [
                (PROCESS_ONE, request.encode_to_vec()),
                (PROCESS_MANY, many.encode_to_vec()),
                (STREAM, one.encode_to_vec()),
            ] {
                let seen = tenants.sees(TOKEN, path, &message).await;
                forbidden(seen, case.field, id);
            }
        }
    }
    for id in ["beta/a", "beta/nothing"] {
        for (path, field, message) in account_writes(id) {
            forbidden(tenants.sees(TOKEN, path, &message).await, field, id);
        }
    }
}

/// Collects the names of the fields with ids, in a message and in the messages that it contains.
fn id_fields(message: &MessageDescriptor, found: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        let (kind, name) = (field.kind(), field.name());
        if let Kind::Message(inner) = &kind {
            id_fields(inner, found, seen);
        } else if matches!(kind, Kind::String) && (name == "id" || name.contains("_id")) {
            found.insert(name.to_owned());
        }
    }
}

#[test]
fn every_field_of_a_write_that_names_something_has_a_case() {
    let pool = DescriptorPool::decode(tally::proto::FILE_DESCRIPTOR_SET).unwrap();
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for service in pool
        .services()
        .filter(|service| service.name() != "EngineService")
    {
        for method in service.methods() {
            let reads = ["Get", "List", "Watch"]
                .iter()
                .any(|word| method.name().starts_with(word));
            if !reads {
                id_fields(&method.input(), &mut found, &mut seen);
            }
        }
    }
    let last = |field: &str| field.rsplit('.').next().unwrap().to_owned();
    let mut tested: BTreeSet<String> = CASES.iter().map(|case| last(case.field)).collect();
    tested.extend(account_writes("").map(|(_, field, _)| last(field)));
    assert_eq!(found, tested);
}
