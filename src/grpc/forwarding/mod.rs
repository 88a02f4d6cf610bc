//! Forwards calls to the leader of a replicated store, one hop, as raw HTTP/2: path, headers, messages in both directions and
//! trailers pass unchanged.
//!
//! - A call at a replica that does not lead goes to the address of the leader in the replica's view. The header
//!   [`FORWARDED`] marks it. A marked call at a replica that does not lead gets NOT_LEADER, so there are no loops. The mark is the id of the
//!   ledger: a service of another ledger, which may have got the address of the leader, does not execute the call.
//! - Both replicas check the token of the call.
//! - If the call certainly did not reach the leader, the client gets NOT_LEADER. If the connection fails later, the client gets
//!   LEADER_LOST: whether the call was executed is unknown. A stream ends with this status.
//! - The calls of a client use a connection to the leader that few other clients use (`leader.rs`). So a client that does not
//!   read its answers can't block all others.

mod body;
mod leader;
mod metrics;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, uri::PathAndQuery};
use hyper::body::Incoming;
use tally_batch::BatchError;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;

use self::{
    body::{Cut, OutgoingBody, RelayedBody, is_reset},
    leader::{ConnectError, Connections, Sender},
    metrics::{ForwardCounts, Outcome},
};
use super::{
    status::{self, replica as replica_status},
    transport::{
        budget::CALL_BYTES, clients::Clients, deadline, framing::AdmittedCall, http2::HEADER_BYTES_MAX,
        lifetime::Lifetime, outbound::Answer, request_body::RequestBody,
    },
};
use crate::store::replicated::{Replica, ReplicaRole, ReplicaView};

pub use self::{
    leader::{ForwardingConfig, ForwardingError},
    metrics::ForwardingMetrics,
};

/// Marks a call that another replica forwards.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("tally-forwarded");
/// Says that a read may show an old state: [`STALE_OK`].
const CONSISTENCY: HeaderName = HeaderName::from_static("tally-consistency");
/// The value of [`CONSISTENCY`] with which a standby answers a read from its own copy.
const STALE_OK: &[u8] = b"stale-ok";
/// The mark of a replica that does not know its ledger yet.
const UNKNOWN_LEDGER: HeaderValue = HeaderValue::from_static("unknown");

/// Maximum number of calls that a replica forwards at the same time.
const CALLS_MAX: usize = 16 << 10;
/// Maximum number of calls of one client that a replica forwards at the same time.
const CALLS_OF_CLIENT_MAX: usize = 4 << 10;
/// Memory of a forwarded call in addition to [`CALL_BYTES`]: the unread part of its answer, and a frame of its request.
const FORWARDED_BYTES: usize = 32 << 10;
/// The leader answers at the deadline of a call. If the leader does not answer within this time after the deadline, the replica answers.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);
/// The greatest value of the header `grpc-timeout`, which has at most eight digits.
const TIMEOUT_VALUE_MAX: u128 = 99_999_999;

/// By how much the header `grpc-timeout` can grow when it gets the time that is left, in bytes: from one digit to eight.
const TIMEOUT_GROWTH_BYTES: usize = 7;

/// Forwards calls to the leader. Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Forwarder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    replica: Replica,
    connections: Connections,
    /// Counts the forwarded calls.
    calls: Clients,
    counts: Arc<ForwardCounts>,
}

/// Which replica must answer a call.
#[derive(Debug)]
pub(crate) enum Destination {
    /// By this replica.
    Here,
    /// By the leader with this address.
    Leader(String),
    /// By no replica at the moment. Contains the error for the client.
    Nowhere(Status),
}

/// A stream that a call opens, with its lifetime.
#[derive(Debug)]
pub(crate) enum OpenStream {
    /// The client sends messages until it ends the call.
    OfClient(Lifetime),
    /// Only the service sends messages after the first one.
    OfService(Lifetime),
}

/// A call on its way to the leader.
struct Outgoing {
    request: Request<OutgoingBody>,
    leader: String,
    client: IpAddr,
    deadline: Option<Instant>,
}

// ===== impl Forwarder =====

impl Forwarder {
    /// Makes the forwarder of `replica`.
    ///
    /// # Errors
    /// [`ForwardingError`] if a file of `config` can't be used.
    pub(crate) fn new(replica: &Replica, config: ForwardingConfig) -> Result<Self, ForwardingError> {
        let counts = Arc::new(ForwardCounts::default());
        Ok(Forwarder(Arc::new(Shared {
            replica: replica.clone(),
            connections: Connections::new(replica, config)?,
            calls: Clients::new(CALLS_OF_CLIENT_MAX, CALLS_MAX),
            counts,
        })))
    }

    /// Returns the metrics of the forwarded calls.
    pub(crate) fn metrics(&self) -> ForwardingMetrics {
        ForwardingMetrics::new(Arc::clone(&self.0.counts))
    }

    /// Returns where a call with these `headers` must be answered. `reads` says whether the call only reads.
    pub(crate) fn destination(&self, headers: &HeaderMap, reads: bool) -> Destination {
        if self.0.replica.read(|view| is_of_other_ledger(headers, view)) {
            return self.nowhere(None);
        }
        self.0.replica.read(|view| match view.role {
            ReplicaRole::Leader => Destination::Here,
            ReplicaRole::Standby | ReplicaRole::Candidate
                if reads && headers.get(CONSISTENCY).is_some_and(|value| value == STALE_OK) =>
            {
                Destination::Here
            }
            ReplicaRole::Starting | ReplicaRole::Standby | ReplicaRole::Candidate | ReplicaRole::Stopped => {
                match view.other_leader() {
                    Some(leader) if !headers.contains_key(FORWARDED) => {
                        Destination::Leader(leader.to_owned())
                    }
                    leader => self.nowhere(leader),
                }
            }
        })
    }

    fn nowhere(&self, leader: Option<&str>) -> Destination {
        self.0.counts.count(Outcome::NotLeader);
        Destination::Nowhere(status::not_leader(leader))
    }

    /// Forwards a call of `peer` to `leader`, and passes the answer on. `stream` is the lifetime of the stream that the call
    /// opens, if it opens one.
    pub(crate) async fn forward(
        self,
        call: AdmittedCall,
        leader: String,
        peer: SocketAddr,
        stream: Option<OpenStream>,
    ) -> Response<Answer> {
        let AdmittedCall {
            request,
            limits,
            mut reservation,
            caller: _,
        } = call;
        let counts = &self.0.counts;
        let Some(place) = self.0.calls.admit(peer.ip()) else {
            counts.count(Outcome::NotSent);
            return Answer::status(
                replica_status::too_many_forwarded(CALLS_OF_CLIENT_MAX, CALLS_MAX),
                reservation,
            );
        };
        if !reservation.grow_to(CALL_BYTES + FORWARDED_BYTES) {
            counts.count(Outcome::NotSent);
            return Answer::status(limits.memory_limit_reached(), reservation);
        }
        let deadline = match deadline::from_headers(request.headers()) {
            Ok(deadline) => deadline,
            Err(status) => return Answer::status(status, reservation),
        };
        let cut = Arc::new(Cut::default());
        // The service may end a stream. If the client still sends messages, the rest of its messages is cut off, and the leader
        // still answers the messages that it has received. If only the service sends messages, the answer ends at once.
        let (of_request, of_answer) = match stream {
            None => (None, None),
            Some(OpenStream::OfClient(lifetime)) => (Some(lifetime.ended().boxed()), None),
            Some(OpenStream::OfService(lifetime)) => (None, Some(lifetime.ended().boxed())),
        };
        let request = self.outgoing(request, &leader, of_request, &cut);
        // The leader would refuse the call without reading it.
        if header_bytes(&request) + TIMEOUT_GROWTH_BYTES > HEADER_BYTES_MAX as usize {
            counts.count(Outcome::NotSent);
            return Answer::status(replica_status::headers_too_long(HEADER_BYTES_MAX), reservation);
        }
        let outgoing = Outgoing {
            request,
            leader: leader.clone(),
            client: peer.ip(),
            deadline,
        };
        match self.send(outgoing).await {
            Ok(response) => {
                let body = RelayedBody::new(cut, place, self.lost_report(leader));
                let (head, incoming) = response.into_parts();
                let has_status = head.headers.contains_key(Status::GRPC_STATUS);
                let body = tonic::body::Body::new(body.of(incoming, has_status));
                let over = answer_is_over(of_answer, deadline);
                Answer::relayed(Response::from_parts(head, body), over, reservation)
            }
            Err(status) => Answer::status(status, reservation),
        }
    }

    /// Makes the request to the leader.
    fn outgoing(
        &self,
        request: Request<RequestBody>,
        leader: &str,
        over: Option<BoxFuture<'static, Status>>,
        cut: &Arc<Cut>,
    ) -> Request<OutgoingBody> {
        let (mut head, body) = request.into_parts();
        head.uri = address_of(leader, head.uri.path_and_query());
        head.headers.insert(FORWARDED, self.0.replica.read(mark_of));
        head.extensions.clear();
        Request::from_parts(head, OutgoingBody::new(body, over, Arc::clone(cut)))
    }

    /// Sends a call, and returns the beginning of its answer.
    async fn send(&self, outgoing: Outgoing) -> Result<Response<Incoming>, Status> {
        let Outgoing {
            mut request,
            leader,
            client,
            deadline,
        } = outgoing;
        let counts = &self.0.counts;
        // A connection may close just before the call is sent. The second attempt opens a new connection.
        for _ in 0..2 {
            let connected = before(deadline, self.0.connections.sender(client, &leader)).await;
            let mut sender = match connected {
                Some(Ok(sender)) => sender,
                Some(Err(error)) => return Err(self.not_sent(&leader, Some(&error))),
                None => {
                    counts.count(Outcome::Expired);
                    return Err(status::engine(&BatchError::ExpiredInQueue.into()));
                }
            };
            set_timeout(request.headers_mut(), deadline);
            let grace = deadline.map(|deadline| deadline + DEADLINE_GRACE);
            match before(grace, attempt(&mut sender, request)).await {
                None => {
                    counts.count(Outcome::Expired);
                    return Err(status::engine(&BatchError::ExpiredInExecution.into()));
                }
                Some(Ok(response)) if response.status() == StatusCode::OK => {
                    counts.count(Outcome::Answered);
                    self.0.connections.succeeded(&leader);
                    return Ok(response);
                }
                Some(Ok(response)) => {
                    tracing::debug!(leader, status = %response.status(), "the leader's address answered without gRPC");
                    // The leader has refused the call. A proxy whose leader is gone answers with a status of 500 or more.
                    return Err(self.lost(&leader, response.status().is_client_error()));
                }
                Some(Err(Unanswered::NotSent(unsent))) => request = *unsent,
                Some(Err(Unanswered::Reset)) => return Err(self.lost(&leader, true)),
                Some(Err(Unanswered::Disconnected)) => return Err(self.lost(&leader, false)),
            }
        }
        Err(self.not_sent(&leader, None))
    }

    /// Returns the error of a call that was certainly not sent.
    fn not_sent(&self, leader: &str, error: Option<&ConnectError>) -> Status {
        tracing::debug!(
            leader,
            error = error.map(tracing::field::display),
            "a call could not be forwarded"
        );
        self.0.counts.count(Outcome::NotSent);
        self.0.connections.failed(leader);
        status::not_leader(None)
    }

    /// Returns the error of a call that may have been sent. `is_reachable` says whether the leader itself has ended the call. Then the
    /// failure says nothing about the leader: a client can cause it by what it sends, and must not start an election.
    fn lost(&self, leader: &str, is_reachable: bool) -> Status {
        self.0.counts.count(Outcome::Lost);
        if is_reachable {
            self.0.connections.succeeded(leader);
        } else {
            self.0.connections.failed(leader);
        }
        replica_status::connection_to_leader_lost()
    }

    /// Returns the function that makes the last status of an answer that is incomplete. Its argument is that of [`Forwarder::lost`].
    fn lost_report(&self, leader: String) -> impl FnOnce(bool) -> Status + Send + 'static + use<> {
        let forwarder = self.clone();
        move |is_reachable| forwarder.lost(&leader, is_reachable)
    }

    /// Returns whether another replica of this ledger has forwarded the call.
    pub(crate) fn has_forwarded(&self, headers: &HeaderMap) -> bool {
        let mark = headers.get(FORWARDED);
        mark.is_some_and(|mark| mark != UNKNOWN_LEDGER && *mark == self.0.replica.read(mark_of))
    }
}

/// Why a call has no answer.
enum Unanswered {
    /// The call was certainly not sent.
    NotSent(Box<Request<OutgoingBody>>),
    /// The leader has reset the call.
    Reset,
    /// The connection has failed.
    Disconnected,
}

/// Sends `request`.
async fn attempt(
    sender: &mut Sender,
    request: Request<OutgoingBody>,
) -> Result<Response<Incoming>, Unanswered> {
    sender.try_send_request(request).await.map_err(|mut error| {
        let unsent = error.take_message();
        tracing::debug!(error = %error.error(), sent = unsent.is_none(), "a forwarded call failed");
        match unsent {
            Some(unsent) => Unanswered::NotSent(Box::new(unsent)),
            None if is_reset(error.error()) => Unanswered::Reset,
            None => Unanswered::Disconnected,
        }
    })
}

/// Returns the size of the headers of a call, as HTTP/2 counts them: 32 bytes for each in addition to its name and its value.
fn header_bytes(request: &Request<OutgoingBody>) -> usize {
    const OVERHEAD: usize = 32;
    let uri = request.uri();
    let own = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (
            ":authority",
            uri.authority().map_or("", |authority| authority.as_str()),
        ),
        (":path", uri.path_and_query().map_or("/", PathAndQuery::as_str)),
    ];
    let own = own.iter().map(|(name, value)| name.len() + value.len());
    let others = request.headers().iter();
    let others = others.map(|(name, value)| name.as_str().len() + value.len());
    own.chain(others).map(|bytes| bytes + OVERHEAD).sum()
}

/// Becomes ready when the replica must end an answer that the leader has begun: when `ended` is ready, or when the leader does not
/// complete the answer in time.
fn answer_is_over(
    ended: Option<BoxFuture<'static, Status>>,
    deadline: Option<Instant>,
) -> Option<BoxFuture<'static, Status>> {
    let Some(deadline) = deadline else {
        return ended;
    };
    let expired = async move {
        sleep_until(deadline + DEADLINE_GRACE).await;
        status::engine(&BatchError::ExpiredInExecution.into())
    };
    Some(match ended {
        None => expired.boxed(),
        Some(ended) => async move {
            tokio::select! {
                status = ended => status,
                status = expired => status,
            }
        }
        .boxed(),
    })
}

/// Waits for `work`, until `limit` if there is a limit. Returns `None` at the limit.
async fn before<T>(limit: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout_at(limit, work).await.ok(),
        None => Some(work.await),
    }
}

/// Returns the address of a method at the leader.
fn address_of(leader: &str, path: Option<&PathAndQuery>) -> Uri {
    let path = path.map_or("/", PathAndQuery::as_str);
    // The leader's address was checked when the view got it. A wrong address fails when the connection is opened.
    format!("{leader}{path}")
        .parse()
        .unwrap_or_else(|_| Uri::from_static("/"))
}

/// Sets the header `grpc-timeout` to the time that is left.
fn set_timeout(headers: &mut HeaderMap, deadline: Option<Instant>) {
    let Some(deadline) = deadline else {
        return;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm')];
    let (value, unit) = units
        .into_iter()
        .find(|(value, _)| *value <= TIMEOUT_VALUE_MAX)
        .unwrap_or((u128::from(left.as_secs()).min(TIMEOUT_VALUE_MAX), 'S'));
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(format!("{value}{unit}"))) {
        headers.insert(deadline::HEADER, value);
    }
}

/// Returns whether a replica of another ledger has forwarded the call.
fn is_of_other_ledger(headers: &HeaderMap, view: &ReplicaView) -> bool {
    headers.get(FORWARDED).is_some_and(|mark| *mark != mark_of(view))
}

/// Returns the mark of the calls that a replica forwards.
fn mark_of(view: &ReplicaView) -> HeaderValue {
    let mark = view
        .identity
        .map(|identity| HeaderValue::try_from(identity.data_id.to_string()));
    match mark {
        Some(Ok(mark)) => mark,
        Some(Err(_)) | None => UNKNOWN_LEDGER,
    }
}

#[cfg(test)]
mod tests {
    use tally_journal::DataId;

    use super::*;
    use crate::store::replicated::{ReplicaDriver, ReplicaIdentity};

    const IDENTITY: ReplicaIdentity = ReplicaIdentity {
        data_id: DataId::from_bytes([0xab; 16]),
        topic_id: [2; 16],
    };

    const LEADER: &str = "http://127.0.0.1:1";

    fn forwarder(role: ReplicaRole, leader: Option<&str>) -> (Forwarder, ReplicaDriver) {
        let (replica, driver) = Replica::new(ReplicaView {
            role,
            leader: leader.map(str::to_owned),
            own_address: "http://127.0.0.1:2".to_owned(),
            identity: Some(IDENTITY),
            ..ReplicaView::default()
        });
        (
            Forwarder::new(&replica, ForwardingConfig::default()).unwrap(),
            driver,
        )
    }

    #[test]
    fn the_destination_follows_from_the_view_and_the_headers() {
        let none = HeaderMap::new();
        let marked = HeaderMap::from_iter([(
            FORWARDED,
            HeaderValue::from_static("abababababababababababababababab"),
        )]);
        let of_another_ledger = HeaderMap::from_iter([(FORWARDED, HeaderValue::from_static("1"))]);
        let stale = HeaderMap::from_iter([(CONSISTENCY, HeaderValue::from_static("stale-ok"))]);
        let word = |role, leader, headers: &HeaderMap, reads| match forwarder(role, leader)
            .0
            .destination(headers, reads)
        {
            Destination::Here => "here",
            Destination::Leader(_) => "leader",
            Destination::Nowhere(_) => "nowhere",
        };
        for role in ReplicaRole::ALL {
            let leads = role == ReplicaRole::Leader;
            let holds_copy = matches!(role, ReplicaRole::Standby | ReplicaRole::Candidate);
            let or_here = |other| if leads { "here" } else { other };
            assert_eq!(word(role, Some(LEADER), &none, false), or_here("leader"));
            assert_eq!(word(role, Some(LEADER), &marked, false), or_here("nowhere"));
            assert_eq!(word(role, Some(LEADER), &of_another_ledger, false), "nowhere");
            assert_eq!(word(role, None, &none, false), or_here("nowhere"));
            assert_eq!(
                word(role, Some("http://127.0.0.1:2"), &none, false),
                or_here("nowhere")
            );
            assert_eq!(
                word(role, Some(LEADER), &stale, false),
                or_here("leader"),
                "a write is never stale"
            );
            let read = word(role, Some(LEADER), &stale, true);
            assert_eq!(read, if leads || holds_copy { "here" } else { "leader" });
        }
    }

    #[test]
    fn the_timeout_that_is_left_has_at_most_eight_digits() {
        let now = Instant::now();
        for (seconds, unit) in [(0, 'u'), (50, 'u'), (200, 'm'), (200_000, 'S')] {
            let mut headers = HeaderMap::new();
            set_timeout(&mut headers, Some(now + Duration::from_secs(seconds)));
            let value = headers
                .get(deadline::HEADER)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            assert!(value.ends_with(unit) && value.len() <= 9, "{value}");
            deadline::from_headers(&headers).unwrap().unwrap();
        }
    }
}
