//! Streams of many short messages, each in a DATA frame of its own. The HTTP/2 library h2 ends a connection whose short frames nobody
//! reads in time, so both sides must take them as soon as they arrive. A client that sends only frames without a message loses its
//! connection.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use prost::Message;
use tally::{
    client::Client,
    proto::{StreamTransactionsRequest, WatchTransactionsResponse},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::support::in_process::{Service, patient_config, pay};

/// Number of messages of a stream.
const MESSAGES: usize = 200_000;
/// Number of messages that are sent while the other side does not read. They fit into the flow-control window of the stream.
const UNREAD: usize = 10_000;
/// Number of heartbeats that are sent while the client does not read. They fit into the flow-control window of the client.
const UNREAD_HEARTBEATS: usize = 100_000;
/// Number of frames that are too short for the header of a message. The server ends the connection before it has read this number.
const FLOOD: usize = 20_000;
/// Number of empty frames: more than the HTTP/2 library allows, and few enough to arrive at once. Otherwise the client could lose the
/// reason, because the library does not read the rest.
const EMPTY_FRAMES: usize = 150;
/// Length of the header of a gRPC message, in bytes.
const HEADER_BYTES: usize = 5;
/// Flow-control window of the client: the server never waits for it.
const WINDOW_BYTES: u32 = 1 << 30;

/// An HTTP/2 connection that sends each message in a frame of its own.
struct Peer {
    sender: SendRequest<Bytes>,
    pings: PingPong,
    connection: JoinHandle<Result<(), h2::Error>>,
    address: SocketAddr,
}

/// A call of `StreamTransactions`.
struct Call {
    frames: SendStream<Bytes>,
    /// Counts the answers to the end of the call.
    answers: JoinHandle<(usize, String)>,
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

fn short_message() -> Bytes {
    let request = StreamTransactionsRequest {
        transaction: Some(pay("s")),
    };
    framed(&request.encode_to_vec())
}

/// Sends one frame, as soon as the flow control allows it.
async fn send(frames: &mut SendStream<Bytes>, frame: &Bytes) -> Result<(), h2::Error> {
    while frames.capacity() < frame.len() {
        frames.reserve_capacity(64 << 10);
        match poll_fn(|context| frames.poll_capacity(context)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(Reason::STREAM_CLOSED.into()),
        }
    }
    frames.send_data(frame.clone(), false)
}

/// Reads a body, and returns the number of its messages and its status.
async fn count(mut body: RecvStream) -> (usize, String) {
    let (mut messages, mut arrived) = (0, BytesMut::new());
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        arrived.extend_from_slice(&data);
        while let Some(length) = arrived.get(1..HEADER_BYTES) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if arrived.len() < HEADER_BYTES + length {
                break;
            }
            arrived.advance(HEADER_BYTES + length);
            messages += 1;
        }
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    let status = trailers["grpc-status"].to_str().unwrap().to_owned();
    (messages, status)
}

impl Peer {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await
            .unwrap();
        let pings = connection.ping_pong().unwrap();
        Peer {
            sender,
            pings,
            connection: tokio::spawn(connection),
            address,
        }
    }

    async fn call(&mut self) -> Call {
        let uri = format!(
            "http://{}/tally.v1.TransactionService/StreamTransactions",
            self.address
        );
        let request = Request::post(uri)
            .header("content-type", "application/grpc")
            .body(());
        poll_fn(|context| self.sender.poll_ready(context)).await.unwrap();
        let (response, frames) = self.sender.send_request(request.unwrap(), false).unwrap();
        let answers = tokio::spawn(async move { count(response.await.unwrap().into_body()).await });
        Call { frames, answers }
    }

    /// Waits until the other side has received everything that was sent before.
    async fn flush(&mut self) {
        self.pings.ping(Ping::opaque()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_short_messages_is_answered_although_the_service_reads_late() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut peer = Peer::connect(service.address()).await;
    let mut call = peer.call().await;
    let message = short_message();
    // The first chunks wait for the disk, so the service does not read the other messages.
    service.disk.stall_syncs();
    for _ in 0..UNREAD {
        send(&mut call.frames, &message).await.unwrap();
    }
    peer.flush().await;
    service.disk.release_syncs();
    for _ in UNREAD..MESSAGES {
        send(&mut call.frames, &message).await.unwrap();
    }
    call.frames.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.answers.await.unwrap(), (MESSAGES, "0".to_owned()));

    // Messages without content, on the same connection: each is answered with an error.
    let mut call = peer.call().await;
    for _ in 0..FLOOD {
        send(&mut call.frames, &framed(&[])).await.unwrap();
    }
    call.frames.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.answers.await.unwrap(), (FLOOD, "0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_only_frames_without_a_message_loses_its_connection() {
    let service = Service::start(&patient_config()).await;
    // The second client sends one message of 60,000 bytes, one byte in each frame.
    for (frame, frames) in [(Bytes::new(), EMPTY_FRAMES), (Bytes::from_static(&[0]), FLOOD)] {
        let mut peer = Peer::connect(service.address()).await;
        let mut call = peer.call().await;
        call.answers.abort();
        call.frames
            .send_data(Bytes::from_static(&[0, 0, 0, 234, 96]), false)
            .unwrap();
        for _ in 0..frames {
            if send(&mut call.frames, &frame).await.is_err() {
                break;
            }
        }
        let ended = peer.connection.await.unwrap().unwrap_err();
        assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{ended}");
    }
    service.open_accounts(&["a", "b"]).await;
}

/// Answers every call of `WatchTransactions` with [`MESSAGES`] heartbeats, each in a frame of its own.
struct Heartbeats {
    endpoint: String,
    calls: Arc<AtomicUsize>,
    /// Ready when the client has received [`UNREAD_HEARTBEATS`] of them.
    received: oneshot::Receiver<()>,
}

impl Heartbeats {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let (sender, received) = oneshot::channel();
        let (mut sender, counter) = (Some(sender), Arc::clone(&calls));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut pings = connection.ping_pong();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let head = Response::builder()
                        .header("content-type", "application/grpc")
                        .body(());
                    let body = respond.send_response(head.unwrap(), false).unwrap();
                    tokio::spawn(beat(body, pings.take(), sender.take()));
                }
            }
        });
        Heartbeats {
            endpoint,
            calls,
            received,
        }
    }
}

async fn beat(mut body: SendStream<Bytes>, pings: Option<PingPong>, received: Option<oneshot::Sender<()>>) {
    let mut pings = pings.zip(received);
    for number in 1..=MESSAGES {
        let heartbeat = WatchTransactionsResponse {
            durable_sequence: i64::try_from(number).unwrap(),
            ..WatchTransactionsResponse::default()
        };
        if send(&mut body, &framed(&heartbeat.encode_to_vec()))
            .await
            .is_err()
        {
            return;
        }
        if number == UNREAD_HEARTBEATS
            && let Some((mut pings, received)) = pings.take()
        {
            // An error means that the client has ended the connection, which the client's side of the test shows.
            let _answered = pings.ping(Ping::opaque()).await;
            received.send(()).unwrap();
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    body.send_trailers(trailers).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_short_answers_late_gets_all_of_them() {
    let server = Heartbeats::start().await;
    let client = Client::connect(&server.endpoint).await.unwrap();
    let mut watch = client.watch_transactions(1, "");
    let mut last = watch.next().await.unwrap().durable_sequence;
    server.received.await.unwrap();
    for _ in 1..MESSAGES {
        let next = watch.next().await.unwrap().durable_sequence;
        assert_eq!(next, last + 1);
        last = next;
    }
    assert_eq!(
        server.calls.load(Ordering::Relaxed),
        1,
        "the client has connected again"
    );
}
