//! Tests of `WatchTransactions`: every watcher gets the ledger in its order, without gap and without duplicate.

use std::{path::Path, sync::Arc, time::Duration};

use tally::{
    client::Client,
    grpc::NetConfig,
    proto::{
        CreateAccountRequest, ListTransactionsRequest, ProcessTransactionRequest, ProcessTransactionsRequest,
        Transaction, TransactionPhase, WatchTransactionsRequest, WatchTransactionsResponse,
        transaction::Outcome, transaction_service_client::TransactionServiceClient,
    },
    security::{RefreshKind, Security, SecurityConfig, hash_hex},
};
use tokio::task::JoinSet;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{expected, info, summary};
use crate::support::{
    in_process::{Service, account, config, patient_config, pay, transaction, transfer},
    sim_disk::SimDisk,
};

/// Maximum time to wait for an event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Maximum number of watchers of one client.
const OF_CLIENT_MAX: usize = 1024;
/// Tokens: of an administrator, and of a reader who sees only ids that begin with `acme/`.
const ADMIN: &str = "token-of-the-administrator";
const TENANT: &str = "token-of-the-tenant";

/// A watch, and what it has received.
struct Watched {
    responses: Streaming<WatchTransactionsResponse>,
    /// The sequence up to which the watch is complete.
    durable: i64,
    received: Vec<Transaction>,
}

// ===== impl Watched =====

impl Watched {
    async fn begin(channel: &Channel, from_sequence: i64, id_prefix: &str) -> Self {
        Self::try_begin(channel, from_sequence, id_prefix, "")
            .await
            .unwrap()
    }

    async fn try_begin(
        channel: &Channel,
        from_sequence: i64,
        id_prefix: &str,
        token: &str,
    ) -> Result<Self, Status> {
        let request = WatchTransactionsRequest {
            from_sequence,
            id_prefix: id_prefix.to_owned(),
        };
        let mut client = TransactionServiceClient::new(channel.clone());
        let responses = client.watch_transactions(with_token(token, request)).await?;
        Ok(Watched {
            responses: responses.into_inner(),
            durable: from_sequence.max(1) - 1,
            received: Vec::new(),
        })
    }

    /// Receives one response, and checks its sequences.
    async fn receive(&mut self) -> Result<usize, Status> {
        let response = tokio::time::timeout(WAIT_MAX, self.responses.message()).await;
        let response = response
            .expect("a response arrives")?
            .expect("a watch has no end");
        let count = response.transactions.len();
        for transaction in response.transactions {
            let sequence = sequence_of(&transaction);
            let before = self.received.last().map_or(0, sequence_of);
            assert!(
                sequence > before && sequence > self.durable,
                "{sequence} after {before}"
            );
            assert!(sequence <= response.durable_sequence, "{sequence}");
            self.received.push(transaction);
        }
        assert!(response.durable_sequence >= self.durable);
        self.durable = response.durable_sequence;
        Ok(count)
    }

    /// Receives everything up to a sequence.
    async fn up_to(&mut self, sequence: i64) {
        while self.durable < sequence {
            self.receive().await.unwrap();
        }
    }

    /// Receives everything up to a sequence. If the service ends the watch because it was not read, resumes with another watch.
    async fn up_to_with_resumes(&mut self, sequence: i64, channel: &Channel) {
        while self.durable < sequence {
            if let Err(status) = self.receive().await {
                assert_eq!(summary(&status), too_slow());
                let resumed = Self::begin(channel, self.durable + 1, "").await;
                self.responses = resumed.responses;
            }
        }
    }

    /// Waits for the error that ends the watch.
    async fn end(mut self) -> (Status, i64) {
        loop {
            if let Err(status) = self.receive().await {
                return (status, self.durable + 1);
            }
        }
    }
}

fn sequence_of(transaction: &Transaction) -> i64 {
    match &transaction.outcome {
        Some(Outcome::Committed(committed)) => committed.sequence,
        other => panic!("{other:?}"),
    }
}

fn too_slow() -> (Code, String, String) {
    expected(Code::Unavailable, "WATCH_TOO_SLOW", "false")
}

/// Connects with a window that has no room for a frame with many transactions. So a watch that is not read holds memory of the service.
async fn small_windows(service: &Service) -> Channel {
    let endpoint = Endpoint::from_shared(service.endpoint()).unwrap();
    endpoint.initial_stream_window_size(4096).connect().await.unwrap()
}

/// Transactions that take 1 KiB each.
fn large_pays(name: &str, count: usize) -> Vec<ProcessTransactionRequest> {
    let mut transactions = pays(name, count);
    for transaction in &mut transactions {
        transaction.metadata.insert("text".to_owned(), "x".repeat(1000));
    }
    transactions
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Reads the ledger with `ListTransactions`.
async fn ledger(channel: &Channel, id_prefix: &str, token: &str) -> Vec<Transaction> {
    let mut client = TransactionServiceClient::new(channel.clone());
    let mut request = ListTransactionsRequest {
        id_prefix: id_prefix.to_owned(),
        page_size: 1000,
        ..ListTransactionsRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_transactions(with_token(token, request.clone())).await;
        let page = page.unwrap().into_inner();
        all.extend(page.transactions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

async fn write(channel: &Channel, transactions: Vec<ProcessTransactionRequest>) {
    let mut client = TransactionServiceClient::new(channel.clone());
    let request = ProcessTransactionsRequest { transactions };
    let results = client
        .process_transactions(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    for result in results {
        let outcome = result.outcome.unwrap();
        assert!(
            matches!(outcome, tally::proto::transaction_result::Outcome::Committed(_)),
            "{outcome:?}"
        );
    }
}

async fn start() -> (Service, Channel) {
    start_with(NetConfig::default()).await
}

async fn start_with(limits: NetConfig) -> (Service, Channel) {
    let security = Arc::new(Security::default());
    let service = Service::start_limited(SimDisk::new(1), &patient_config(), security, limits).await;
    service.open_accounts(&["a", "b"]).await;
    let channel = service.channel().await;
    (service, channel)
}

fn pays(name: &str, count: usize) -> Vec<ProcessTransactionRequest> {
    (0..count)
        .map(|number| pay(&format!("{name}-{number}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_catch_up_while_others_write_get_the_ledger() {
    const WRITERS: i64 = 3;
    const BATCHES: i64 = 60;
    const BATCH: usize = 25;
    let last = WRITERS * BATCHES * BATCH as i64;
    let (service, channel) = start().await;
    let mut writing = JoinSet::new();
    for writer in 0..WRITERS {
        let channel = service.channel().await;
        writing.spawn(async move {
            for batch in 0..BATCHES {
                write(&channel, pays(&format!("w{writer}-{batch}"), BATCH)).await;
            }
        });
    }
    let mut watching = JoinSet::new();
    for (number, prefix) in ["", "w1-", "", "w2-7", "", "nothing"].into_iter().enumerate() {
        // Some watches begin in the middle of the writes.
        while service.engine.stats().ledger.committed < number as u64 * 500 {
            tokio::task::yield_now().await;
        }
        let channel = channel.clone();
        watching.spawn(async move {
            let mut watched = Watched::begin(&channel, 0, prefix).await;
            watched.up_to(last).await;
            (prefix, watched.received)
        });
    }
    while let Some(written) = writing.join_next().await {
        written.unwrap();
    }
    let all = ledger(&channel, "", "").await;
    let sequences: Vec<i64> = all.iter().map(sequence_of).collect();
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    while let Some(watched) = watching.join_next().await {
        let (prefix, received) = watched.unwrap();
        assert_eq!(received, ledger(&channel, prefix, "").await, "{prefix:?}");
    }
}

#[tokio::test]
async fn a_watch_resumes_at_any_sequence_from_the_journal_and_from_memory() {
    let (_service, channel) = start().await;
    // These transactions are only in the journal when the first watcher comes.
    for count in [1, 7, 2] {
        write(&channel, pays(&format!("old{count}"), count)).await;
    }
    let mut first = Watched::begin(&channel, 11, "").await;
    // These transactions, in two blocks, are also in memory.
    for count in [6, 4] {
        write(&channel, pays(&format!("new{count}"), count)).await;
    }
    first.up_to(20).await;
    let all = ledger(&channel, "", "").await;
    assert_eq!(first.received, all[10..]);
    for from in 0..=21 {
        let mut watched = Watched::begin(&channel, from, "").await;
        watched.up_to(20).await;
        let expected = &all[usize::try_from(from.max(1) - 1).unwrap()..];
        assert_eq!(watched.received, expected, "from {from}");
    }
    for (from, prefix, field) in [
        (22, "", "from_sequence"),
        (-1, "", "from_sequence"),
        (1, "#", "id_prefix"),
    ] {
        let refused = Watched::try_begin(&channel, from, prefix, "").await;
        let status = refused.err().expect("an invalid request");
        assert_eq!(
            summary(&status),
            expected(Code::InvalidArgument, "INVALID_FIELD", "false")
        );
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

#[tokio::test]
async fn an_idle_watch_begins_at_once_and_sends_heartbeats() {
    let (_service, channel) = start().await;
    let mut watched = Watched::begin(&channel, 0, "none").await;
    assert_eq!(watched.receive().await.unwrap(), 0);
    assert_eq!(watched.durable, 0);
    write(&channel, pays("t", 3)).await;
    // A heartbeat states the sequence up to which a filtered watch is complete.
    watched.up_to(3).await;
    assert!(watched.received.is_empty());
    assert_eq!(watched.receive().await.unwrap(), 0);
}

#[tokio::test]
async fn a_large_transaction_is_one_response() {
    let (_service, channel) = start().await;
    let mut live = Watched::begin(&channel, 0, "").await;
    let large = |id: &str| transaction(id, vec![transfer("a", "b", 1); 256]);
    for id in ["one", "two", "three"] {
        write(&channel, vec![pay(&format!("before-{id}")), large(id)]).await;
    }
    live.up_to(6).await;
    let mut late = Watched::begin(&channel, 0, "").await;
    late.up_to(6).await;
    let all = ledger(&channel, "", "").await;
    assert_eq!(live.received, all);
    assert_eq!(late.received, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_delays_nobody_and_gets_everything_later() {
    // These transactions take more memory than the window of the service: each has metadata of 1 KiB.
    const BATCHES: usize = 50;
    const BATCH: usize = 400;
    let last = (BATCHES * BATCH) as i64;
    let (service, channel) = start().await;
    let mut slow = Watched::begin(&small_windows(&service).await, 0, "").await;
    let mut live = Watched::begin(&channel, 0, "").await;
    let writing = tokio::spawn({
        let channel = service.channel().await;
        async move {
            for batch in 0..BATCHES {
                write(&channel, large_pays(&format!("{batch}"), BATCH)).await;
            }
        }
    });
    live.up_to(last).await;
    writing.await.unwrap();
    assert_eq!(live.received.len() as i64, last);
    assert!(slow.received.is_empty());
    drop(live.responses);
    slow.up_to_with_resumes(last, &channel).await;
    assert_eq!(slow.received, live.received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_not_read_end_give_back_their_places_and_can_go_on() {
    const CHANNELS: usize = 8;
    // These transactions take more than a large page of the journal.
    const BATCHES: usize = 4;
    const BATCH: usize = 400;
    let last = (BATCHES * BATCH) as i64;
    let (service, channel) = start_with(NetConfig {
        message_time_max: Duration::from_secs(2),
        ..NetConfig::default()
    })
    .await;
    for batch in 0..BATCHES {
        write(&channel, large_pays(&format!("{batch}"), BATCH)).await;
    }
    let mut live = Watched::begin(&channel, last + 1, "").await;
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(small_windows(&service).await);
    }
    let mut unread = Vec::new();
    for number in 1..OF_CLIENT_MAX {
        unread.push(Watched::begin(&channels[number % CHANNELS], 0, "").await);
    }
    // All places of the client are in use. They all become free, although the client does not read.
    let mut others = Vec::new();
    while others.len() < unread.len() {
        match Watched::try_begin(&channel, 0, "none", "").await {
            Ok(watched) => others.push(watched),
            Err(status) => {
                // Unread pages also hold the client's memory.
                let reasons = ["TOO_MANY_WATCHERS", "MEMORY_LIMIT"];
                let full = reasons.map(|reason| expected(Code::ResourceExhausted, reason, "false"));
                assert!(full.contains(&summary(&status)), "{status:?}");
                live.receive().await.unwrap();
            }
        }
    }
    drop(others);
    for watched in unread.drain(1..) {
        let (status, next) = watched.end().await;
        assert_eq!(summary(&status), too_slow());
        assert_eq!(info(&status).metadata["from_sequence"], next.to_string());
    }
    let mut first = unread.pop().unwrap();
    first.up_to_with_resumes(last, &channel).await;
    assert_eq!(first.received, ledger(&channel, "", "").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_get_everything_and_further_ones_are_refused() {
    const CHANNELS: usize = 8;
    let (service, channel) = start().await;
    write(&channel, pays("before", 10)).await;
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(service.channel().await);
    }
    let mut watching = Vec::new();
    for number in 0..OF_CLIENT_MAX {
        watching.push(Watched::begin(&channels[number % CHANNELS], 1, "").await);
    }
    let refused = Watched::try_begin(&channel, 1, "", "").await;
    assert_eq!(
        summary(&refused.err().expect("too many watchers")),
        expected(Code::ResourceExhausted, "TOO_MANY_WATCHERS", "false")
    );
    for batch in 0..10 {
        write(&channel, pays(&format!("after{batch}"), 10)).await;
    }
    let all = ledger(&channel, "", "").await;
    assert_eq!(all.len(), 110);
    for watched in &mut watching {
        watched.up_to(110).await;
        assert_eq!(watched.received, all);
    }
    drop(watching.pop());
    // The place of a watch is free when the service notices its end.
    while Watched::try_begin(&channel, 1, "", "").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_drain_ends_watches_with_an_error_that_says_where_to_resume() {
    let (service, channel) = start().await;
    write(&channel, pays("before", 40)).await;
    let mut watched = Watched::begin(&channel, 3, "").await;
    watched.up_to(40).await;
    service.begin_drain();
    let (status, next) = watched.end().await;
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
    let metadata = info(&status).metadata;
    assert_eq!(
        (&*metadata["retry"], &*metadata["from_sequence"]),
        ("same_id", "41")
    );
    assert_eq!(next, 41);
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
    drop(channel);
    let service = Service::start_on(service.stop().await, &config()).await;
    let channel = service.channel().await;
    let mut watched = Watched::begin(&channel, next, "").await;
    write(&channel, pays("after", 5)).await;
    watched.up_to(45).await;
    assert_eq!(watched.received, ledger(&channel, "", "").await[40..]);
}

#[tokio::test]
async fn a_failed_store_ends_watches() {
    let (service, channel) = start().await;
    write(&channel, pays("kept", 2)).await;
    let mut watched = Watched::begin(&channel, 0, "").await;
    watched.up_to(2).await;
    let segment = Path::new("/data/journal/0000000000.segment");
    service.disk.fail_syncs_of(segment);
    let mut client = TransactionServiceClient::new(channel);
    client.process_transaction(pay("doubtful")).await.unwrap_err();
    let (status, next) = watched.end().await;
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "STORE_FAILED", "false")
    );
    assert_eq!(next, 3, "what is not durable is not shown");
}

/// Starts a service with the tokens of this file.
async fn secured(tokens: &Path) -> (Service, Arc<Security>) {
    let text = format!(
        "admin root {}\nread tenant {} prefix=acme/\n",
        hash_hex(ADMIN.as_bytes()),
        hash_hex(TENANT.as_bytes())
    );
    std::fs::write(tokens, text).unwrap();
    let security = Security::load(&SecurityConfig {
        tokens: Some(tokens.to_owned()),
        ..SecurityConfig::default()
    });
    let security = Arc::new(security.unwrap());
    let service = Service::start_secured(SimDisk::new(1), &config(), Arc::clone(&security)).await;
    (service, security)
}

#[tokio::test]
async fn a_tenant_sees_its_own_transactions_without_foreign_ids_until_its_token_is_revoked() {
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    let (service, security) = secured(&tokens).await;
    let channel = service.channel().await;
    let mut accounts = service.accounts().await;
    for id in ["acme/a", "acme/b", "bank"] {
        let request = CreateAccountRequest {
            account: Some(account(id)),
        };
        accounts.create_account(with_token(ADMIN, request)).await.unwrap();
    }
    let mut live = Watched::try_begin(&channel, 0, "", TENANT).await.unwrap();
    let hold = |id: &str, debit: &str, credit: &str| ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        pending_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        ..transaction(id, vec![transfer(debit, credit, 5)])
    };
    let mut client = TransactionServiceClient::new(channel.clone());
    for request in [
        transaction("acme/own", vec![transfer("acme/a", "acme/b", 1)]),
        transaction(
            "acme/mixed",
            vec![transfer("bank", "acme/b", 2), transfer("acme/a", "bank", 1)],
        ),
        transaction("acme2/other", vec![transfer("acme/a", "acme/b", 3)]),
        transaction("other", vec![transfer("bank", "acme/b", 4)]),
        hold("acme/hold", "bank", "acme/b"),
        hold("foreign-hold", "bank", "acme/b"),
    ] {
        client
            .process_transaction(with_token(ADMIN, request))
            .await
            .unwrap();
    }
    // Each transaction is in a later block, until both holds have expired.
    let mut number = 0;
    while ledger(&channel, "", ADMIN).await.len() < 8 + number {
        number += 1;
        let request = transaction(
            &format!("acme/tick{number}"),
            vec![transfer("acme/a", "acme/b", 1)],
        );
        client
            .process_transaction(with_token(ADMIN, request))
            .await
            .unwrap();
    }
    let last = sequence_of(ledger(&channel, "", ADMIN).await.last().unwrap());
    let mut late = Watched::try_begin(&channel, 0, "", TENANT).await.unwrap();
    let mut narrow = Watched::try_begin(&channel, 0, "acme/hold", TENANT)
        .await
        .unwrap();
    for watched in [&mut live, &mut late, &mut narrow] {
        watched.up_to(last).await;
    }
    let visible = ledger(&channel, "", TENANT).await;
    assert_eq!(live.received, visible);
    assert_eq!(late.received, visible);
    assert_eq!(narrow.received, ledger(&channel, "acme/hold", TENANT).await);
    assert_eq!(narrow.received.len(), 2, "the hold and its expiry");
    let text = format!("{visible:?}");
    for foreign in ["bank", "acme2/", "other", "foreign"] {
        assert!(!text.contains(foreign), "{foreign} in {text}");
    }

    std::fs::write(&tokens, format!("admin root {}\n", hash_hex(ADMIN.as_bytes()))).unwrap();
    security.refresh(RefreshKind::Immediate);
    let (status, _) = live.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test]
async fn the_client_of_the_service_gives_up_when_its_policy_does() {
    let (service, channel) = start().await;
    write(&channel, pays("t", 30)).await;
    let client = Client::connect(&service.endpoint()).await.unwrap();
    let policy = tally::client::RetryPolicy {
        attempts_max: 2,
        ..tally::client::RetryPolicy::default()
    };
    let mut watch = client.with_retry(policy).watch_transactions(21, "t-2");
    let mut received = Vec::new();
    while watch.next_sequence() <= 30 {
        received.extend(watch.next().await.unwrap().transactions);
    }
    let expected = ledger(&channel, "t-2", "").await;
    assert_eq!(
        received,
        expected[1..],
        "t-2 has the sequence 3, and the others 21 to 30"
    );
    drop(channel);
    service.stop().await;
    let error = loop {
        if let Err(error) = watch.next().await {
            break error;
        }
    };
    assert_eq!(error.attempts(), 2, "{error}");
    assert_eq!(watch.next_sequence(), 31);
}
