//! A test with two transaction ids that have the same hash in the index. The service must read their records to
//! distinguish them.

use std::path::Path;

use tally::proto::{GetTransactionRequest, ProcessTransactionResponse, transaction::Outcome};
use tally_ledger::tag_index::{TagIndex, tag};

use crate::support::in_process::{Service, patient_config, pay};

/// Two ids with the same hash under the hash seed of the simulated disk. They were found by a search among the first
/// ten million numbers.
const IDS: [&str; 2] = ["199173", "1271293"];

/// Returns the seed of the hash function, which the data directory stores.
fn hash_seed(service: &Service) -> u64 {
    let format = String::from_utf8(service.disk.contents(Path::new("/data/FORMAT"))).unwrap();
    let seed = format.lines().find_map(|line| line.strip_prefix("hash_seed = "));
    u64::from_str_radix(seed.unwrap(), 16).unwrap()
}

async fn process(service: &Service, id: &str) -> ProcessTransactionResponse {
    let mut client = service.transactions().await;
    client.process_transaction(pay(id)).await.unwrap().into_inner()
}

/// Checks that both transactions are recorded, and that reads and replays of each transaction use its own record.
async fn assert_both_are_recorded(service: &Service) {
    for (id, sequence) in IDS.into_iter().zip(1..) {
        let again = process(service, id).await;
        assert!(again.replayed, "{id} was applied twice");
        assert_eq!(again.sequence, sequence);
        let mut client = service.transactions().await;
        let request = GetTransactionRequest {
            transaction_id: id.to_owned(),
            ..GetTransactionRequest::default()
        };
        let found = client.get_transaction(request).await.unwrap().into_inner();
        let found = found.transaction.unwrap();
        assert_eq!(found.transaction_id, id);
        let Some(Outcome::Committed(committed)) = found.outcome else {
            panic!("{id} was not committed: {found:?}");
        };
        assert_eq!(committed.sequence, sequence);
    }
}

#[tokio::test]
async fn ids_with_the_same_hash_are_different_transactions_even_after_a_restart() {
    let service = Service::start(&patient_config()).await;
    let seed = hash_seed(&service);
    let [one, other] = IDS.map(|id| tag(id.as_bytes(), seed));
    assert!(
        TagIndex::is_same_tag(one, other),
        "the ids have different hashes under seed {seed:#x}: search for two other ids, and change IDS"
    );
    service.open_accounts(&["a", "b"]).await;
    for (id, sequence) in IDS.into_iter().zip(1..) {
        let first = process(&service, id).await;
        assert_eq!((first.sequence, first.replayed), (sequence, false));
    }
    assert_both_are_recorded(&service).await;

    let disk = service.stop().await;
    disk.restart();
    let service = Service::start_on(disk, &patient_config()).await;
    assert_both_are_recorded(&service).await;
    assert_eq!(process(&service, "third").await.sequence, 3);
    service.stop().await;
}
