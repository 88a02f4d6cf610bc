//! Tests of open streams: what happens if their client does not read or cancels, how much of a batch they may fill, and
//! how they end.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tally::{
    engine::{CallKind, EngineConfig, OwnedKey},
    proto::{
        CreateAccountRequest, StreamTransactionsRequest, StreamTransactionsResponse,
        transaction_result::Outcome, transaction_service_client::TransactionServiceClient,
    },
    security::{RefreshKind, Security, SecurityConfig, hash_hex},
};
use tally_batch::BatchConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    circuits::{ManualClockService, TICK, breaker_with_long_threshold},
    deadlines::start_with_waiting_exec_and,
};
use crate::support::{
    in_process::{Service, account, patient_config, pay},
    sim_disk::SimDisk,
};

/// Maximum time to wait for an event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn message(id: &str) -> StreamTransactionsRequest {
    StreamTransactionsRequest {
        transaction: Some(pay(id)),
    }
}

async fn next(answers: &mut Streaming<StreamTransactionsResponse>) -> Result<Option<Outcome>, Status> {
    let answer = tokio::time::timeout(WAIT_MAX, answers.message()).await;
    let answer = answer.expect("an answer or the end of the stream arrives in time")?;
    Ok(answer.map(|answer| answer.result.unwrap().outcome.unwrap()))
}

async fn assert_committed(answers: &mut Streaming<StreamTransactionsResponse>) {
    let outcome = next(answers).await.unwrap();
    assert!(matches!(outcome, Some(Outcome::Committed(_))), "{outcome:?}");
}

/// Waits until the condition is true. Returns false if it is still false after [`WAIT_MAX`].
async fn becomes_true(condition: impl Fn() -> bool) -> bool {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting).await.is_ok()
}

fn answers_in_flight(service: &Service) -> u64 {
    service.engine.breaker(CallKind::Stream).stats().in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_stops_reading_opens_no_circuit() {
    const CHUNKS: u64 = 4;
    let fixture = ManualClockService::start(breaker_with_long_threshold()).await;
    let service = &fixture.service;
    service.disk.stall_syncs();
    // The flow-control window is one byte, so the server can't send the answers while the client does not read.
    let channel = Endpoint::from_shared(service.endpoint()).unwrap();
    let channel = channel.initial_stream_window_size(1).connect().await.unwrap();
    let mut client = TransactionServiceClient::new(channel);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let unread = client.stream_transactions(ReceiverStream::new(receiver)).await;
    let mut unread = unread.unwrap().into_inner();
    for number in 1..=CHUNKS {
        sender.send(message(&format!("unread{number}"))).await.unwrap();
        assert!(becomes_true(|| answers_in_flight(service) == number).await);
    }
    service.disk.release_syncs();
    let committed = || service.engine.stats().ledger.committed == CHUNKS;
    assert!(becomes_true(committed).await);
    let answered = becomes_true(|| answers_in_flight(service) == 0).await;

    let circuit = service.engine.breaker(CallKind::Stream);
    let thresholds = circuit.config().slow_threshold * 4;
    for _ in 0..thresholds.as_nanos() / TICK.as_nanos() {
        fixture.tick();
    }
    for circuit in service.engine.circuits() {
        assert_eq!(circuit.stats().lifetime.opens, 0, "{} has opened", circuit.key());
    }
    assert!(answered, "the circuit counts answered chunks as in flight");
    let counted = circuit.stats().lifetime;
    assert_eq!(
        (counted.successes, counted.slow, counted.cancelled),
        (CHUNKS, 0, 0)
    );

    let mut other = service.transactions().await;
    let answers = other.stream_transactions(tokio_stream::iter([message("other")]));
    let mut answers = answers.await.unwrap().into_inner();
    assert_committed(&mut answers).await;
    // The client reads now, and must find all answers.
    drop(sender);
    for _ in 0..CHUNKS {
        assert_committed(&mut unread).await;
    }
    assert_eq!(next(&mut unread).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_stream_withdraws_its_queued_requests() {
    let (service, calls) = start_with_waiting_exec_and(&patient_config()).await;
    let depth = service.engine.stats().batch.queue_depth;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = service.transactions().await;
    let answers = client.stream_transactions(ReceiverStream::new(receiver)).await;
    sender.send(message("given-up")).await.unwrap();
    assert!(becomes_true(|| service.engine.stats().batch.queue_depth > depth).await);
    drop((answers, client, sender));
    assert!(becomes_true(|| service.engine.stats().batch.cancelled == 1).await);
    assert_eq!(answers_in_flight(&service), 0);
    service.disk.release_syncs();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let key = OwnedKey::Transaction("given-up".to_owned());
    let client = IpAddr::from([127, 0, 0, 1]).into();
    let booked = service.engine.record(key, &client, None).await;
    assert!(booked.unwrap().is_none());
}

/// The requests of a stream are submitted long after the start of the call. They must still count for the client of the
/// connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_no_more_than_its_clients_share_of_a_batch() {
    // The stream is submitted in at least two chunks. Each chunk has more transactions than the client's share of a
    // batch, which is 81.
    const MESSAGES: usize = 2048;
    let (service, calls) = start_with_waiting_exec_and(&EngineConfig {
        batch: BatchConfig {
            client_share_percent: 1,
            ..BatchConfig::default()
        },
        ..patient_config()
    })
    .await;
    // One request of another client is in the queue.
    let depth = service.engine.stats().batch.queue_depth;
    let mut client = service.transactions().await;
    let messages = (0..MESSAGES).map(|number| message(&format!("s{number}")));
    let answers = client.stream_transactions(tokio_stream::iter(messages)).await;
    let mut answers = answers.unwrap().into_inner();
    assert!(becomes_true(|| service.engine.stats().batch.queue_depth >= depth + 2).await);
    service.disk.release_syncs();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    for _ in 0..MESSAGES {
        assert_committed(&mut answers).await;
    }
    assert!(
        service.engine.stats().batch.held_back > 0,
        "the stream took the whole batch while another client waited"
    );
}

/// The client has sent its last message before the drain, so the service must end the call successfully after the last
/// answer.
#[tokio::test]
async fn a_stream_that_was_read_to_its_end_succeeds_while_the_service_drains() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let stream = tokio::net::TcpStream::connect(service.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    // The frame of the only message also ends the client's side of the call.
    let message = message("last").encode_to_vec();
    let mut frame = vec![0; 5];
    frame[1..].copy_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let path = "tally.v1.TransactionService/StreamTransactions";
    let request = http::Request::post(format!("{}/{path}", service.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(becomes_true(|| answers_in_flight(&service) == 1).await);
    service.begin_drain();
    service.disk.release_syncs();
    let body = tokio::time::timeout(WAIT_MAX, response.into_body().collect()).await;
    let body = body.expect("the stream ends").unwrap();
    let status = Status::from_header_map(body.trailers().unwrap()).unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let answer = StreamTransactionsResponse::decode(&body.to_bytes()[5..]).unwrap();
    let outcome = answer.result.unwrap().outcome.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    service.stop().await;
}

/// The token is invalid for a moment, and the service stops reading the stream. The stream must end with an error,
/// because otherwise the client would assume that its unread messages were executed.
#[tokio::test]
async fn a_stream_whose_token_is_valid_again_reports_that_it_was_not_read_to_its_end() {
    const TOKEN: &str = "token-of-the-writer";
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    let line = format!("write writer {}\n", hash_hex(TOKEN.as_bytes()));
    std::fs::write(&tokens, &line).unwrap();
    let security = Arc::new(
        Security::load(&SecurityConfig {
            tokens: Some(tokens.clone()),
            ..SecurityConfig::default()
        })
        .unwrap(),
    );
    let disk = SimDisk::new(1);
    let service = Service::start_secured(disk, &patient_config(), Arc::clone(&security)).await;
    let mut accounts = service.accounts().await;
    for id in ["a", "b"] {
        accounts
            .create_account(with_token(
                TOKEN,
                CreateAccountRequest {
                    account: Some(account(id)),
                },
            ))
            .await
            .unwrap();
    }
    service.disk.stall_syncs();
    let channel = service.channel().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut client = TransactionServiceClient::new(channel.clone());
    let request = with_token(TOKEN, ReceiverStream::new(receiver));
    let answers = client.stream_transactions(request).await;
    let mut answers = answers.unwrap().into_inner();
    sender.send(message("first")).await.unwrap();
    assert!(becomes_true(|| answers_in_flight(&service) == 1).await);

    let replace = |text: &str| {
        put(&tokens, text);
        security.refresh(RefreshKind::Immediate);
    };
    replace("");
    // The same thread of the service answers these two calls. After that, the thread has polled the stream.
    let mut health = HealthClient::new(channel);
    for _ in 0..2 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    replace(&line);
    sender.send(message("second")).await.unwrap();
    service.disk.release_syncs();
    assert_committed(&mut answers).await;
    let ended = next(&mut answers).await;
    assert_eq!(ended.map_err(|status| status.code()), Err(Code::Unauthenticated));
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Replaces the content of a file atomically.
fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}
