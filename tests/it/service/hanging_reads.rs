//! Tests with reads of the history that hang and occupy all places for such reads. All other calls must be answered.

use std::{net::IpAddr, sync::Arc};

use bytesize::ByteSize;
use tally::{
    engine::{EngineConfig, HISTORY_READS_MAX, ScrubRate},
    grpc::NetConfig,
    proto::{
        CreateAccountRequest, GetAccountRequest, ListAccountEntriesRequest, ListTransactionsRequest,
        StreamTransactionsRequest, account_service_client::AccountServiceClient,
        transaction_service_client::TransactionServiceClient,
    },
    security::Security,
};
use tokio::task::JoinSet;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::{expected, info, summary};
use crate::support::{
    in_process::{Service, account, patient_config, pay},
    sim_disk::SimDisk,
};

/// Number of transactions before the disk hangs.
const OLD: usize = 300;
/// Number of calls of each kind while the disk hangs.
const CALLS: usize = 100;
/// Listings of one client at the same time. They need more memory than the service allows one client.
const LISTINGS: usize = 64;
/// The address of another client.
const OTHER: [u8; 4] = [127, 0, 0, 2];

fn statement() -> ListAccountEntriesRequest {
    ListAccountEntriesRequest {
        account_id: "a".to_owned(),
        page_size: 1000,
        ..ListAccountEntriesRequest::default()
    }
}

async fn channel_of(service: &Service, client: [u8; 4]) -> Channel {
    let endpoint = Endpoint::from_shared(service.endpoint()).unwrap();
    let endpoint = endpoint.local_address(Some(IpAddr::from(client)));
    endpoint.connect().await.unwrap()
}

/// Writes and reads that need no history, of every kind. All of them are answered.
async fn other_calls(channel: Channel, name: &str) {
    let mut transactions = TransactionServiceClient::new(channel.clone());
    let mut accounts = AccountServiceClient::new(channel);
    for number in 0..CALLS {
        let id = format!("{name}-{number}");
        transactions.process_transaction(pay(&id)).await.unwrap();
        let create = CreateAccountRequest {
            account: Some(account(&id)),
        };
        accounts.create_account(create).await.unwrap();
        let get = GetAccountRequest {
            account_id: "a".to_owned(),
            ..GetAccountRequest::default()
        };
        accounts.get_account(get).await.unwrap();
    }
    let messages: Vec<_> = (0..CALLS)
        .map(|number| StreamTransactionsRequest {
            transaction: Some(pay(&format!("{name}-streamed-{number}"))),
        })
        .collect();
    let answers = transactions
        .stream_transactions(tokio_stream::iter(messages))
        .await;
    let (mut answers, mut count) = (answers.unwrap().into_inner(), 0);
    while answers.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, CALLS);
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_reads_of_the_history_delay_no_write() {
    let config = EngineConfig {
        scrub: ScrubRate(0),
        ..patient_config()
    };
    let limits = NetConfig {
        memory_max: ByteSize::mib(64),
        ..NetConfig::default()
    };
    let security = Arc::new(Security::default());
    let service = Service::start_limited(SimDisk::new(1), &config, security, limits).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    for number in 0..OLD {
        client
            .process_transaction(pay(&format!("old-{number}")))
            .await
            .unwrap();
    }

    service.disk.stall_reads();
    let mut listings = JoinSet::new();
    let list = |listings: &mut JoinSet<_>, mut accounts: AccountServiceClient<Channel>| {
        listings.spawn(async move { accounts.list_account_entries(statement()).await });
    };
    let accounts = service.accounts().await;
    for _ in 0..HISTORY_READS_MAX {
        list(&mut listings, accounts.clone());
    }
    let disk = service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_reads(HISTORY_READS_MAX))
        .await
        .unwrap();
    other_calls(service.channel().await, "same").await;

    // A further listing gets no place before its deadline. It was not begun, and may be repeated.
    let mut patient = service.patient_transactions().await;
    let mut late = Request::new(ListTransactionsRequest::default());
    let timeout = "200m".parse().unwrap();
    late.metadata_mut().insert("grpc-timeout", timeout);
    let status = patient.list_transactions(late).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::DeadlineExceeded, "EXPIRED_IN_QUEUE", "false")
    );
    assert_eq!(info(&status).metadata["retry"], "same_id");

    // Listings without a deadline wait, as long as the client has memory for them. The others get an error with a retry delay.
    for _ in 0..LISTINGS {
        list(&mut listings, accounts.clone());
    }
    let refused = listings.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        summary(&refused),
        expected(Code::ResourceExhausted, "MEMORY_LIMIT", "false")
    );
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    other_calls(channel_of(&service, OTHER).await, "other").await;

    service.disk.release_reads();
    let (mut listed, mut refused) = (0, 1);
    for listing in listings.join_all().await {
        match listing {
            Ok(page) => {
                assert!(page.into_inner().entries.len() >= OLD);
                listed += 1;
            }
            Err(status) => {
                assert_eq!(info(&status).reason, "MEMORY_LIMIT");
                refused += 1;
            }
        }
    }
    assert!(
        listed >= HISTORY_READS_MAX,
        "{listed} listings, {refused} refusals"
    );
    assert_eq!(listed + refused, HISTORY_READS_MAX + LISTINGS);
}
