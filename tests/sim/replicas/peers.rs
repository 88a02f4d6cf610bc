//! What the replicas learn of each other: each asks the others with the code of the product, over a simulated network.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tally::{
    replica::{AskPeer, PeerAnswer, PeerState},
    store::replicated::Replica,
};

use super::plan::{REPLICAS, address};
use crate::random::Random;

/// Which replicas can be asked. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct PeerNet(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    places: [Place; REPLICAS],
    /// How often an answer is lost, in percent.
    losses: u64,
}

/// What others find at the address of a replica.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The replica; `None` if no process listens.
    replica: Option<Replica>,
    is_paused: bool,
}

/// The longest time of an answer.
const LATENCY_MAX: Duration = Duration::from_millis(50);

// ===== impl PeerNet =====

impl PeerNet {
    pub(crate) fn new(random: Random, losses: u64) -> Self {
        PeerNet(Arc::new(Mutex::new(State {
            random,
            places: Default::default(),
            losses,
        })))
    }

    /// A process answers from now on, or none does.
    pub(crate) fn set(&self, index: usize, replica: Option<Replica>) {
        self.0.lock().places[index].replica = replica;
    }

    pub(crate) fn set_paused(&self, index: usize, is_paused: bool) {
        self.0.lock().places[index].is_paused = is_paused;
    }

    /// From now on, no answer is lost.
    pub(crate) fn heal(&self) {
        self.0.lock().losses = 0;
    }

    fn answer(&self, index: usize) -> PeerAnswer {
        let replica = self.0.lock().places[index].replica.clone();
        let Some(replica) = replica else {
            return PeerAnswer::Closed;
        };
        let view = replica.view();
        let Some(identity) = view.identity else {
            return PeerAnswer::Closed;
        };
        PeerAnswer::State(PeerState {
            address: address(index),
            identity,
            role: view.role,
            accepted_block: view.accepted_block,
            accepted_hash: view.accepted_hash,
            next_offset: view.next_offset.cast_unsigned(),
            caught_up: view.caught_up,
            // No replica resigns because of its clock: that needs a clock that is wrong for seconds, and the clocks of a run only jump.
            clock_ahead_ms: 0,
        })
    }
}

impl AskPeer for PeerNet {
    fn ask(&self, asked: &str) -> BoxFuture<'static, PeerAnswer> {
        let found = (0..REPLICAS).find(|index| address(*index) == asked);
        let (net, index) = (self.clone(), found.expect("the address of a replica"));
        let (latency, is_lost) = {
            let mut state = self.0.lock();
            let losses = state.losses;
            let is_lost = state.random.percent(losses) || state.places[index].is_paused;
            (state.random.up_to(LATENCY_MAX), is_lost)
        };
        Box::pin(async move {
            if is_lost {
                return std::future::pending().await;
            }
            tokio::time::sleep(latency).await;
            net.answer(index)
        })
    }
}
