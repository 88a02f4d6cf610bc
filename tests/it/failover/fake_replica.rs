//! A fake replica whose conduct a test sets. The fake replicas of a test share a ledger, which stands for the replicated log. Each runs on
//! its own thread, so that a test can stop it as SIGSTOP would: its connections stay open, and it answers nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tally::proto::{
    GetReplicaStateResponse, ProcessTransactionResponse, ProcessTransactionsRequest,
    ProcessTransactionsResponse, ReplicaRole, ReplicaState, Transaction, TransactionResult,
    WatchTransactionsRequest, WatchTransactionsResponse, transaction_result::Outcome,
};
use tokio::{net::TcpListener, task::AbortHandle};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};

/// What a replica does with calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conduct {
    /// Leads, and executes calls.
    Lead { term: i64 },
    /// Does not lead. Answers NOT_LEADER with this address.
    Follow { term: i64, leader: Option<String> },
    /// Says that it leads, but answers NOT_LEADER.
    Pretend { term: i64 },
    /// Leads and executes a call, and closes the connection instead of answering.
    ExecuteAndClose { term: i64 },
    /// Leads and executes a call, and never answers, as if its process were stopped.
    ExecuteAndStop { term: i64 },
}

/// The transactions in their order. All replicas share them.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeLedger(Arc<Mutex<Vec<String>>>);

/// A running replica.
#[derive(Debug)]
pub(super) struct FakeReplica {
    state: Arc<State>,
    /// Ends the thread.
    end: Option<tokio::sync::oneshot::Sender<()>>,
    /// Lets the stopped thread continue when it is dropped.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    endpoint: String,
    conduct: Mutex<Conduct>,
    ledger: FakeLedger,
    questions: AtomicUsize,
    calls: AtomicUsize,
    connections: Mutex<Vec<AbortHandle>>,
    /// The stopped thread waits on this receiver, which never receives a value.
    stopped: Mutex<mpsc::Receiver<()>>,
}

// ===== impl FakeLedger =====

impl FakeLedger {
    /// Applies a transaction at most once. Returns its sequence, and whether it was there before.
    fn apply(&self, id: &str) -> (i64, bool) {
        let mut ids = self.0.lock();
        let known = ids.iter().position(|known| known == id);
        let index = known.unwrap_or(ids.len());
        if known.is_none() {
            ids.push(id.to_owned());
        }
        (i64::try_from(index + 1).unwrap(), known.is_some())
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(super) fn add(&self, ids: impl IntoIterator<Item = String>) {
        self.0.lock().extend(ids);
    }
}

// ===== impl FakeReplica =====

impl FakeReplica {
    pub(super) fn start(ledger: &FakeLedger, conduct: Conduct) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let state = Arc::new(State {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            conduct: Mutex::new(conduct),
            ledger: ledger.clone(),
            questions: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            connections: Mutex::default(),
            stopped: Mutex::new(stopped),
        });
        let serving = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(serving, listener) => {}
                    _ended = ended => {}
                }
            });
        });
        FakeReplica {
            state,
            end: Some(end),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(super) fn endpoint(&self) -> String {
        self.state.endpoint.clone()
    }

    /// Returns the number of calls that have arrived, without those of `GetReplicaState`.
    pub(super) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Returns the number of calls of `GetReplicaState`, with which clients look for the leader.
    pub(super) fn questions(&self) -> usize {
        self.state.questions.load(Ordering::SeqCst)
    }

    pub(super) fn set(&self, conduct: Conduct) {
        *self.state.conduct.lock() = conduct;
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        for connection in self.state.connections.lock().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for FakeReplica {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn serve(state: Arc<State>, listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let serving = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&serving);
            async move { Ok::<_, std::convert::Infallible>(state.answer(request).await) }
        });
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        let task = tokio::spawn(async move { drop(connection.await) });
        state.connections.lock().push(task.abort_handle());
    }
}

// ===== impl State =====

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let message = body.slice(5..);
        let conduct = self.conduct.lock().clone();
        if method == "GetReplicaState" {
            self.questions.fetch_add(1, Ordering::SeqCst);
            return one(&state_of(&conduct));
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        match conduct {
            Conduct::Follow { leader, .. } => not_leader(leader.as_deref()).into_http(),
            Conduct::Pretend { .. } => not_leader(None).into_http(),
            Conduct::Lead { .. } => self.execute(&method, message),
            Conduct::ExecuteAndClose { .. } => {
                drop(self.execute(&method, message));
                for connection in self.connections.lock().drain(..) {
                    connection.abort();
                }
                std::future::pending().await
            }
            Conduct::ExecuteAndStop { .. } => {
                drop(self.execute(&method, message));
                // Blocks the only thread of this replica until the end of the test.
                let _ended = self.stopped.lock().recv();
                std::future::pending().await
            }
        }
    }

    fn execute(&self, method: &str, message: Bytes) -> Response<Body> {
        match method {
            "ProcessTransactions" => {
                let request = ProcessTransactionsRequest::decode(message).unwrap();
                let result = |id: String| {
                    let (sequence, replayed) = self.ledger.apply(&id);
                    let committed = ProcessTransactionResponse {
                        transaction_id: id.clone(),
                        sequence,
                        replayed,
                        ..ProcessTransactionResponse::default()
                    };
                    TransactionResult {
                        transaction_id: id,
                        outcome: Some(Outcome::Committed(committed)),
                    }
                };
                let ids = request.transactions.into_iter().map(|one| one.transaction_id);
                one(&ProcessTransactionsResponse {
                    results: ids.map(result).collect(),
                })
            }
            "WatchTransactions" => {
                let from = WatchTransactionsRequest::decode(message)
                    .unwrap()
                    .from_sequence
                    .max(1);
                let all = self.ledger.ids();
                let known = i64::try_from(all.len()).unwrap();
                if from > known + 1 {
                    return Status::invalid_argument("from_sequence").into_http();
                }
                let responses: Vec<_> = (1..).zip(all).filter(|(sequence, _)| *sequence >= from).collect();
                let responses = responses.into_iter().map(|(sequence, transaction_id)| {
                    let transaction = Transaction {
                        transaction_id,
                        ..Transaction::default()
                    };
                    let response = WatchTransactionsResponse {
                        transactions: vec![transaction],
                        durable_sequence: sequence,
                    };
                    Frame::data(framed(&response))
                });
                // The stream stays open until the connection is closed.
                answer(stream::iter(responses).chain(stream::pending()))
            }
            other => Status::unimplemented(other).into_http(),
        }
    }
}

fn state_of(conduct: &Conduct) -> GetReplicaStateResponse {
    let (role, term) = match conduct {
        Conduct::Follow { term, .. } => (ReplicaRole::Standby, *term),
        Conduct::Lead { term }
        | Conduct::Pretend { term }
        | Conduct::ExecuteAndClose { term }
        | Conduct::ExecuteAndStop { term } => (ReplicaRole::Leader, *term),
    };
    GetReplicaStateResponse {
        replica: Some(ReplicaState {
            role: role.into(),
            term,
            ..ReplicaState::default()
        }),
    }
}

/// The status of a replica that does not lead.
pub(super) fn not_leader(leader: Option<&str>) -> Status {
    let mut metadata = HashMap::from([
        ("executed".to_owned(), "false".to_owned()),
        ("retry".to_owned(), "same_id".to_owned()),
    ]);
    metadata.extend(leader.map(|leader| ("leader".to_owned(), leader.to_owned())));
    let details = ErrorDetails::with_error_info("NOT_LEADER", "tally.v1", metadata);
    let mut status = Status::with_error_details(Code::Unavailable, "this replica does not lead", details);
    // The delay of a real replica is 100 ms. With this long delay, a test shows that the client does not wait before it uses the next endpoint.
    let delay = "3600000".parse().unwrap();
    status.metadata_mut().insert("grpc-retry-pushback-ms", delay);
    status
}

/// Returns the frame of a message.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// Returns the answer with one message.
fn one(message: &impl Message) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    answer(stream::iter([
        Frame::data(framed(message)),
        Frame::trailers(trailers),
    ]))
}

fn answer(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(frames.map(Ok::<_, std::io::Error>));
    let mut response = Response::new(Body::new(body));
    let kind = "application/grpc".parse().unwrap();
    response.headers_mut().insert("content-type", kind);
    response
}
