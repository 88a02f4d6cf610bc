//! The echo server, the baseline of the benchmark: a bare tonic server that answers transactions without a ledger.

use std::net::SocketAddr;

use tally_topology::{AffinityConfig, CpuAffinityManager, Role};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::error::BenchError;
use crate::proto::{
    ProcessTransactionRequest, ProcessTransactionResponse,
    bench::echo_server::{Echo, EchoServer},
};

/// Maximum number of calls in flight on one connection, as in the service.
const STREAMS_MAX: u32 = 4096;

#[derive(Debug)]
struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
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
            ..ProcessTransactionResponse::default()
        }))
    }
}

/// Serves on `listen` until the process is killed, on one pinned single-threaded runtime like a NET thread of the service.
///
/// # Errors
/// [`BenchError::Affinity`] or [`BenchError::Echo`].
pub fn serve(listen: SocketAddr) -> Result<(), BenchError> {
    let affinity = CpuAffinityManager::detect(AffinityConfig::default())?;
    let thread = affinity.spawn_async(Role::Net, 0, "tally-echo", move || async move {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        crate::terminal::outln!("listening on {}", listener.local_addr()?);
        Server::builder()
            .tcp_nodelay(true)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .map_err(std::io::Error::other)
    });
    let served = thread?.join().map_err(|_panic| BenchError::Panicked)?;
    served?.map_err(BenchError::Echo)
}
