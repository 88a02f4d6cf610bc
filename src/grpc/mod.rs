//! The gRPC face: decode, check the shape, call the engine, answer.
//!
//! [`serve`] runs one pinned, single-threaded runtime for each NET CPU. Connections are accepted in one place and dealt
//! out in turn, so that a few heavy clients don't end up on one thread.

mod accounts;
mod circuit;
mod convert;
mod deadline;
mod engine;
mod net;
pub mod status;
mod topology;
mod transactions;

pub use net::{NetConfig, NetError, NetHandle, serve};
pub use topology::from_info as topology_response;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use self::{accounts::AccountService, engine::EngineService, transactions::TransactionService};
use crate::{
    engine::TallyEngine,
    proto::{
        FILE_DESCRIPTOR_SET, account_service_server::AccountServiceServer,
        engine_service_server::EngineServiceServer, transaction_service_server::TransactionServiceServer,
    },
};

/// Largest message that is read: 8192 transactions of about 2 KiB each.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// All services over `engine`, and the reporter of their health.
///
/// # Errors
/// If the descriptors that were compiled in can't be read: a bug of the build.
pub async fn routes(
    engine: &TallyEngine,
    draining: &CancellationToken,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    type Transactions = TransactionServiceServer<TransactionService>;
    type Accounts = AccountServiceServer<AccountService>;
    type Engine = EngineServiceServer<EngineService>;
    reporter.set_serving::<Transactions>().await;
    reporter.set_serving::<Accounts>().await;
    reporter.set_serving::<Engine>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let transactions = TransactionService::new(engine.clone(), draining.clone());
    let routes = Routes::new(Transactions::new(transactions).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            Accounts::new(AccountService::new(engine.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(Engine::new(EngineService::new(engine.clone())))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((routes, reporter))
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
