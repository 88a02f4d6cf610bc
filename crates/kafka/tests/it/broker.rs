//! A simulated broker, which answers as the test says.

use std::{collections::HashMap, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tally_kafka::Endpoint;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

pub(crate) const TOPIC: &str = "blocks";
pub(crate) const TOPIC_ID: [u8; 16] = [7; 16];

pub(crate) const PRODUCE: i16 = 0;
pub(crate) const FETCH: i16 = 1;
pub(crate) const LIST_OFFSETS: i16 = 2;
pub(crate) const METADATA: i16 = 3;
pub(crate) const SASL_HANDSHAKE: i16 = 17;
pub(crate) const API_VERSIONS: i16 = 18;
pub(crate) const DESCRIBE_CONFIGS: i16 = 32;
pub(crate) const SASL_AUTHENTICATE: i16 = 36;

/// The newest version of each call.
const MODERN: [(i16, i16); 8] = [
    (PRODUCE, 13),
    (FETCH, 18),
    (LIST_OFFSETS, 11),
    (METADATA, 13),
    (SASL_HANDSHAKE, 1),
    (API_VERSIONS, 4),
    (DESCRIBE_CONFIGS, 4),
    (SASL_AUTHENTICATE, 2),
];

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) key: i16,
    pub(crate) version: i16,
    /// How many calls of this key the broker received before, on all connections.
    pub(crate) index: usize,
    pub(crate) body: Bytes,
}

/// What the broker does.
pub(crate) enum Reply {
    /// Answers with this body.
    Body(Vec<u8>),
    /// Keeps silent.
    Nothing,
    /// Sends a part of an answer and ends the connection.
    Part,
    /// Ends the connection.
    Close,
    /// Answers as brokers usually do.
    Usual,
}

type Script = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;
type Counts = Arc<parking_lot::Mutex<HashMap<i16, usize>>>;

/// A running broker.
pub(crate) struct Broker {
    port: u16,
    counts: Counts,
    task: JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Played {
    port: u16,
    counts: Counts,
    versions: Vec<(i16, i16)>,
    script: Script,
}

impl Broker {
    /// Starts a broker that leads the partition.
    pub(crate) async fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(MODERN.to_vec(), None, script).await
    }

    /// Starts a broker that does not know topic ids.
    pub(crate) async fn old(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let versions = vec![(PRODUCE, 8), (FETCH, 11), (LIST_OFFSETS, 5), (METADATA, 8)];
        Self::with(versions, None, script).await
    }

    pub(crate) async fn with(
        versions: Vec<(i16, i16)>,
        tls: Option<ServerConfig>,
        script: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let played = Played {
            port: listener.local_addr().unwrap().port(),
            counts: Counts::default(),
            versions,
            script: Arc::new(script),
        };
        let (port, counts) = (played.port, Arc::clone(&played.counts));
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (played, acceptor) = (played.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => played.serve(stream).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                played.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, counts, task }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    /// Returns how many calls of `key` the broker received.
    pub(crate) fn count(&self, key: i16) -> usize {
        self.counts.lock().get(&key).copied().unwrap_or(0)
    }
}

impl Played {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        while let Ok(length) = stream.read_i32().await {
            let mut frame = BytesMut::zeroed(usize::try_from(length).unwrap());
            if stream.read_exact(&mut frame).await.is_err() {
                return;
            }
            let (call, id) = self.read(frame.freeze());
            let body = match (self.script)(&call) {
                Reply::Body(body) => body,
                Reply::Usual => self.usual(&call),
                Reply::Nothing => continue,
                Reply::Close => return,
                Reply::Part => {
                    let part = [&100_i32.to_be_bytes()[..], &id.to_be_bytes(), b"part"].concat();
                    let _ = stream.write_all(&part).await;
                    return;
                }
            };
            let mut answer = BytesMut::new();
            answer.put_i32(4 + i32::try_from(body.len()).unwrap());
            answer.put_i32(id);
            answer.put_slice(&body);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    fn read(&self, mut frame: Bytes) -> (Call, i32) {
        let (key, version, id) = (frame.get_i16(), frame.get_i16(), frame.get_i32());
        let client_id = frame.get_i16();
        frame.advance(usize::try_from(client_id).unwrap());
        if is_flexible(key, version) {
            frame.advance(1);
        }
        let mut counts = self.counts.lock();
        let count = counts.entry(key).or_default();
        let call = Call {
            key,
            version,
            index: *count,
            body: frame,
        };
        *count += 1;
        (call, id)
    }

    fn usual(&self, call: &Call) -> Vec<u8> {
        match call.key {
            API_VERSIONS => {
                let mut body = Vec::new();
                body.put_i16(0);
                body.put_u8(u8::try_from(self.versions.len() + 1).unwrap());
                for (key, last) in &self.versions {
                    body.put_i16(*key);
                    body.put_i16(0);
                    body.put_i16(*last);
                    body.put_u8(0);
                }
                body.put_i32(0);
                body.put_u8(0);
                body
            }
            METADATA => metadata(call.version, self.port, 0, TOPIC_ID, 1),
            PRODUCE => produced(call, 0, 100 + i64::try_from(call.index).unwrap()),
            key => panic!("no usual answer to call {key}"),
        }
    }
}

fn is_flexible(key: i16, version: i16) -> bool {
    match key {
        PRODUCE | METADATA => version >= 9,
        FETCH => version >= 12,
        API_VERSIONS => version >= 3,
        _ => false,
    }
}

/// An answer to `Metadata`: broker 1 at `port`, and the topic with partition 0, led by `leader` in epoch 5.
pub(crate) fn metadata(version: i16, port: u16, code: i16, id: [u8; 16], leader: i32) -> Vec<u8> {
    let flexible = version >= 9;
    let mut body = Vec::new();
    let length = |body: &mut Vec<u8>, length: u8| {
        if flexible {
            body.put_u8(length + 1);
        } else {
            body.put_i32(i32::from(length));
        }
    };
    let text = |body: &mut Vec<u8>, text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        if flexible {
            body.put_u8(length + 1);
        } else {
            body.put_i16(i16::from(length));
        }
        body.put_slice(text.as_bytes());
    };
    let tags = |body: &mut Vec<u8>| body.put_bytes(0, usize::from(flexible));
    tags(&mut body);
    body.put_i32(0);
    length(&mut body, 1);
    body.put_i32(1);
    text(&mut body, "127.0.0.1");
    body.put_i32(i32::from(port));
    text(&mut body, "rack");
    tags(&mut body);
    text(&mut body, "cluster");
    body.put_i32(1);
    length(&mut body, 1);
    body.put_i16(code);
    text(&mut body, TOPIC);
    if flexible {
        body.put_slice(&id);
    }
    body.put_u8(0);
    length(&mut body, u8::from(code == 0));
    if code == 0 {
        body.put_i16(if leader < 0 { 5 } else { 0 });
        body.put_i32(0);
        body.put_i32(leader);
        body.put_i32(5);
        for _ in 0..2 {
            length(&mut body, 1);
            body.put_i32(1);
        }
        length(&mut body, 0);
        tags(&mut body);
    }
    if version >= 8 {
        body.put_i32(i32::MIN);
    }
    tags(&mut body);
    tags(&mut body);
    body
}

/// An answer to `Produce`.
pub(crate) fn produced(call: &Call, code: i16, base_offset: i64) -> Vec<u8> {
    let mut body = Vec::new();
    if call.version >= 9 {
        body.put_slice(&[0, 2]);
        body.put_slice(&TOPIC_ID);
        body.put_u8(2);
    } else {
        body.put_i32(1);
        body.put_i16(6);
        body.put_slice(TOPIC.as_bytes());
        body.put_i32(1);
    }
    body.put_i32(0);
    body.put_i16(code);
    body.put_i64(base_offset);
    body.put_i64(-1);
    body.put_i64(0);
    if call.version >= 9 {
        body.put_slice(&[1, 0, 0, 0]);
    }
    body.put_i32(0);
    body.put_bytes(0, usize::from(call.version >= 9));
    body
}

/// An answer to `Fetch`, version 13 or 11.
pub(crate) fn fetched(call: &Call, code: i16, records: &[u8]) -> Vec<u8> {
    let flexible = call.version >= 12;
    let mut body = Vec::new();
    body.put_bytes(0, usize::from(flexible));
    body.put_i32(0);
    body.put_i16(0);
    body.put_i32(0);
    if flexible {
        body.put_u8(2);
        body.put_slice(&TOPIC_ID);
        body.put_u8(2);
    } else {
        body.put_i32(1);
        body.put_i16(6);
        body.put_slice(TOPIC.as_bytes());
        body.put_i32(1);
    }
    body.put_i32(0);
    body.put_i16(code);
    body.put_i64(if code == 0 { 99 } else { -1 });
    body.put_i64(-1);
    body.put_i64(if code == 0 { 3 } else { -1 });
    if flexible {
        body.put_u8(0);
        body.put_i32(-1);
        let length = records.len() + 1;
        // A varint of two bytes.
        body.put_u8(u8::try_from(length & 0x7f).unwrap() | 0x80);
        body.put_u8(u8::try_from(length >> 7).unwrap());
        body.put_slice(records);
        body.put_slice(&[0, 0, 0]);
    } else {
        body.put_i32(-1);
        body.put_i32(-1);
        body.put_i32(i32::try_from(records.len()).unwrap());
        body.put_slice(records);
    }
    body
}

/// An answer to `ListOffsets`.
pub(crate) fn offset(code: i16, offset: i64) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i32(0);
    body.put_i32(1);
    body.put_i16(6);
    body.put_slice(TOPIC.as_bytes());
    body.put_i32(1);
    body.put_i32(0);
    body.put_i16(code);
    body.put_i64(-1);
    body.put_i64(offset);
    body.put_i32(5);
    body
}
