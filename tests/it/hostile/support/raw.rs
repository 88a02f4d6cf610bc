//! An HTTP/2 client that can send any frames. The constants have the names of RFC 9113.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::server::TestServer;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// A frame type that HTTP/2 does not define.
pub(crate) const UNKNOWN: u8 = 0xfa;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// The payload of a SETTINGS frame that sets the flow-control window for answers to 0 bytes, so that the server can
/// send only headers.
pub(crate) const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];
/// The largest payload of a frame that every server accepts, in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;
/// The error code ENHANCE_YOUR_CALM.
const ENHANCE_YOUR_CALM: u32 = 11;
/// Maximum time until the server must send a frame. The result of a test does not depend on this time.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Maximum time for one send. After this time, the client assumes that the server does not read from the connection any
/// more.
const SEND_TIME_MAX: Duration = Duration::from_secs(2);

/// An HTTP/2 connection.
pub(crate) struct Raw {
    stream: TcpStream,
    next_call: u32,
    /// The number of bytes sent.
    pub(crate) sent: u64,
    /// Whether the server has closed the connection or does not read from it any more.
    pub(crate) closed: bool,
    /// The header block with which the server rejected an upload.
    pub(crate) rejection: String,
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns a gRPC message: a flag, the length, and `payload`.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns the header block of a call to `path`. It adds no entry to the table of the server's decoder.
pub(crate) fn header_block(path: &str) -> Vec<u8> {
    // POST, http and the names of the path and the content type are in the static table (RFC 7541, appendix A).
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    let content_type = b"application/grpc";
    block.extend([0x0f, 0x10, u8::try_from(content_type.len()).unwrap()]);
    block.extend_from_slice(content_type);
    block
}

impl Raw {
    /// Connects from the address 127.0.2.`client`. The limits of the server apply to each address separately.
    pub(crate) async fn connect(server: &TestServer, client: u8, settings: &[u8]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::from((Ipv4Addr::new(127, 0, 2, client), 0)))
            .unwrap();
        let stream = socket.connect(server.address()).await.unwrap();
        let mut raw = Raw {
            stream,
            next_call: 1,
            sent: 0,
            closed: false,
            rejection: String::new(),
        };
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&frame(SETTINGS, 0, 0, settings)).await;
        raw
    }

    /// Sends bytes, unless the server has closed the connection or does not read from it any more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        match timeout(SEND_TIME_MAX, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => self.sent += bytes.len() as u64,
            Ok(Err(_)) | Err(_) => self.closed = true,
        }
    }

    /// Returns the stream number of the next call.
    pub(crate) fn call_number(&mut self) -> u32 {
        let number = self.next_call;
        self.next_call += 2;
        number
    }

    /// Returns the stream number and the HEADERS frame of a new call. The frame does not end the call.
    pub(crate) fn begin(&mut self, block: &[u8]) -> (u32, Vec<u8>) {
        let number = self.call_number();
        (number, frame(HEADERS, END_HEADERS, number, block))
    }

    /// Sends a call in one write, without regard to flow control. `body` may end within a message. If `end` is false,
    /// the call stays open. Returns the stream number.
    pub(crate) async fn call(&mut self, path: &str, body: &[u8], end: bool) -> u32 {
        let (number, mut bytes) = self.begin(&header_block(path));
        let mut chunks = body.chunks(FRAME_BYTES_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let last = end && chunks.peek().is_none();
            bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, number, chunk));
        }
        self.send(&bytes).await;
        number
    }

    /// Sends a call, and respects the flow-control windows. Returns the stream number, and whether `body` was sent
    /// completely. If the server answers the call or closes the connection earlier, the rest of `body` is not sent.
    pub(crate) async fn upload(&mut self, path: &str, body: &[u8], end: bool) -> (u32, bool) {
        let (number, begin) = self.begin(&header_block(path));
        self.send(&begin).await;
        // The initial windows (RFC 9113, 6.5.2 and 6.9.2).
        let (mut connection, mut stream) = (65_535_i64, 65_535_i64);
        let mut chunks = body.chunks(FRAME_BYTES_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let bytes = i64::try_from(chunk.len()).unwrap();
            while connection < bytes || stream < bytes {
                let Some(received) = self.receive().await else {
                    return (number, false);
                };
                let increment = || i64::from(u32::from_be_bytes(received.payload[..4].try_into().unwrap()));
                match (received.kind, received.stream) {
                    (SETTINGS, _) if received.flags == 0 => {
                        // Acknowledge the settings. The server applies them only after the acknowledgement.
                        self.send(&frame(SETTINGS, ACK, 0, &[])).await;
                        let settings = received.payload.as_chunks::<6>().0;
                        let window = settings.iter().find(|setting| setting[..2] == [0, 4]);
                        stream += window.map_or(0, |setting| {
                            i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap())) - 65_535
                        });
                    }
                    (WINDOW_UPDATE, 0) => connection += increment(),
                    (WINDOW_UPDATE, updated) if updated == number => stream += increment(),
                    (HEADERS | RST_STREAM, answered) if answered == number => {
                        self.rejection = String::from_utf8_lossy(&received.payload).into_owned();
                        return (number, false);
                    }
                    (GOAWAY, _) => return (number, false),
                    _ => {}
                }
            }
            connection -= bytes;
            stream -= bytes;
            let flags = if end && chunks.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            self.send(&frame(DATA, flags, number, chunk)).await;
        }
        (number, !self.closed)
    }

    /// Receives the next frame; `None` at the end of the connection.
    pub(crate) async fn receive(&mut self) -> Option<Received> {
        timeout(WAIT_MAX, self.next_frame())
            .await
            .expect("the server sends nothing")
    }

    async fn next_frame(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l1, l2, l3]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Received {
            kind,
            flags,
            stream: u32::from_be_bytes([s1, s2, s3, s4]),
            payload,
        })
    }

    /// Reads to the end of the connection. Returns whether the server has sent a GOAWAY frame with ENHANCE_YOUR_CALM.
    pub(crate) async fn receives_enhance_your_calm(&mut self) -> bool {
        let mut received_goaway = false;
        while let Some(received) = self.receive().await {
            received_goaway |= received.kind == GOAWAY
                && received.payload.get(4..8) == Some(&ENHANCE_YOUR_CALM.to_be_bytes());
        }
        received_goaway
    }

    /// Waits for the end of the answer to `call`. Returns the bytes of the answer, and whether the answer ended before the
    /// connection ended.
    pub(crate) async fn answer(&mut self, call: u32) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        while let Some(received) = self.receive().await {
            if received.stream != call {
                continue;
            }
            if received.kind == DATA {
                body.extend_from_slice(&received.payload);
            }
            if received.kind == RST_STREAM || received.flags & END_STREAM != 0 {
                return (body, true);
            }
        }
        (body, false)
    }
}
