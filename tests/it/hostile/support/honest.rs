//! An honest client that makes calls while other clients attack.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tally::proto::transaction_service_client::TransactionServiceClient;
use tokio::{task::JoinHandle, time::Instant};
use tonic::Request;

use crate::support::{in_process::pay, server::TestServer};

/// The pause between two calls.
const PAUSE: Duration = Duration::from_millis(2);
/// Maximum number of checks for an answered call, with [`PAUSE`] between two checks.
const CHECKS_MAX: usize = 30_000;

/// A running honest client.
pub(crate) struct HonestClient {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    work: JoinHandle<Vec<Duration>>,
}

/// The latencies that an honest client measured.
pub(crate) struct Served {
    pub(crate) calls: usize,
    pub(crate) p99: Duration,
}

impl HonestClient {
    /// Starts a client. Each of its calls moves one unit, and every call must succeed.
    pub(crate) async fn start(server: &TestServer, name: &'static str) -> Self {
        Self::start_with(server, name, None).await
    }

    /// Starts a client that sends a token.
    pub(crate) async fn start_with(
        server: &TestServer,
        name: &'static str,
        token: Option<&'static str>,
    ) -> Self {
        let mut client = TransactionServiceClient::connect(server.endpoint())
            .await
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::<AtomicUsize>::default();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&served));
        let work = tokio::spawn(async move {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let id = format!("{}-{}", name.replace([' ', ','], "_"), times.len());
                let mut request = Request::new(pay(&id));
                if let Some(token) = token {
                    let bearer = format!("Bearer {token}").parse().unwrap();
                    request.metadata_mut().insert("authorization", bearer);
                }
                client
                    .process_transaction(request)
                    .await
                    .expect("an honest client is served");
                times.push(begun.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            times
        });
        HonestClient { stop, served, work }
    }

    /// Waits until a call is answered that began after this method was called.
    pub(crate) async fn wait_until_served(&self) {
        let before = self.served.load(Ordering::Relaxed);
        for _ in 0..CHECKS_MAX {
            // The first answered call may have begun before this method was called. The second answered call began
            // later.
            if self.served.load(Ordering::Relaxed) > before + 1 {
                return;
            }
            assert!(!self.work.is_finished(), "the client has failed");
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the honest client is not served");
    }

    pub(crate) async fn finish(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.work.await.expect("every call was answered");
        times.sort();
        Served {
            calls: times.len(),
            p99: times.get(times.len() * 99 / 100).copied().unwrap_or_default(),
        }
    }
}
