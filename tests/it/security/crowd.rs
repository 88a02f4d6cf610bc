//! More connections than anybody needs: those that may be are served, the others are told, and memory is bounded.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{is_well_served, resident, with_accounts};
use crate::support::server::{ServerOptions, TestServer};

/// Idle connections at the same time.
const CROWD: usize = 10_000;
/// Connections of one address: half of what one may have by default.
const OF_ONE_CLIENT: usize = 250;
/// Open files that the crowd needs, here and in the server.
const FILES: u64 = 12_000;
/// Connections of one address if nothing is set.
const CLIENT_MAX: usize = 512;
/// What an idle connection may cost the server, all in all.
const BYTES_EACH_MAX: u64 = 48 << 10;

/// The preface of HTTP/2, and an empty SETTINGS frame: a whole client that wants nothing.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// A frame's header.
const FRAME_HEADER_BYTES: usize = 9;
/// Types of frames.
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;

/// Connects from another address of this machine, for limits are for each client address: 127.0.1.0 and up.
async fn connect_from(client: usize, server: &TestServer) -> TcpStream {
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + u32::try_from(client).unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((host, 0))).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    // One too many may have been closed already.
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

/// As many as there are to be, each of them greeted by the server.
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
    // All of them are still there.
    for stream in &first {
        let mut rest = [0; 256];
        match stream.try_read(&mut rest) {
            Ok(0) => panic!("an idle connection was closed"),
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    // Those that go give back what they had: as many again need nothing more.
    drop(first);
    let second = crowd(&server).await;
    is_well_served(&client, "among-the-second").await;
    let again = resident(&server).saturating_sub(before);
    assert!(again < grown + grown / 4, "{again} bytes after {grown}");
    drop(second);
}

#[tokio::test]
async fn one_connection_too_many_of_a_client_is_told_and_closed_and_others_are_let_in() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let mut crowd = Vec::with_capacity(CLIENT_MAX);
    for _ in 0..CLIENT_MAX {
        let mut stream = connect_from(0, &server).await;
        assert_eq!(first_frame(&mut stream).await, SETTINGS);
        crowd.push(stream);
    }
    let mut answer = Vec::new();
    // To its end.
    let _ = connect_from(0, &server).await.read_to_end(&mut answer).await;
    let goaway = answer.windows(4).any(|window| window == [0, 0, 0, 11]);
    assert!(goaway, "ENHANCE_YOUR_CALM is not in {answer:?}");
    assert!(answer.contains(&GOAWAY));
    // Another address, and a place that was given back.
    assert_eq!(first_frame(&mut connect_from(1, &server).await).await, SETTINGS);
    drop(crowd.pop());
    let mut let_in = false;
    while !let_in {
        let mut header = [0; FRAME_HEADER_BYTES];
        let mut stream = connect_from(0, &server).await;
        // The server's own SETTINGS frame is not empty; the one of a refusal is, and a GOAWAY follows.
        stream.read_exact(&mut header).await.unwrap();
        let_in = header[3] == SETTINGS && header[2] > 0;
    }
    is_well_served(&client, "among-all").await;
}

#[tokio::test]
async fn one_call_too_many_on_a_connection_is_refused_and_the_others_go_on() {
    let options = ServerOptions::default().env("TALLY__SERVER__STREAMS_PER_CONNECTION_MAX", "2");
    let (server, client) = with_accounts(options).await;
    let mut stream = connect_from(0, &server).await;
    // What the server allows, a client that means well would wait for.
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
            // REFUSED_STREAM: not executed, and nothing is said of the other two.
            assert_eq!((header[8], payload.as_slice()), (5, [0, 0, 0, 7].as_slice()));
            break;
        }
    }
    is_well_served(&client, "meanwhile").await;
}
