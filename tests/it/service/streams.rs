//! Tests that a stream has no gaps: if a transaction of a stream is not executed, no later transaction of the stream is
//! executed.

use std::{path::Path, time::Duration};

use tally::proto::{
    GetTransactionRequest, StreamTransactionsRequest, TransactionResult, transaction_result::Outcome,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Streaming};

use crate::support::in_process::{Service, patient_config, pay};

fn message(id: &str) -> StreamTransactionsRequest {
    StreamTransactionsRequest {
        transaction: Some(pay(id)),
    }
}

async fn next(answers: &mut Streaming<tally::proto::StreamTransactionsResponse>) -> TransactionResult {
    let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await;
    answer
        .expect("an answer arrives in time")
        .unwrap()
        .unwrap()
        .result
        .unwrap()
}

/// Returns the reason of an error, and whether the transaction was executed; `None` if the transaction was committed.
fn error(result: TransactionResult) -> Option<(String, String)> {
    let Outcome::Error(status) = result.outcome.unwrap() else {
        return None;
    };
    let status = tonic::Status::with_details(
        Code::from(status.code),
        status.message.clone(),
        prost::Message::encode_to_vec(&status).into(),
    );
    let (_, reason, executed) = super::summary(&status);
    Some((reason, executed))
}

/// The record of a transaction can't be read, so its outcome is unknown. No later transaction of the stream may be
/// executed, because it may depend on this transaction.
#[tokio::test]
async fn after_a_transaction_whose_record_cant_be_read_none_is_executed() {
    const OLD: &str = "an-id-that-occurs-once";
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay(OLD)).await.unwrap();
    client.process_transaction(pay("another")).await.unwrap();
    let segment = Path::new("/data/journal/0000000000.segment");
    let contents = service.disk.contents(segment);
    let offset = contents
        .windows(OLD.len())
        .position(|window| window == OLD.as_bytes());
    service.disk.flip_bit(segment, 8 * offset.unwrap() as u64);

    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let stream = ReceiverStream::new(receiver);
    let mut answers = client.stream_transactions(stream).await.unwrap().into_inner();
    let mut errors = Vec::new();
    for id in ["s0", OLD, "s2", "s3"] {
        sender.send(message(id)).await.unwrap();
        errors.push(error(next(&mut answers).await));
    }
    assert_eq!(errors[0], None);
    let unknown = errors[1].as_ref().expect("the record can't be read");
    assert_eq!(unknown.1, "unknown");
    let interrupted = Some(("STREAM_INTERRUPTED".to_owned(), "false".to_owned()));
    assert_eq!(errors[2..], [interrupted.clone(), interrupted]);
    for (id, known) in [("s0", true), ("s2", false), ("s3", false)] {
        let transaction_id = id.to_owned();
        let found = client
            .get_transaction(GetTransactionRequest {
                transaction_id,
                ..GetTransactionRequest::default()
            })
            .await;
        assert_eq!(found.is_ok(), known, "{id}");
    }
}

/// The average commit takes longer than the deadline of the stream, so EXEC rejects chunks of the stream. Each
/// rejection lowers the average. So EXEC could execute a later chunk after it has rejected an earlier one, which it
/// must not do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_a_short_deadline_has_no_gaps() {
    const COUNT: usize = 4096;
    const DEADLINE: Duration = Duration::from_millis(700);
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    // Restart the service, so that the average consists only of the slow commit that follows.
    let disk = service.stop().await;
    disk.restart();
    let service = Service::start_on(disk, &patient_config()).await;
    service.disk.stall_syncs();
    let mut client = service.transactions().await;
    let slow = tokio::spawn(async move { client.process_transaction(pay("slow")).await });
    let disk = service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
    tokio::time::sleep(DEADLINE).await;

    let messages = (0..COUNT).map(|number| message(&format!("s{number}")));
    let mut request = Request::new(tokio_stream::iter(messages));
    request.set_timeout(DEADLINE);
    let mut client = service.patient_transactions().await;
    let began = tokio::time::Instant::now();
    let stream = tokio::spawn(async move {
        let mut answers = client.stream_transactions(request).await.unwrap().into_inner();
        let mut errors = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            errors.push(error(next(&mut answers).await));
        }
        errors
    });
    // Wait for the maximum number of chunks in flight, or until all messages were sent.
    while service.engine.stats().batch.queue_depth < 8 && began.elapsed() < DEADLINE / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    service.disk.release_syncs();
    slow.await.unwrap().unwrap();
    let errors = stream.await.unwrap();
    let executed = errors
        .iter()
        .take_while(|error| !matches!(error, Some((_, executed)) if executed == "false"))
        .count();
    let first_error = errors.get(executed).cloned().flatten();
    for (number, error) in errors.iter().enumerate().skip(executed) {
        assert_eq!(
            *error, first_error,
            "message {number}, with a gap before it at {executed}"
        );
    }
}
