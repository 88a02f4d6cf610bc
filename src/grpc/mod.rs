//! The gRPC face: decode, check the shape, call the engine, answer.
//!
//! [`serve`] runs one pinned, single-threaded runtime for each NET CPU. Connections are accepted in one place and dealt
//! out in turn, so that a few heavy clients don't end up on one thread.

mod accounts;
mod answers;
mod circuit;
mod convert;
mod deadline;
mod engine;
mod framing;
mod net;
mod requests;
pub mod status;
mod topology;
mod transactions;
mod wire;

pub use framing::Answer;
pub use net::{Listener, NetConfig, NetError, NetHandle, serve};
pub use topology::from_info as topology_response;

use std::convert::Infallible;

use futures_util::{FutureExt, future::BoxFuture};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use self::{accounts::AccountService, engine::EngineService, transactions::TransactionService};
use crate::{
    engine::TallyEngine,
    proto::{
        FILE_DESCRIPTOR_SET, account_service_server::AccountServiceServer,
        engine_service_server::EngineServiceServer,
    },
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
}

// ===== impl Services =====

impl Services {
    /// Answers a call.
    pub fn call(
        &self,
        request: http::Request<Incoming>,
    ) -> BoxFuture<'static, Result<http::Response<Answer>, Infallible>> {
        let mut path = request.uri().path().split('/').skip(1);
        if path.next() == Some(TransactionService::NAME) {
            self.transactions.call(request)
        } else {
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
        .add_service(Engine::new(EngineService::new(engine.clone())))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((Services { transactions, others }, reporter))
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
