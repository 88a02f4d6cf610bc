//! A fake leader whose conduct a test sets: it records the headers of the calls, closes their connections, or never answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::Notify, task::AbortHandle};
use tokio_stream::StreamExt;

/// What the leader does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    /// Answers NOT_FOUND in the headers.
    Answer,
    /// Answers without gRPC and with this HTTP status, as a proxy would.
    AnswerHttp(u16),
    /// Closes the connection when the call has arrived.
    Close,
    /// Begins the answer, and closes the connection.
    CloseWithinAnswer,
    /// Begins the answer, and sends nothing more.
    HangWithinAnswer,
    /// Begins the answer, and ends it without a status.
    EndWithoutStatus,
    /// Never answers.
    Hang,
}

/// A running leader.
#[derive(Debug, Clone)]
pub(super) struct FakeLeader(Arc<State>);

#[derive(Debug)]
struct State {
    endpoint: String,
    conduct: Mutex<Conduct>,
    headers: Mutex<Vec<HeaderMap>>,
    connections: AtomicUsize,
    /// Ends the task of the newest connection.
    connection: Mutex<Option<AbortHandle>>,
    called: Notify,
    /// The request of a call with [`Conduct::HangWithinAnswer`] has ended.
    request_ended: Notify,
}

type AnswerBody = BoxBody<Bytes, std::io::Error>;

impl FakeLeader {
    pub(super) async fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let leader = FakeLeader(Arc::new(State {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            conduct: Mutex::new(conduct),
            headers: Mutex::default(),
            connections: AtomicUsize::new(0),
            connection: Mutex::default(),
            called: Notify::new(),
            request_ended: Notify::new(),
        }));
        let accepting = leader.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.0.connections.fetch_add(1, Ordering::SeqCst);
                let serving = accepting.clone();
                let service = service_fn(move |request| serving.clone().answer(request));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .auto_date_header(false)
                    .serve_connection(TokioIo::new(stream), service);
                let task = tokio::spawn(async move { drop(connection.await) });
                *accepting.0.connection.lock() = Some(task.abort_handle());
            }
        });
        leader
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Returns the headers of the calls that have arrived.
    pub(super) fn headers(&self) -> Vec<HeaderMap> {
        self.0.headers.lock().clone()
    }

    /// Returns the number of connections that were opened.
    pub(super) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    pub(super) fn set_conduct(&self, conduct: Conduct) {
        *self.0.conduct.lock() = conduct;
    }

    /// Waits until a call has arrived.
    pub(super) async fn called(&self) {
        self.0.called.notified().await;
    }

    /// Waits until the request of a call with [`Conduct::HangWithinAnswer`] has ended, or was reset.
    pub(super) async fn request_ended(&self) {
        self.0.request_ended.notified().await;
    }

    /// Closes the newest connection.
    pub(super) fn close(&self) {
        if let Some(connection) = self.0.connection.lock().take() {
            connection.abort();
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<AnswerBody>, std::io::Error> {
        self.0.headers.lock().push(request.headers().clone());
        let conduct = *self.0.conduct.lock();
        self.0.called.notify_one();
        let begin = |frames: Vec<Result<Frame<Bytes>, std::io::Error>>| {
            let body = StreamBody::new(tokio_stream::iter(frames));
            let mut response = Response::new(BodyExt::boxed(body));
            response
                .headers_mut()
                .insert("content-type", "application/grpc".parse().unwrap());
            response
        };
        match conduct {
            Conduct::Answer => {
                let mut response = begin(Vec::new());
                response.headers_mut().insert("grpc-status", "5".parse().unwrap());
                Ok(response)
            }
            Conduct::AnswerHttp(status) => {
                let mut response = begin(Vec::new());
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
            Conduct::Close => {
                self.close();
                std::future::pending().await
            }
            Conduct::CloseWithinAnswer => {
                let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0]));
                Ok(begin(vec![
                    Ok(message),
                    Err(std::io::Error::other("the leader fails")),
                ]))
            }
            Conduct::HangWithinAnswer => {
                let (state, mut sent) = (Arc::clone(&self.0), request.into_body());
                tokio::spawn(async move {
                    while let Some(Ok(_)) = sent.frame().await {}
                    state.request_ended.notify_one();
                });
                let message = Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0])));
                let body = tokio_stream::iter([message]).chain(tokio_stream::pending());
                Ok(begin(Vec::new()).map(|_| BodyExt::boxed(StreamBody::new(body))))
            }
            Conduct::EndWithoutStatus => Ok(begin(Vec::new())),
            Conduct::Hang => std::future::pending().await,
        }
    }
}
