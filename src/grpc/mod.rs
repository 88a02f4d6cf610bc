//! The gRPC face: decode, check the shape, call the engine, answer.
//!
//! [`serve`] runs one pinned, single-threaded runtime for each NET CPU. Connections are accepted in one place and dealt
//! out in turn, so that a few heavy clients don't end up on one thread.

mod access;
mod accounts;
mod answers;
mod circuit;
mod circuit_change;
mod clients;
mod connection;
mod convert;
mod deadline;
mod engine;
mod framing;
mod net;
mod patience;
mod requests;
pub mod status;
mod topology;
mod transactions;
mod watch;
mod wire;

pub use engine::{batch_stats_response, circuit_stats_response};
pub use framing::Answer;
pub use net::{Listener, NetConfig, NetError, NetHandle, serve};
pub use topology::from_info as topology_response;

use std::{convert::Infallible, future::ready, net::SocketAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes, transport::server::TcpConnectInfo};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use self::{
    access::Access,
    accounts::AccountService,
    engine::EngineService,
    patience::{Reception, TimedBody},
    transactions::TransactionService,
};
use crate::{
    engine::TallyEngine,
    proto::{
        FILE_DESCRIPTOR_SET, account_service_server::AccountServiceServer,
        engine_service_server::EngineServiceServer,
    },
    security::Security,
};

/// Largest message that is read: 8192 transactions of about 2 KiB each.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

type Accounts = AccountServiceServer<AccountService>;
type Engine = EngineServiceServer<EngineService>;

/// All services. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Services {
    /// On the hot path: called without a look at the other routes.
    transactions: TransactionService,
    others: Routes,
    access: Access,
}

// ===== impl Services =====

impl Services {
    /// Answers a call from `peer`, whose connection has this `reception`.
    fn call(
        &self,
        mut request: http::Request<Incoming>,
        peer: SocketAddr,
        reception: &Arc<Reception>,
    ) -> BoxFuture<'static, Result<http::Response<Answer>, Infallible>> {
        let path = request.uri().path();
        let principal = match self.access.check(path, request.headers()) {
            Ok(principal) => principal,
            Err(status) => return Box::pin(ready(Ok(Answer::status(status)))),
        };
        if path.split('/').nth(1) == Some(TransactionService::NAME) {
            self.transactions.call(request, reception)
        } else {
            // Who asks is of interest to administration only; the hot path is spared the box.
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(peer),
            });
            if let Some(principal) = principal {
                request.extensions_mut().insert(principal);
            }
            let request = request.map(|body| TimedBody::new(body, reception));
            let answered = self.others.clone().call(request);
            Box::pin(answered.map(|response| response.map(Answer::tonic)))
        }
    }
}

/// All services over `engine`, and the reporter of their health.
///
/// # Errors
/// If the descriptors that were compiled in can't be read: a bug of the build.
pub async fn services(
    engine: &TallyEngine,
    security: &Arc<Security>,
    draining: &CancellationToken,
) -> Result<(Services, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<TransactionService>().await;
    reporter.set_serving::<Accounts>().await;
    reporter.set_serving::<Engine>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let transactions = TransactionService::new(engine.clone(), draining.clone());
    let accounts =
        Accounts::new(AccountService::new(engine.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let others = Routes::new(accounts)
        .add_service(Engine::new(EngineService::new(engine.clone(), draining.clone())))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    let services = Services {
        transactions,
        others,
        access: Access::new(Arc::clone(security)),
    };
    Ok((services, reporter))
}

/// Tells the world that no more requests should be sent here.
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
