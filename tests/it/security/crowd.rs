//! Tests with thousands of connections. The server must serve connections within the limits, reject further
//! connections, and use bounded memory.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tally::{
    client::ClientConfig,
    proto::{GetCircuitStatsRequest, engine_service_client::EngineServiceClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{is_well_served, resident, with_accounts};
use crate::support::server::{ServerOptions, TestServer};

/// Number of idle connections that are open at the same time.
const CROWD: usize = 10_000;
/// Number of connections from one address, about half of [`CLIENT_MAX`].
const OF_ONE_CLIENT: usize = 250;
/// Number of open files that the test process and the server process each need for the connections.
const FILES: u64 = 12_000;
/// The default limit of connections from one address.
const CLIENT_MAX: usize = 512;
/// Maximum memory that the server may use for an idle connection, in bytes.
const BYTES_EACH_MAX: u64 = 48 << 10;

/// The preface of HTTP/2 and an empty SETTINGS frame. A client that sends this has opened the connection completely,
/// but makes no call.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// The length of the header of an HTTP/2 frame, in bytes.
const FRAME_HEADER_BYTES: usize = 9;
/// The type of a SETTINGS frame. The next two constants are frame types, too.
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;

/// Connects from the address 127.0.1.0 plus `client`. The limits apply to each client address, so the connections of a
/// test come from many addresses of this machine.
async fn connect_from(client: usize, server: &TestServer) -> TcpStream {
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + u32::try_from(client).unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((host, 0))).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    // The result is ignored, because the server may have closed a rejected connection already.
    let _ = stream.write_all(HELLO).await;
    stream
}

/// Returns the type of the first frame that the server sends.
async fn first_frame(stream: &mut TcpStream) -> u8 {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    header[3]
}

/// Returns a HEADERS frame that begins a call of `StreamTransactions` on the HTTP/2 stream `stream`. The call stays
/// open.
fn call(stream: u8) -> Vec<u8> {
    let path = b"/tally.v1.TransactionService/StreamTransactions";
    // The header block is encoded with HPACK. The method POST, the scheme http and the name `:path` are in its static
    // table (RFC 7541, appendix A).
    let block = [
        &[0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()],
        path.as_slice(),
    ]
    .concat();
    let length = u8::try_from(block.len()).unwrap();
    // HEADERS with END_HEADERS.
    [&[0, 0, length, 1, 4, 0, 0, 0, stream], block.as_slice()].concat()
}

/// Opens [`CROWD`] connections, and waits for the first frame of the server on each connection.
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
async fn with_ten_thousand_idle_connections_other_clients_are_served_and_memory_is_bounded() {
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
    // The server frees the memory of closed connections, so the same number of new connections must not need more
    // memory.
    drop(first);
    let second = crowd(&server).await;
    is_well_served(&client, "among-the-second").await;
    let again = resident(&server).saturating_sub(before);
    assert!(again < grown + grown / 4, "{again} bytes after {grown}");
    drop(second);
}

#[tokio::test]
async fn a_connection_above_the_limit_of_a_client_is_rejected_and_others_are_accepted() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let mut crowd = Vec::with_capacity(CLIENT_MAX);
    for _ in 0..CLIENT_MAX {
        let mut stream = connect_from(0, &server).await;
        assert_eq!(first_frame(&mut stream).await, SETTINGS);
        crowd.push(stream);
    }
    let mut answer = Vec::new();
    // Read until the server closes the connection. The result is ignored, because a reset is allowed, too.
    let _ = connect_from(0, &server).await.read_to_end(&mut answer).await;
    let goaway = answer.windows(4).any(|window| window == [0, 0, 0, 11]);
    assert!(goaway, "ENHANCE_YOUR_CALM is not in {answer:?}");
    assert!(answer.contains(&GOAWAY));
    // Connections from another address are accepted. Connections from this address are accepted again after one was
    // closed.
    assert_eq!(first_frame(&mut connect_from(1, &server).await).await, SETTINGS);
    drop(crowd.pop());
    let mut accepted = false;
    while !accepted {
        let mut header = [0; FRAME_HEADER_BYTES];
        let mut stream = connect_from(0, &server).await;
        // On an accepted connection, the SETTINGS frame of the server has entries. On a rejected connection, the
        // SETTINGS frame is empty, and a GOAWAY frame follows.
        stream.read_exact(&mut header).await.unwrap();
        accepted = header[3] == SETTINGS && header[2] > 0;
    }
    is_well_served(&client, "among-all").await;
}

#[tokio::test]
async fn a_call_above_the_limit_of_a_connection_is_rejected_and_the_other_calls_continue() {
    let options = ServerOptions::default().env("TALLY__SERVER__STREAMS_PER_CONNECTION_MAX", "2");
    let (server, client) = with_accounts(options).await;
    let mut stream = connect_from(0, &server).await;
    // Begin three calls, although the server has announced a limit of two. A well-behaved client would wait instead.
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
            // The third call is reset with the error code REFUSED_STREAM, which means that it was not executed. The
            // other two calls are not reset.
            assert_eq!((header[8], payload.as_slice()), (5, [0, 0, 0, 7].as_slice()));
            break;
        }
    }
    is_well_served(&client, "meanwhile").await;
}

/// The client must report the limit. If it only said that the connection was closed, its user would look for a wrong
/// port.
#[tokio::test]
async fn a_client_above_the_limit_of_connections_says_so() {
    let server = ServerOptions::default()
        .env("TALLY__SERVER__CONNECTIONS_PER_CLIENT_MAX", "1")
        .start();
    // From the same address as the client below.
    let mut first = TcpStream::connect(server.address()).await.unwrap();
    first.write_all(HELLO).await.unwrap();
    assert_eq!(first_frame(&mut first).await, SETTINGS);
    let config = ClientConfig::plain(&server.endpoint());
    // The service closes the connection at once. If the kernel resets it, the client does not receive the reason.
    loop {
        let status = match config.connect(Duration::from_secs(10)).await {
            Ok(connection) => EngineServiceClient::new(connection)
                .get_circuit_stats(GetCircuitStatsRequest {})
                .await
                .unwrap_err(),
            Err(error) => panic!("{error}"),
        };
        let text = config.explain(&status);
        assert!(
            text.contains("too many connections") || text.contains("the connection was closed"),
            "{text}"
        );
        if text.contains("the service closed the connection, because it has too many connections") {
            break;
        }
    }
}
