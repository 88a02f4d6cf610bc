//! A connection to a service with one or several endpoints.
//!
//! With one endpoint, every call goes to this endpoint. Several endpoints are the replicas of one ledger, and every call goes to the
//! *current* endpoint. If a call fails because of its endpoint ([`Verdict`]), no endpoint is current any more, and the next call asks all
//! endpoints at the same time which of them leads. So:
//!
//! - The address in NOT_LEADER is followed only if it is one of the endpoints. So a service can't make a client connect to another host,
//!   and a token is never sent to another host. Behind a load balancer, only the replicas may be able to reach the address. In both
//!   cases the client asks all endpoints, and finds the leader, or another replica, which forwards the calls to the leader.
//! - An endpoint that accepts connections and never answers, such as a stopped process, delays the others by [`GRACE`] at most.
//! - A connection never sends a call twice. The retries of [`super::RetryPolicy`] send calls again, with the same ids.

use std::{
    cmp::Reverse,
    error::Error,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryFutureExt,
    future::{BoxFuture, Either, ErrInto},
    stream::FuturesUnordered,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{
    Code, Status,
    body::Body,
    metadata::MetadataMap,
    transport::{Channel, channel::ResponseFuture},
};
use tower_service::Service;

use super::{
    address::is_same,
    failover::{Verdict, connection_lost},
    fault::{EndpointError, Fault, NoAnswer},
};
use crate::proto::{GetReplicaStateRequest, ReplicaRole, engine_service_client::EngineServiceClient};

/// Interval of HTTP/2 pings while calls are in flight, with several endpoints.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A connection is lost if it does not answer a ping for this time, with several endpoints. A busy service answers within a few
/// milliseconds.
pub(super) const LOSS_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time to wait for the first answer of the endpoints.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to wait for further endpoints after the first answer, because another endpoint may lead.
const GRACE: Duration = Duration::from_millis(50);
/// A client whose endpoint does not lead looks for the leader at this interval, because a forwarded call takes longer.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// An endpoint whose calls have failed this often in a row is used only if no other endpoint answers.
const FAILURES_MAX: u32 = 2;

type BoxError = Box<dyn Error + Send + Sync>;

/// A connection to a service with one or several endpoints. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    /// The channel of the first endpoint.
    first: Channel,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<Replica>,
    /// The header `authorization` of every call.
    authorization: Option<HeaderValue>,
    state: Mutex<State>,
    /// Held while the endpoints are asked, so that calls at the same time ask only once.
    asking: tokio::sync::Mutex<()>,
    /// Whether the endpoints are asked in the background.
    looking: AtomicBool,
}

/// One of the endpoints.
#[derive(Debug)]
struct Replica {
    name: Arc<str>,
    channel: Channel,
    /// Number of failed calls since the last answer.
    failures: AtomicU32,
}

/// Which endpoint takes the calls.
#[derive(Debug, Default)]
struct State {
    /// The current endpoint, if it is known.
    current: Option<usize>,
    /// The endpoint that was current last.
    last: usize,
    /// Whether the current endpoint is the address in a NOT_LEADER.
    followed: bool,
    /// When to look for the leader, if the current endpoint does not lead.
    look_at: Option<Instant>,
    /// The time of the last attempt to find an endpoint that failed, and its error.
    failed: Option<(Instant, NoAnswer)>,
}

/// The answer of an endpoint to the question which replica leads.
#[derive(Debug, Clone, Copy)]
struct Answer {
    index: usize,
    available: bool,
    term: i64,
    leads: bool,
}

// ===== impl Connection =====

impl Connection {
    /// Makes a connection over the channels of the endpoints. `authorization` is the header of every call.
    pub(super) fn new(
        first: (String, Channel),
        others: impl IntoIterator<Item = (String, Channel)>,
        authorization: Option<HeaderValue>,
    ) -> Self {
        let channel = first.1.clone();
        let endpoints = std::iter::once(first).chain(others);
        let endpoints: Vec<Replica> = endpoints
            .map(|(name, channel)| Replica {
                name: name.into(),
                channel,
                failures: AtomicU32::new(0),
            })
            .collect();
        let state = State {
            // So the first endpoint is the first choice among endpoints that are equally good.
            last: endpoints.len() - 1,
            ..State::default()
        };
        Connection {
            first: channel,
            shared: Arc::new(Shared {
                endpoints,
                authorization,
                state: Mutex::new(state),
                asking: tokio::sync::Mutex::default(),
                looking: AtomicBool::new(false),
            }),
        }
    }

    /// Returns whether a call can be repeated at another endpoint.
    #[must_use]
    pub fn has_alternatives(&self) -> bool {
        self.shared.endpoints.len() > 1
    }

    /// Asks the endpoints which of them leads, for at most `limit`.
    ///
    /// # Errors
    /// [`Fault::NoneAnswers`].
    pub(super) async fn find(&self, limit: Duration) -> Result<(), Fault> {
        let found = self.shared.ask(limit).await.map_err(|NoAnswer(fault)| fault)?;
        self.shared.use_endpoint(found);
        Ok(())
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future =
        Either<ErrInto<ResponseFuture, BoxError>, BoxFuture<'static, Result<Response<Body>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.has_alternatives() {
            // The call itself waits for the channel of the endpoint that takes it.
            return Poll::Ready(Ok(()));
        }
        self.first.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(value) = &self.shared.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        if self.has_alternatives() {
            Either::Right(Arc::clone(&self.shared).call(request).boxed())
        } else {
            Either::Left(self.first.call(request).err_into())
        }
    }
}

// ===== impl Shared =====

impl Shared {
    /// Sends a call to the current endpoint.
    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let index = self
            .current()
            .await
            // The type of this error says that the call was not sent.
            .map_err(|error| tonic::ConnectError(Box::new(error)))?;
        let endpoint = self.endpoint(index)?;
        let mut channel = endpoint.channel.clone();
        let answer = match poll_fn(|context| channel.poll_ready(context)).await {
            Ok(()) => channel.call(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(response) => Ok(self.observe(index, response)),
            Err(source) => {
                self.judge(index, &Verdict::Leave);
                Err(EndpointError {
                    endpoint: Arc::clone(&endpoint.name),
                    source: source.into(),
                }
                .into())
            }
        }
    }

    fn endpoint(&self, index: usize) -> Result<&Replica, NoAnswer> {
        self.endpoints.get(index).ok_or(NoAnswer(Fault::Unknown))
    }

    /// Records what an answer says about its endpoint, now or when the body of the answer ends.
    fn observe(self: Arc<Self>, index: usize, response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::OK {
            self.judge(index, &Verdict::Leave);
            return response;
        }
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                self.judge(index, &Verdict::of(&status));
                response
            }
            None => response.map(|body| {
                let body = ObservedBody {
                    body,
                    index,
                    shared: Some(self),
                };
                Body::new(body)
            }),
        }
    }

    /// Records what a call says about its endpoint.
    fn judge(&self, index: usize, verdict: &Verdict) {
        let Ok(endpoint) = self.endpoint(index) else {
            return;
        };
        if *verdict == Verdict::Stay {
            endpoint.failures.store(0, Ordering::Relaxed);
            return;
        }
        let mut state = self.state.lock();
        if state.current != Some(index) {
            // Another call has already left this endpoint.
            return;
        }
        endpoint.failures.fetch_add(1, Ordering::Relaxed);
        // A replica may name an old leader. If this address was followed before and did not lead, all endpoints are asked instead.
        let leader = match verdict {
            Verdict::LeaderAt(address) if !state.followed => self
                .endpoints
                .iter()
                .position(|endpoint| is_same(&endpoint.name, address))
                .filter(|leader| *leader != index),
            Verdict::Stay | Verdict::Leave | Verdict::LeaderAt(_) => None,
        };
        state.followed = leader.is_some();
        state.last = index;
        state.current = leader;
        state.look_at = None;
    }

    /// Returns the current endpoint. Asks the endpoints if there is none.
    async fn current(self: &Arc<Self>) -> Result<usize, NoAnswer> {
        let begun = Instant::now();
        if let Some(current) = self.known(begun) {
            return Ok(current);
        }
        let _turn = self.asking.lock().await;
        {
            let state = self.state.lock();
            if let Some(current) = state.current {
                return Ok(current);
            }
            if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| *at >= begun) {
                return Err(error.clone());
            }
        }
        match self.ask(ANSWER_TIMEOUT).await {
            Ok(answer) => {
                self.use_endpoint(answer);
                Ok(answer.index)
            }
            Err(error) => {
                self.state.lock().failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Returns the current endpoint, if it is known. If it does not lead, looks for the leader in the background from time to time.
    fn known(self: &Arc<Self>, now: Instant) -> Option<usize> {
        let mut state = self.state.lock();
        let current = state.current?;
        if state.look_at.is_some_and(|at| at <= now) && !self.looking.swap(true, Ordering::Relaxed) {
            state.look_at = Some(now + LEADER_INTERVAL);
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let answer = shared.ask(ANSWER_TIMEOUT).await;
                shared.looking.store(false, Ordering::Relaxed);
                if let Some(leader) = answer.ok().filter(|answer| answer.leads) {
                    shared.use_endpoint(leader);
                }
            });
        }
        Some(current)
    }

    /// Makes the endpoint that gave `answer` the current one.
    fn use_endpoint(&self, answer: Answer) {
        let mut state = self.state.lock();
        state.current = Some(answer.index);
        state.last = answer.index;
        state.followed = false;
        state.failed = None;
        let forwards = !answer.leads && answer.term > 0;
        state.look_at = forwards.then(|| Instant::now() + LEADER_INTERVAL);
    }

    /// Asks all endpoints at the same time which of them leads. Returns the best answer after all have answered, or [`GRACE`] after
    /// the first answer. Waits for at most `limit`.
    async fn ask(&self, limit: Duration) -> Result<Answer, NoAnswer> {
        let mut questions: FuturesUnordered<_> = (0..self.endpoints.len())
            .map(|index| async move { (index, self.ask_one(index, limit).await) })
            .collect();
        let mut best: Option<Answer> = None;
        let mut faults = Vec::new();
        let mut wait = pin!(sleep_until(Instant::now() + limit));
        loop {
            let next = tokio::select! {
                biased;
                next = questions.next() => next,
                () = &mut wait, if best.is_some() => None,
            };
            match next {
                None => break,
                Some((index, Err(fault))) => faults.push((index, fault)),
                Some((_, Ok(answer))) => {
                    if best.is_none() {
                        wait.as_mut().reset(Instant::now() + GRACE);
                    }
                    if best.is_none_or(|best| self.rank(&answer) > self.rank(&best)) {
                        best = Some(answer);
                    }
                }
            }
        }
        faults.sort_by_key(|(index, _)| *index);
        let named = |(index, fault): (usize, Fault)| {
            let endpoint = self.endpoints.get(index)?;
            Some((endpoint.name.to_string(), fault))
        };
        best.ok_or_else(|| NoAnswer(Fault::NoneAnswers(faults.into_iter().filter_map(named).collect())))
    }

    /// Asks one endpoint which replica leads. Every answer shows that the endpoint works, also an error: a token may not suffice for
    /// the question, and an embedded store has no replicas.
    async fn ask_one(&self, index: usize, limit: Duration) -> Result<Answer, Fault> {
        let endpoint = self.endpoint(index).map_err(|NoAnswer(fault)| fault)?;
        let mut request = tonic::Request::new(GetReplicaStateRequest {});
        if let Some(value) = &self.authorization {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.clone());
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        let mut client = EngineServiceClient::new(endpoint.channel.clone());
        let Ok(answer) = timeout(limit, client.get_replica_state(request)).await else {
            return Err(Fault::TimedOut(Some(limit)));
        };
        let (available, term, leads) = match answer.map(|response| response.into_inner().replica) {
            Ok(Some(replica)) => (true, replica.term, replica.role() == ReplicaRole::Leader),
            Ok(None) => (true, 0, true),
            Err(status) if connection_lost(&status) => {
                return Err(Fault::of_call(&status).within(limit));
            }
            Err(status) => (status.code() != Code::Unavailable, 0, false),
        };
        Ok(Answer {
            index,
            available,
            term,
            leads,
        })
    }

    /// Returns how good an endpoint is. The term counts most, because a leader with an older term than that of another replica no longer
    /// leads. If endpoints are equally good, the endpoint after the last current one is the best, so that a client does not stay at an
    /// endpoint that fails.
    fn rank(&self, answer: &Answer) -> impl Ord + use<> {
        let count = self.endpoints.len();
        let last = self.state.lock().last;
        let failures = self.endpoint(answer.index);
        let failures = failures.map_or(0, |endpoint| endpoint.failures.load(Ordering::Relaxed));
        let fails = failures >= FAILURES_MAX;
        let distance = (answer.index + count - last - 1) % count + usize::from(failures > 0) * count;
        (
            answer.available,
            !fails,
            answer.term,
            answer.leads,
            Reverse(distance),
        )
    }
}

/// The body of an answer. Its end shows whether the endpoint can still be used.
#[derive(Debug)]
struct ObservedBody {
    body: Body,
    index: usize,
    /// `None` after the end of the body was recorded.
    shared: Option<Arc<Shared>>,
}

// ===== impl ObservedBody =====

impl ObservedBody {
    fn end(&mut self, verdict: &Verdict) {
        if let Some(shared) = self.shared.take() {
            shared.judge(self.index, verdict);
        }
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let observed = self.get_mut();
        let frame = Pin::new(&mut observed.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let status = frame.trailers_ref().and_then(Status::from_header_map);
                if let Some(status) = status {
                    observed.end(&Verdict::of(&status));
                }
            }
            Poll::Ready(Some(Err(_))) => observed.end(&Verdict::Leave),
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
