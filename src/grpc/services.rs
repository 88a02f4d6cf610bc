//! Passes each call to the code that answers the call.

use std::{future::ready, net::SocketAddr, sync::Arc};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes, transport::server::TcpConnectInfo};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower_service::Service;

use super::{
    access::{self, Authorised},
    accounts::service::AccountService,
    forwarding::{
        Destination, FORWARDED, Forwarder, ForwardingConfig, ForwardingError, ForwardingMetrics, OpenStream,
    },
    introspection::service::EngineService,
    limits::QUERY_BYTES_MAX,
    methods::Handler,
    status,
    transactions::service::TransactionService,
    transport::{
        budget::{CALL_BYTES, Reservation},
        clients::{Clients, ConnectionMetrics},
        connection_limits::ConnectionLimits,
        framing::AdmittedCall,
        lifetime::Lifetime,
        outbound::{Answer, AnswerFuture},
        receive_timeout::TimedBody,
        request_body::RequestBody,
    },
};
use crate::{
    engine::TallyEngine,
    proto::{FILE_DESCRIPTOR_SET, engine_service_server::EngineServiceServer},
    security::Security,
    store::replicated::Replica,
};

/// Maximum number of open calls of the health service's `Watch`. A usual client has one such call on each connection.
const HEALTH_WATCHERS_MAX: usize = 1024;
/// Maximum number of open calls of the health service's `Watch` that one client may have.
const HEALTH_WATCHERS_OF_CLIENT_MAX: usize = 256;
/// The names under which the health service reports: the whole server, and each service.
const HEALTH_NAMES: [&str; 4] = [
    "",
    "tally.v1.TransactionService",
    "tally.v1.AccountService",
    "tally.v1.EngineService",
];

/// Memory of a call that tonic serves, in addition to [`CALL_BYTES`]: tonic has a buffer for each direction.
const TONIC_CALL_BYTES: usize = 24 << 10;

/// All services. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Services {
    /// The service of the most frequent calls. To save time, these calls do not pass through tonic's router.
    transactions: TransactionService,
    accounts: AccountService,
    /// tonic's router, for the other services.
    others: Routes,
    security: Arc<Security>,
    /// Counts the open calls of the health service's `Watch`.
    health_watchers: Clients,
    connections: ConnectionMetrics,
    draining: CancellationToken,
    /// `None` if the store is not replicated.
    forwarder: Option<Forwarder>,
}

// ===== impl Services =====

impl Services {
    /// Returns the metrics of the connections through which these services are called.
    #[must_use]
    pub const fn connections(&self) -> &ConnectionMetrics {
        &self.connections
    }

    /// Returns the metrics of the forwarded calls.
    #[must_use]
    pub fn forwarding(&self) -> ForwardingMetrics {
        let forwarder = self.forwarder.as_ref();
        forwarder.map_or(ForwardingMetrics::none(), Forwarder::metrics)
    }

    /// Lets these services forward calls to the leader whenever `replica` does not lead.
    ///
    /// # Errors
    /// [`ForwardingError`] if a file of `config` can't be used.
    pub fn forward_calls(
        &mut self,
        replica: &Replica,
        config: ForwardingConfig,
    ) -> Result<(), ForwardingError> {
        self.forwarder = Some(Forwarder::new(replica, config)?);
        Ok(())
    }

    /// Answers a call from `peer`. `limits` are the limits of the call's connection.
    pub(crate) fn call(
        &self,
        request: http::Request<RequestBody>,
        peer: SocketAddr,
        limits: &Arc<ConnectionLimits>,
    ) -> AnswerFuture {
        let (reservation, authorised) = match self.admit(&request, limits) {
            Ok(admitted) => admitted,
            Err(status) => return Box::pin(ready(Ok(limits.answer_unadmitted(status)))),
        };
        let call = AdmittedCall {
            request,
            limits: Arc::clone(limits),
            reservation,
            caller: authorised.grant.as_ref().map(|grant| grant.principal.clone()),
        };
        if let Some(forwarder) = &self.forwarder
            && authorised.method.is_answered_by_leader()
        {
            match forwarder.destination(call.request.headers(), authorised.method.only_reads()) {
                Destination::Here => {}
                Destination::Nowhere(status) => return refuse(status, call.reservation),
                Destination::Leader(leader) => {
                    let stream = self.open_stream(authorised);
                    let forwarded = forwarder.clone().forward(call, leader, peer, stream);
                    return forwarded.map(Ok).boxed();
                }
            }
        }
        if self.forwarder.is_none() && call.request.headers().contains_key(FORWARDED) {
            // The call is for the ledger of a replica that had this address.
            return refuse(status::not_leader(None), call.reservation);
        }
        let transactions = &self.transactions;
        match authorised.method.handler {
            Handler::ProcessTransaction => transactions.process_transaction(call),
            Handler::ProcessTransactions => transactions.process_transactions(call),
            Handler::GetTransaction => transactions.find_transaction(call),
            Handler::ListTransactions => transactions.list_transactions(call),
            Handler::GetChainHead => transactions.chain_head(call),
            Handler::StreamTransactions => transactions.stream_transactions(call, self.lifetime(authorised)),
            Handler::WatchTransactions => transactions.watch_transactions(call, self.lifetime(authorised)),
            Handler::Accounts(method) => self.accounts.call(method, call),
            Handler::Unary | Handler::Stream | Handler::HealthWatch => self.route(call, authorised, peer),
        }
    }

    /// Authorises a call, and then reserves its memory. Because of this order, an unauthorised caller takes no memory
    /// from other callers.
    ///
    /// # Errors
    /// As [`ConnectionLimits::check_headers`], [`access::check`] and [`ConnectionLimits::admit`].
    fn admit(
        &self,
        request: &http::Request<RequestBody>,
        limits: &ConnectionLimits,
    ) -> Result<(Reservation, Authorised), Status> {
        let headers = request.headers();
        let marks = usize::from(headers.contains_key(FORWARDED));
        let authorised = ConnectionLimits::check_headers(headers, marks)
            .and_then(|()| access::check(&self.security, request))
            .inspect_err(|_| {
                // Many clients share the connection of another replica. One of them must not get it closed.
                let is_of_replica = self
                    .forwarder
                    .as_ref()
                    .is_some_and(|forwarder| forwarder.has_forwarded(headers));
                if !is_of_replica {
                    limits.count_refusal();
                }
            })?;
        // A method that needs no role is a health check.
        let reservation = match authorised.method.needed_role {
            None => limits.admit_probe(CALL_BYTES + TONIC_CALL_BYTES),
            Some(_) => limits.admit(),
        };
        Ok((reservation?, authorised))
    }

    /// Answers a call that tonic serves.
    fn route(&self, call: AdmittedCall, authorised: Authorised, peer: SocketAddr) -> AnswerFuture {
        let AdmittedCall {
            mut request,
            limits,
            mut reservation,
            caller: _,
        } = call;
        if !reservation.grow_to(CALL_BYTES + TONIC_CALL_BYTES) {
            return refuse(limits.memory_limit_reached(), reservation);
        }
        // Only the services behind tonic's router read the peer and the principal. The other calls do not need this
        // allocation.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(peer),
        });
        if let Some(grant) = &authorised.grant {
            request.extensions_mut().insert(grant.principal.clone());
        }
        let handler = authorised.method.handler;
        let place = (handler == Handler::HealthWatch).then(|| self.health_watchers.admit(peer.ip()));
        if matches!(place, Some(None)) {
            return refuse(status::too_many_watchers(HEALTH_WATCHERS_MAX), reservation);
        }
        let over = (handler != Handler::Unary).then(|| {
            let ended = self.lifetime(authorised).ended();
            // The call's place among the watchers becomes free when the answer drops this future, at the end of the stream.
            ended.inspect(move |_| drop(place)).boxed()
        });
        let request = request.map(|body| TimedBody::new(body, limits.time_max));
        let answered = self.others.clone().call(request);
        Box::pin(answered.map(|response| response.map(|response| Answer::tonic(response, over, reservation))))
    }

    /// Returns the stream that a forwarded call opens; `None` if the call has one answer.
    fn open_stream(&self, authorised: Authorised) -> Option<OpenStream> {
        match authorised.method.handler {
            Handler::StreamTransactions => Some(OpenStream::OfClient(self.lifetime(authorised))),
            Handler::WatchTransactions => Some(OpenStream::OfService(self.lifetime(authorised))),
            Handler::ProcessTransaction
            | Handler::ProcessTransactions
            | Handler::GetTransaction
            | Handler::ListTransactions
            | Handler::GetChainHead
            | Handler::Accounts(_)
            | Handler::Unary
            | Handler::Stream
            | Handler::HealthWatch => None,
        }
    }

    /// Returns the lifetime of the stream that the call opens.
    fn lifetime(&self, authorised: Authorised) -> Lifetime {
        Lifetime::new(&self.security, authorised, &self.draining)
    }
}

/// Answers an admitted call with an error, without a handler.
fn refuse(status: Status, reservation: Reservation) -> AnswerFuture {
    Box::pin(ready(Ok(Answer::status(status, reservation))))
}

/// Builds all services over `engine`, and the reporter of their health.
///
/// # Errors
/// An error if the compiled descriptors cannot be read. This is a bug of the build.
pub async fn services(
    engine: &TallyEngine,
    security: &Arc<Security>,
    draining: &CancellationToken,
) -> Result<(Services, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    report_health(&reporter, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // tonic allocates the announced length of a message before the message arrives, so this limit is low.
    let most = QUERY_BYTES_MAX;
    let engine_service = EngineServiceServer::new(EngineService::new(engine.clone()));
    let others = Routes::new(engine_service.max_decoding_message_size(most))
        .add_service(health.max_decoding_message_size(most))
        .add_service(reflection().build_v1()?.max_decoding_message_size(most))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(most))
        .prepare();
    let services = Services {
        transactions: TransactionService::new(engine.clone()),
        accounts: AccountService::new(engine.clone()),
        others,
        security: Arc::clone(security),
        health_watchers: Clients::new(HEALTH_WATCHERS_OF_CLIENT_MAX, HEALTH_WATCHERS_MAX),
        connections: ConnectionMetrics::default(),
        draining: draining.clone(),
        forwarder: None,
    };
    Ok((services, reporter))
}

/// Reports all services as NOT_SERVING, so that clients send no more requests.
pub async fn not_serving(reporter: &HealthReporter) {
    report_health(reporter, ServingStatus::NotServing).await;
}

async fn report_health(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}
