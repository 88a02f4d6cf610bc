//! Passes each call to the code that answers it.

use std::{future::ready, net::SocketAddr, sync::Arc};

use futures_util::FutureExt;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes, transport::server::TcpConnectInfo};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use super::{
    access::{Access, Authorised},
    accounts::service::AccountService,
    introspection::service::EngineService,
    limits::QUERY_BYTES_MAX,
    methods::{Handler, Need},
    status,
    transactions::service::TransactionService,
    transport::{
        budget::{CALL_BYTES, Reservation},
        clients::{Clients, ConnectionMetrics},
        connection_limits::ConnectionLimits,
        framing::AdmittedCall,
        lifetime::{Lifetime, LimitedBody},
        outbound::{Answer, AnswerFuture},
        receive_timeout::TimedBody,
    },
};
use crate::{
    engine::TallyEngine,
    proto::{FILE_DESCRIPTOR_SET, engine_service_server::EngineServiceServer},
    security::Security,
};

/// Most open calls of the health service's `Watch`. A usual client has one for each connection.
const HEALTH_WATCHERS_MAX: usize = 1024;
/// Most open calls of `Watch` of one client.
const HEALTH_WATCHERS_OF_CLIENT_MAX: usize = 256;

/// Memory of a call that tonic serves, in addition to [`CALL_BYTES`]: tonic has a buffer for each direction.
const TONIC_CALL_BYTES: usize = 24 << 10;

type Engine = EngineServiceServer<EngineService>;

/// All services. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Services {
    /// On the hot path, so it is not behind the router.
    transactions: TransactionService,
    accounts: AccountService,
    others: Routes,
    access: Access,
    /// Counts the open calls of the health service's `Watch`.
    health_watchers: Clients,
    connections: ConnectionMetrics,
    draining: CancellationToken,
}

// ===== impl Services =====

impl Services {
    /// Returns the metrics of the connections through which these services are called.
    #[must_use]
    pub const fn connections(&self) -> &ConnectionMetrics {
        &self.connections
    }

    /// Answers a call from `peer`. `limits` are those of its connection.
    pub(crate) fn call(
        &self,
        request: http::Request<Incoming>,
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
        };
        let transactions = &self.transactions;
        match authorised.method.handler {
            Handler::ProcessTransaction => transactions.process_transaction(call),
            Handler::ProcessTransactions => transactions.process_transactions(call),
            Handler::GetTransaction => transactions.find_transaction(call),
            Handler::StreamTransactions => transactions.stream_transactions(call, self.lifetime(authorised)),
            Handler::Accounts(method) => self.accounts.call(method, call),
            Handler::Unary | Handler::Stream | Handler::HealthWatch => self.route(call, authorised, peer),
        }
    }

    /// Authorises a call, and reserves its memory. The memory is last, so that an unauthorised caller takes no memory
    /// from others.
    ///
    /// # Errors
    /// As [`ConnectionLimits::check_headers`], [`Access::check`] and [`ConnectionLimits::admit`].
    fn admit(
        &self,
        request: &http::Request<Incoming>,
        limits: &ConnectionLimits,
    ) -> Result<(Reservation, Authorised), Status> {
        let authorised = ConnectionLimits::check_headers(request.headers())
            .and_then(|()| self.access.check(request))
            .inspect_err(|_| limits.count_refusal())?;
        let reservation = match authorised.method.need {
            Need::Nothing => limits.admit_probe(CALL_BYTES + TONIC_CALL_BYTES),
            Need::Role(_) => limits.admit(),
        };
        Ok((reservation?, authorised))
    }

    /// Answers a call that tonic serves.
    fn route(&self, call: AdmittedCall, authorised: Authorised, peer: SocketAddr) -> AnswerFuture {
        let AdmittedCall {
            mut request,
            limits,
            mut reservation,
        } = call;
        if !reservation.grow_to(CALL_BYTES + TONIC_CALL_BYTES) {
            return Box::pin(ready(Ok(Answer::status(
                limits.memory_limit_reached(),
                reservation,
            ))));
        }
        // Only administrative calls need the peer and the principal. The hot path avoids the allocation of the
        // extensions.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(peer),
        });
        if let Some(grant) = &authorised.grant {
            request.extensions_mut().insert(grant.principal.clone());
        }
        let place = if authorised.method.handler == Handler::HealthWatch {
            let Some(place) = self.health_watchers.admit(peer.ip()) else {
                let status = status::too_many_watchers(HEALTH_WATCHERS_MAX);
                return Box::pin(ready(Ok(Answer::status(status, reservation))));
            };
            Some(place)
        } else {
            None
        };
        let lifetime = (authorised.method.handler != Handler::Unary).then(|| self.lifetime(authorised));
        let request = request.map(|body| TimedBody::new(body, limits.time_max()));
        let answered = self.others.clone().call(request);
        Box::pin(answered.map(|response| {
            response.map(|response| {
                let response = match lifetime {
                    None => response,
                    Some(lifetime) => {
                        response.map(|body| tonic::body::Body::new(LimitedBody::new(body, lifetime, place)))
                    }
                };
                Answer::tonic(response, reservation)
            })
        }))
    }

    /// Returns the lifetime of the stream that the call opens.
    fn lifetime(&self, authorised: Authorised) -> Lifetime {
        Lifetime::new(&self.access, authorised, &self.draining)
    }
}

/// Builds all services over `engine`, and the reporter of their health.
///
/// # Errors
/// If the compiled descriptors cannot be read. This is a bug of the build.
pub async fn services(
    engine: &TallyEngine,
    security: &Arc<Security>,
    draining: &CancellationToken,
) -> Result<(Services, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<TransactionService>().await;
    reporter.set_serving::<AccountService>().await;
    reporter.set_serving::<Engine>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let transactions = TransactionService::new(engine.clone());
    // tonic allocates the announced length of a message before it arrives, so its limit is low.
    let most = QUERY_BYTES_MAX;
    let engine_service = Engine::new(EngineService::new(engine.clone(), draining.clone()));
    let others = Routes::new(engine_service.max_decoding_message_size(most))
        .add_service(health.max_decoding_message_size(most))
        .add_service(reflection().build_v1()?.max_decoding_message_size(most))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(most))
        .prepare();
    let services = Services {
        transactions,
        accounts: AccountService::new(engine.clone()),
        others,
        access: Access::new(Arc::clone(security)),
        health_watchers: Clients::new(HEALTH_WATCHERS_OF_CLIENT_MAX, HEALTH_WATCHERS_MAX),
        connections: ConnectionMetrics::default(),
        draining: draining.clone(),
    };
    Ok((services, reporter))
}

/// Reports all services as NOT_SERVING, so that clients send no more requests.
pub async fn not_serving(reporter: &HealthReporter) {
    for service in [
        "",
        "tally.v1.TransactionService",
        "tally.v1.AccountService",
        "tally.v1.EngineService",
    ] {
        reporter
            .set_service_status(service, tonic_health::ServingStatus::NotServing)
            .await;
    }
}
