//! Many thousand connections: connections within the limits are served, further connections are rejected, and memory is bounded.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{is_well_served, resident, with_accounts};
use crate::support::server::{ServerOptions, TestServer};

/// Idle connections at the same time.
const CROWD: usize = 10_000;
/// Connections of one address: half of the default limit.
const OF_ONE_CLIENT: usize = 250;
/// Open files that the connections need, in the test and in the server.
const FILES: u64 = 12_000;
/// The default limit of connections of one address.
const CLIENT_MAX: usize = 512;
/// Memory that an idle connection may cost the server, in bytes.
const BYTES_EACH_MAX: u64 = 48 << 10;

/// The preface of HTTP/2 and an empty SETTINGS frame: a complete client that makes no call.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// A frame's header.
const FRAME_HEADER_BYTES: usize = 9;
/// Types of frames.
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;

/// Connects from another address of this machine (127.0.1.0 and up), since limits apply to each client address.
async fn connect_from(client: usize, server: &TestServer) -> TcpStream {
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + u32::try_from(client).unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((host, 0))).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    // The server may have closed a refused connection already.
    let _ = stream.write_all(HELLO).await;
    stream
}

/// The type of the first frame that the server sends.
async fn first_frame(stream: &mut TcpStream) -> u8 {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    header[3]
}

/// A HEADERS frame that begins a call of `StreamTransactions` on `stream`, and leaves it open.
fn call(stream: u8) -> Vec<u8> {
    let path = b"/tally.v1.TransactionService/StreamTransactions";
    // HPACK: POST and http are in the static table, and so is the name of the path (RFC 7541, appendix A).
    let block = [
        &[0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()],
        path.as_slice(),
    ]
    .concat();
    let length = u8::try_from(block.len()).unwrap();
    // HEADERS with END_HEADERS.
    [&[0, 0, length, 1, 4, 0, 0, 0, stream], block.as_slice()].concat()
}

/// Opens connections, and waits for the server's first frame on each.
async fn crowd(server: &TestServer) -> Vec<TcpStream> {
    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        let mut stream = connect_from(number / OF_ONE_CLIENT, server).await;
        assert_eq!(first_frame(&mut stream).await, SETTINGS, "connection {number}");
        crowd.push(stream);
    }
    crowd
}

#[tokio::test]
async fn ten_thousand_idle_connections_leave_others_served_and_memory_flat() {
    let files = tally::sys::limits::raise_open_files(FILES).unwrap();
    assert!(
        files >= FILES,
        "this test needs {FILES} open files, and the hard limit is {files}: ulimit -Hn"
    );
    let options = ServerOptions::default().env("TALLY__SERVER__CONNECTIONS_PER_THREAD_MAX", "12000");
    let (server, client) = with_accounts(options).await;
    is_well_served(&client, "before").await;
    let before = resident(&server);
    let first = crowd(&server).await;
    is_well_served(&client, "among-the-first").await;
    let grown = resident(&server).saturating_sub(before);
    assert!(
        grown < CROWD as u64 * BYTES_EACH_MAX,
        "{} bytes for each idle connection",
        grown / CROWD as u64
    );
    // All connections are still open.
    for stream in &first {
        let mut rest = [0; 256];
        match stream.try_read(&mut rest) {
            Ok(0) => panic!("an idle connection was closed"),
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    // Closed connections free their memory: the same number of new connections needs no more.
    drop(first);
    let second = crowd(&server).await;
    is_well_served(&client, "among-the-second").await;
    let again = resident(&server).saturating_sub(before);
    assert!(again < grown + grown / 4, "{again} bytes after {grown}");
    drop(second);
}

#[tokio::test]
async fn a_connection_above_the_limit_of_a_client_is_refused_and_others_are_accepted() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let mut crowd = Vec::with_capacity(CLIENT_MAX);
    for _ in 0..CLIENT_MAX {
        let mut stream = connect_from(0, &server).await;
        assert_eq!(first_frame(&mut stream).await, SETTINGS);
        crowd.push(stream);
    }
    let mut answer = Vec::new();
    // Read until the connection is closed.
    let _ = connect_from(0, &server).await.read_to_end(&mut answer).await;
    let goaway = answer.windows(4).any(|window| window == [0, 0, 0, 11]);
    assert!(goaway, "ENHANCE_YOUR_CALM is not in {answer:?}");
    assert!(answer.contains(&GOAWAY));
    // Another address, and a connection after one was closed.
    assert_eq!(first_frame(&mut connect_from(1, &server).await).await, SETTINGS);
    drop(crowd.pop());
    let mut let_in = false;
    while !let_in {
        let mut header = [0; FRAME_HEADER_BYTES];
        let mut stream = connect_from(0, &server).await;
        // The SETTINGS frame of an accepted connection has entries. That of a refused one is empty, and a GOAWAY follows.
        stream.read_exact(&mut header).await.unwrap();
        let_in = header[3] == SETTINGS && header[2] > 0;
    }
    is_well_served(&client, "among-all").await;
}

#[tokio::test]
async fn a_call_above_the_limit_of_a_connection_is_refused_and_the_others_go_on() {
    let options = ServerOptions::default().env("TALLY__SERVER__STREAMS_PER_CONNECTION_MAX", "2");
    let (server, client) = with_accounts(options).await;
    let mut stream = connect_from(0, &server).await;
    // The limit that the server announces. A well-behaved client would wait instead of exceeding it.
    for number in [1, 3, 5] {
        stream.write_all(&call(number)).await.unwrap();
    }
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        stream.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(header[3], GOAWAY, "{payload:?}");
        if header[3] == RST_STREAM {
            // The error code REFUSED_STREAM means that the call was not executed. The other two calls get no frame.
            assert_eq!((header[8], payload.as_slice()), (5, [0, 0, 0, 7].as_slice()));
            break;
        }
    }
    is_well_served(&client, "meanwhile").await;
}
