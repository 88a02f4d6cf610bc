//! The baseline: a bare tonic server that answers what a transaction would be answered with, without a ledger.

use std::{net::SocketAddr, process::ExitCode};

use clap::Args;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    cli::{exit, fail},
    proto::{
        ProcessTransactionRequest, ProcessTransactionResponse,
        bench::echo_server::{Echo, EchoServer},
    },
    topology::{AffinityConfig, CpuAffinityManager, Role},
};

/// As the service has it: calls under way on one connection.
const STREAMS_MAX: u32 = 4096;

/// Options of `tally echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[derive(Debug)]
struct Echoing;

#[tonic::async_trait]
impl Echo for Echoing {
    async fn echo(
        &self,
        request: Request<ProcessTransactionRequest>,
    ) -> Result<Response<ProcessTransactionResponse>, Status> {
        let ProcessTransactionRequest {
            transaction_id,
            transfers,
            ..
        } = request.into_inner();
        Ok(Response::new(ProcessTransactionResponse {
            transaction_id,
            sequence: i64::try_from(transfers.len()).unwrap_or_default(),
            commit_time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 1,
            }),
            replayed: false,
        }))
    }
}

/// Serves on one pinned, single-threaded runtime, as a NET thread of the service does.
#[expect(clippy::print_stdout, reason = "the line that the bench reads")]
pub(in crate::cli) fn run(args: &EchoArgs) -> ExitCode {
    let affinity = match CpuAffinityManager::detect(AffinityConfig::default()) {
        Ok(affinity) => affinity,
        Err(error) => return fail(exit::SOFTWARE, &error),
    };
    let listen = args.listen;
    let served = affinity.spawn_async(Role::Net, 0, "tally-echo", move || async move {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        println!("listening on {}", listener.local_addr()?);
        Server::builder()
            .tcp_nodelay(true)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .add_service(EchoServer::new(Echoing))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .map_err(std::io::Error::other)
    });
    match served.map(|thread| thread.join()) {
        Ok(Ok(Ok(Ok(())))) => ExitCode::SUCCESS,
        Ok(Ok(Ok(Err(error)))) => fail(exit::UNAVAILABLE, &error),
        Ok(Ok(Err(error))) | Err(error) => fail(exit::SOFTWARE, &error),
        Ok(Err(_panic)) => ExitCode::from(exit::SOFTWARE),
    }
}
