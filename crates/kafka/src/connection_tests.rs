use tokio::io::DuplexStream;

use super::*;
use crate::messages::{METADATA, PRODUCE};

const LIMIT: Duration = Duration::from_secs(10);
const FRAME_BYTES_MAX: usize = 1000;

/// Connects a client with a peer, which the test simulates.
fn connected(in_flight_max: usize) -> (Connection, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let bounds = Bounds {
        client_id: "c".to_owned(),
        in_flight_max,
        frame_bytes_max: FRAME_BYTES_MAX,
        request_timeout: LIMIT,
    };
    let connection = Connection::start(Box::new(near), "broker:1".to_owned(), bounds);
    (connection, far)
}

fn send(connection: &Connection, body: &'static str) -> Answer {
    connection
        .send(&PRODUCE, 7, vec![Bytes::from(body)], Duration::ZERO)
        .unwrap()
}

/// Reads a request. Returns its correlation id and its body.
async fn receive(peer: &mut DuplexStream) -> (i32, Vec<u8>) {
    let length = peer.read_i32().await.unwrap();
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    peer.read_exact(&mut frame).await.unwrap();
    let id = i32::from_be_bytes(frame[4..8].try_into().unwrap());
    assert_eq!(&frame[8..11], &[0, 1, b'c'], "the client id");
    (id, frame[11..].to_vec())
}

async fn answer(peer: &mut DuplexStream, id: i32, body: &[u8]) {
    peer.write_i32(4 + i32::try_from(body.len()).unwrap())
        .await
        .unwrap();
    peer.write_i32(id).await.unwrap();
    peer.write_all(body).await.unwrap();
}

fn is_malformed(outcome: &Result<Bytes, Error>) -> bool {
    matches!(outcome, Err(Error::Malformed { .. }))
}

fn is_closed(outcome: &Result<Bytes, Error>) -> bool {
    matches!(outcome, Err(Error::Closed { .. }))
}

#[tokio::test(start_paused = true)]
async fn requests_keep_their_order_and_get_their_own_answers() {
    let (connection, mut peer) = connected(3);
    let answers = [
        send(&connection, "a"),
        send(&connection, "b"),
        send(&connection, "c"),
    ];
    let mut ids = Vec::new();
    for expected in ["a", "b", "c"] {
        let (id, body) = receive(&mut peer).await;
        assert_eq!(body, expected.as_bytes());
        ids.push(id);
    }
    for (id, body) in ids.iter().zip(["A", "B", "C"]) {
        answer(&mut peer, *id, body.as_bytes()).await;
    }
    for (answer, expected) in answers.into_iter().zip(["A", "B", "C"]) {
        assert_eq!(answer.await, Ok(Bytes::from(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flexible_request_has_tagged_fields_in_its_header() {
    let (connection, mut peer) = connected(1);
    let _answer = connection.send(&METADATA, 12, vec![Bytes::from("x")], Duration::ZERO);
    assert_eq!(receive(&mut peer).await.1, [0, b'x']);
}

#[tokio::test(start_paused = true)]
async fn a_passed_time_limit_ends_the_connection() {
    let (connection, mut peer) = connected(3);
    let (first, second) = (send(&connection, "a"), send(&connection, "b"));
    let (id, _) = receive(&mut peer).await;
    let expected = Error::Timeout {
        endpoint: "broker:1".to_owned(),
        call: "Produce",
        limit: LIMIT,
    };
    let begin = Instant::now();
    assert_eq!(first.await, Err(expected.clone()));
    assert_eq!(begin.elapsed().as_secs(), LIMIT.as_secs());
    assert_eq!(second.await, Err(expected.clone()));
    // No request waits for the late answer, and the connection is closed.
    let late = [&8_i32.to_be_bytes()[..], &id.to_be_bytes(), b"late"].concat();
    assert!(peer.write_all(&late).await.is_err(), "the connection is closed");
    let outcome = connection.send(&PRODUCE, 7, vec![], Duration::ZERO);
    assert_eq!(outcome.map(|_| ()), Err(expected));
}

#[tokio::test(start_paused = true)]
async fn each_request_has_its_own_time_limit() {
    let (connection, mut peer) = connected(3);
    let begin = Instant::now();
    let long = connection
        .send(&PRODUCE, 7, vec![], Duration::from_secs(20))
        .unwrap();
    let short = send(&connection, "b");
    receive(&mut peer).await;
    assert!(matches!(short.await, Err(Error::Timeout { .. })));
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert!(matches!(long.await, Err(Error::Timeout { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_order_ends_the_connection() {
    let (connection, mut peer) = connected(3);
    let (first, second) = (send(&connection, "a"), send(&connection, "b"));
    receive(&mut peer).await;
    let (second_id, _) = receive(&mut peer).await;
    answer(&mut peer, second_id, b"B").await;
    assert!(is_malformed(&first.await));
    assert!(is_malformed(&second.await));
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_ends_the_connection() {
    let (connection, mut peer) = connected(3);
    let first = send(&connection, "a");
    let (id, _) = receive(&mut peer).await;
    answer(&mut peer, id, b"A").await;
    assert_eq!(first.await, Ok(Bytes::from("A")));
    answer(&mut peer, id, b"A").await;
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert!(matches!(connection.ending().reason(), Error::Malformed { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_end_in_the_middle_of_an_answer_fails_every_request() {
    for kept in 0..10 {
        let (connection, mut peer) = connected(3);
        let (first, second) = (send(&connection, "a"), send(&connection, "b"));
        let (id, _) = receive(&mut peer).await;
        let frame = [&7_i32.to_be_bytes()[..], &id.to_be_bytes(), b"abc"].concat();
        peer.write_all(&frame[..kept]).await.unwrap();
        drop(peer);
        assert!(is_closed(&first.await), "{kept} bytes");
        assert!(is_closed(&second.await), "{kept} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_arrive_byte_by_byte() {
    let (connection, mut peer) = connected(3);
    let first = send(&connection, "a");
    let (id, _) = receive(&mut peer).await;
    for byte in [&7_i32.to_be_bytes()[..], &id.to_be_bytes(), b"abc"].concat() {
        peer.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(first.await, Ok(Bytes::from("abc")));
}

#[tokio::test(start_paused = true)]
async fn a_frame_has_a_bound() {
    let bound = i32::try_from(FRAME_BYTES_MAX).unwrap();
    for length in [bound + 1, i32::MAX, 3, 0, -1, i32::MIN] {
        let (connection, mut peer) = connected(3);
        let first = send(&connection, "a");
        receive(&mut peer).await;
        peer.write_i32(length).await.unwrap();
        let error = first.await.unwrap_err();
        if length < 4 {
            assert!(matches!(error, Error::Malformed { .. }), "{length}: {error}");
        } else {
            let expected = Error::FrameTooLarge {
                endpoint: "broker:1".to_owned(),
                bytes: i64::from(length),
                bound: FRAME_BYTES_MAX,
            };
            assert_eq!(error, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_requests_in_flight_have_a_bound() {
    let (connection, mut peer) = connected(2);
    let (first, _second) = (send(&connection, "a"), send(&connection, "b"));
    let send_third = || connection.send(&PRODUCE, 7, vec![], Duration::ZERO).map(|_| ());
    assert_eq!(send_third(), Err(Error::TooManyInFlight { bound: 2 }));
    let (id, _) = receive(&mut peer).await;
    answer(&mut peer, id, b"A").await;
    assert_eq!(first.await, Ok(Bytes::from("A")));
    assert_eq!(send_third(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_awaits_is_passed() {
    let (connection, mut peer) = connected(3);
    drop(send(&connection, "a"));
    let second = send(&connection, "b");
    for body in ["A", "B"] {
        let (id, _) = receive(&mut peer).await;
        answer(&mut peer, id, body.as_bytes()).await;
    }
    assert_eq!(second.await, Ok(Bytes::from("B")));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_fails_its_requests() {
    let (connection, mut peer) = connected(3);
    let first = send(&connection, "a");
    receive(&mut peer).await;
    drop(connection);
    assert!(is_closed(&first.await));
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "the peer sees the end");
}

#[tokio::test(start_paused = true)]
async fn a_large_request_waits_for_the_peer_and_arrives_whole() {
    let (near, mut peer) = tokio::io::duplex(100);
    let bounds = Bounds {
        client_id: "c".to_owned(),
        in_flight_max: 2,
        frame_bytes_max: FRAME_BYTES_MAX,
        request_timeout: LIMIT,
    };
    let connection = Connection::start(Box::new(near), "broker:1".to_owned(), bounds);
    let pieces: Vec<Bytes> = (0..100_u8).map(|piece| Bytes::from(vec![piece; 777])).collect();
    let whole = pieces.concat();
    let first = connection.send(&PRODUCE, 7, pieces, Duration::ZERO).unwrap();
    let (id, body) = receive(&mut peer).await;
    assert_eq!(body, whole);
    answer(&mut peer, id, b"A").await;
    assert_eq!(first.await, Ok(Bytes::from("A")));
}

#[test]
fn pieces_are_advanced_over_their_ends() {
    let mut output = Output::default();
    for piece in ["abc", "", "de", "f"] {
        output.push(Bytes::from(piece));
    }
    let mut slices = [IoSlice::new(&[]); 2];
    assert_eq!((output.remaining(), output.chunks_vectored(&mut slices)), (6, 2));
    output.advance(4);
    assert_eq!(output.chunk(), b"e");
    output.advance(2);
    assert!(!output.has_remaining());
}
