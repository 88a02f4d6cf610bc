//! `WatchCircuitStats`: sends a snapshot immediately, after every change, and at intervals if the request has one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::stream::{self, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::circuit;
use crate::{
    engine::TallyEngine,
    grpc::status,
    proto::{WatchCircuitStatsRequest, WatchCircuitStatsResponse},
};

/// Most watchers at a time.
pub(crate) const WATCHERS_MAX: usize = 64;
/// Bounds of the interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// The state of one watcher.
struct Watcher {
    engine: TallyEngine,
    changes: watch::Receiver<u64>,
    interval: Option<Interval>,
    draining: CancellationToken,
    /// Whether no snapshot was sent yet.
    is_new: bool,
    _place: OwnedSemaphorePermit,
}

/// Begins a watch.
///
/// # Errors
/// INVALID_ARGUMENT if the interval is out of bounds, RESOURCE_EXHAUSTED with too many watchers.
pub(crate) fn watch(
    engine: &TallyEngine,
    request: &WatchCircuitStatsRequest,
    places: &Arc<Semaphore>,
    draining: &CancellationToken,
) -> Result<impl Stream<Item = Result<WatchCircuitStatsResponse, Status>> + use<>, Status> {
    let interval = request.interval.as_ref().map(interval).transpose()?;
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return Err(status::too_many_watchers(WATCHERS_MAX));
    };
    let watcher = Watcher {
        // Subscribed before the first snapshot, so that no change is missed.
        changes: engine.circuit_changes(),
        engine: engine.clone(),
        interval,
        draining: draining.clone(),
        is_new: true,
        _place: place,
    };
    Ok(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        if watcher.is_due().await {
            Some((Ok(watcher.snapshot()), Some(watcher)))
        } else {
            Some((Err(status::shutting_down()), None))
        }
    }))
}

fn interval(given: &prost_types::Duration) -> Result<Interval, Status> {
    let period = Duration::try_from(*given)
        .ok()
        .filter(|period| (INTERVAL_MIN..=INTERVAL_MAX).contains(period));
    let Some(period) = period else {
        return Err(status::invalid_field(
            "interval",
            format!("{given}: must be 100ms to 3600s"),
        ));
    };
    let mut interval = interval_at(tokio::time::Instant::now() + period, period);
    // A client that reads slowly does not get the missed snapshots all at once.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(interval)
}

// ===== impl Watcher =====

impl Watcher {
    /// Waits until the next snapshot is due. Returns false if the service shuts down.
    async fn is_due(&mut self) -> bool {
        if std::mem::take(&mut self.is_new) {
            return true;
        }
        let Watcher {
            changes,
            interval,
            draining,
            ..
        } = self;
        let tick = async {
            match interval {
                Some(interval) => {
                    interval.tick().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = draining.cancelled() => false,
            changed = changes.changed() => changed.is_ok(),
            () = tick => true,
        }
    }

    fn snapshot(&self) -> WatchCircuitStatsResponse {
        WatchCircuitStatsResponse {
            circuits: self
                .engine
                .circuit_reports()
                .iter()
                .map(circuit::from_report)
                .collect(),
            snapshot_time: Some(SystemTime::now().into()),
        }
    }
}
