//! `WatchCircuitStats`: sends a snapshot of the circuits immediately, after every change, and at intervals if the
//! request asks for intervals. The call ends with its `Lifetime` (see `transport/lifetime.rs`), or when the client ends
//! it.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::stream::{self, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tonic::Status;

use super::{circuit::circuit_stats_response, values::duration_in};
use crate::{
    engine::TallyEngine,
    grpc::status,
    proto::{GetCircuitStatsResponse, WatchCircuitStatsRequest, WatchCircuitStatsResponse},
};

/// Maximum number of open calls of `WatchCircuitStats`.
pub(crate) const WATCHERS_MAX: usize = 64;
/// Bounds of the interval.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// The state of one call.
struct Watcher {
    engine: TallyEngine,
    changes: watch::Receiver<u64>,
    interval: Option<Interval>,
    _place: OwnedSemaphorePermit,
}

/// Begins a watch. `places` has a permit for each further watcher.
///
/// # Errors
/// INVALID_ARGUMENT if the interval is out of bounds, RESOURCE_EXHAUSTED with too many watchers.
pub(crate) fn watch(
    engine: &TallyEngine,
    request: &WatchCircuitStatsRequest,
    places: &Arc<Semaphore>,
) -> Result<impl Stream<Item = Result<WatchCircuitStatsResponse, Status>> + use<>, Status> {
    let interval = request.interval.as_ref().map(interval).transpose()?;
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return Err(status::too_many_watchers(WATCHERS_MAX));
    };
    // The subscription begins before the first snapshot, so that no change is missed.
    let mut changes = engine.circuit_changes();
    // The first snapshot is due immediately.
    changes.mark_changed();
    let watcher = Watcher {
        changes,
        engine: engine.clone(),
        interval,
        _place: place,
    };
    Ok(stream::unfold(watcher, |mut watcher| async move {
        watcher.is_due().await.then(|| (Ok(watcher.snapshot()), watcher))
    }))
}

fn interval(given: &prost_types::Duration) -> Result<Interval, Status> {
    let period = duration_in(&INTERVAL, "100ms to 3600s", "interval", given)?;
    let mut interval = interval_at(Instant::now() + period, period);
    // A client that reads slowly does not get the missed snapshots all at once.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(interval)
}

// ===== impl Watcher =====

impl Watcher {
    /// Waits until the next snapshot is due. Returns false if no more changes can come.
    async fn is_due(&mut self) -> bool {
        let Watcher {
            changes, interval, ..
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
            changed = changes.changed() => changed.is_ok(),
            () = tick => true,
        }
    }

    fn snapshot(&self) -> WatchCircuitStatsResponse {
        let GetCircuitStatsResponse {
            circuits,
            snapshot_time,
        } = circuit_stats_response(&self.engine);
        WatchCircuitStatsResponse {
            circuits,
            snapshot_time,
        }
    }
}
