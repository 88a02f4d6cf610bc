//! Asks the other replicas for their states.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tally_journal::DataId;
use tally_ledger::Timestamp;

use crate::{
    client::{ClientConfig, ConnectError, Connection, Fault},
    engine::TallyEngine,
    proto::{
        GetReplicaStateRequest, ReplicaRole as WireRole, ReplicaState,
        engine_service_client::EngineServiceClient,
    },
    replica::{AskPeer, PeerAnswer, PeerState, clock_ahead_ms},
    store::replicated::{ReplicaIdentity, ReplicaRole, ReplicatedConfig},
};

/// Longest time to connect to another replica.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// The connections to the other replicas.
#[derive(Debug, Clone)]
pub(super) struct PeerClient {
    /// The engine whose clock is compared with those of the others.
    engine: TallyEngine,
    config: ClientConfig,
    connections: Arc<Mutex<HashMap<String, EngineServiceClient<Connection>>>>,
}

// ===== impl PeerClient =====

impl PeerClient {
    /// Makes a client without connections. `engine` has the clock of this replica. `identity` are the files of the certificate
    /// and the key of this replica, if the other replicas ask for them.
    pub(super) fn new(
        engine: TallyEngine,
        config: &ReplicatedConfig,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Self {
        PeerClient {
            engine,
            config: ClientConfig {
                ca: config.peer_ca_file.clone(),
                token_file: config.peer_token_file.clone(),
                identity,
                ..ClientConfig::default()
            },
            connections: Arc::default(),
        }
    }

    async fn state(&self, address: String) -> PeerAnswer {
        let known = self.connections.lock().get(&address).cloned();
        let mut client = match known {
            Some(client) => client,
            None => {
                let secure = address.starts_with("https://");
                let mut config = ClientConfig {
                    endpoints: vec![address.clone()],
                    ..self.config.clone()
                };
                if !secure {
                    config.ca = None;
                    config.identity = None;
                }
                match config.connect(CONNECT_TIMEOUT).await {
                    Ok(connection) => EngineServiceClient::new(connection),
                    Err(error) => return unreachable(&error),
                }
            }
        };
        let sent = self.engine.clock().ledger;
        match client.get_replica_state(GetReplicaStateRequest {}).await {
            Ok(answer) => {
                let received = self.engine.clock().ledger;
                self.connections.lock().insert(address.clone(), client);
                let state = answer
                    .into_inner()
                    .replica
                    .and_then(|state| state_of(address, &state, [sent, received]));
                state.map_or(PeerAnswer::Unknown, PeerAnswer::State)
            }
            Err(status) => {
                self.connections.lock().remove(&address);
                // An answer of the service has no cause.
                match std::error::Error::source(&status) {
                    Some(_) => gone(&Fault::of(&status)),
                    None => PeerAnswer::Unknown,
                }
            }
        }
    }
}

impl AskPeer for PeerClient {
    fn ask(&self, address: &str) -> BoxFuture<'static, PeerAnswer> {
        let (client, address) = (self.clone(), address.to_owned());
        Box::pin(async move { client.state(address).await })
    }
}

/// Returns what the failure of a connection says about the replica: if the connection was refused, the process of the replica has ended.
fn unreachable(error: &ConnectError) -> PeerAnswer {
    if let ConnectError::Unreachable { fault, .. } = error {
        gone(fault)
    } else {
        PeerAnswer::Unknown
    }
}

fn gone(fault: &Fault) -> PeerAnswer {
    if matches!(fault, Fault::Refused | Fault::Closed) {
        PeerAnswer::Closed
    } else {
        PeerAnswer::Unknown
    }
}

/// Converts an answer; `None` if it can't be one of a replica. The clock of this replica showed `asked` before and after it.
fn state_of(address: String, state: &ReplicaState, asked: [Timestamp; 2]) -> Option<PeerState> {
    let [sent, received] = asked;
    let clock = to_time(state.clock.as_ref()?)?;
    Some(PeerState {
        address,
        identity: ReplicaIdentity {
            data_id: DataId::from_bytes((&*state.data_id).try_into().ok()?),
            topic_id: (&*state.topic_id).try_into().ok()?,
        },
        role: match state.role() {
            WireRole::Unspecified | WireRole::Starting => ReplicaRole::Starting,
            WireRole::Standby => ReplicaRole::Standby,
            WireRole::Candidate => ReplicaRole::Candidate,
            WireRole::Leader => ReplicaRole::Leader,
            WireRole::Stopped => ReplicaRole::Stopped,
        },
        accepted_block: u64::try_from(state.accepted_block).ok()?,
        accepted_hash: (&*state.accepted_hash).try_into().ok()?,
        next_offset: u64::try_from(state.next_offset).ok()?,
        caught_up: state.caught_up,
        clock_ahead_ms: clock_ahead_ms(sent, clock, received),
    })
}

/// Converts a time; `None` if no ledger can have it.
fn to_time(time: &prost_types::Timestamp) -> Option<Timestamp> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok()?;
    let nanos = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    Some(Timestamp::from_nanos(nanos))
}
