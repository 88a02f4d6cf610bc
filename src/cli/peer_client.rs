//! Asks the other replicas for their states.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    client::{ClientConfig, ConnectError, Connection, Fault},
    proto::{
        GetReplicaStateRequest, ReplicaRole as WireRole, ReplicaState,
        engine_service_client::EngineServiceClient,
    },
    replica::{AskPeer, PeerAnswer, PeerState},
    store::replicated::{ReplicaRole, ReplicatedConfig},
};

/// Longest time to connect to another replica.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// The connections to the other replicas.
#[derive(Debug, Clone)]
pub(super) struct PeerClient {
    config: ClientConfig,
    connections: Arc<Mutex<HashMap<String, EngineServiceClient<Connection>>>>,
}

// ===== impl PeerClient =====

impl PeerClient {
    /// Makes a client without connections. `identity` are the files of the certificate and the key of this replica, if
    /// the other replicas ask for them.
    pub(super) fn new(config: &ReplicatedConfig, identity: Option<(PathBuf, PathBuf)>) -> Self {
        PeerClient {
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
        match client.get_replica_state(GetReplicaStateRequest {}).await {
            Ok(answer) => {
                self.connections.lock().insert(address.clone(), client);
                answer
                    .into_inner()
                    .replica
                    .map_or(PeerAnswer::Unknown, |state| state_of(address, &state))
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

fn state_of(address: String, state: &ReplicaState) -> PeerAnswer {
    let hash = <[u8; 32]>::try_from(&*state.accepted_hash);
    let (Ok(accepted_hash), Ok(accepted_block), Ok(next_offset)) = (
        hash,
        u64::try_from(state.accepted_block),
        u64::try_from(state.next_offset),
    ) else {
        return PeerAnswer::Unknown;
    };
    PeerAnswer::State(PeerState {
        address,
        role: match state.role() {
            WireRole::Unspecified | WireRole::Starting => ReplicaRole::Starting,
            WireRole::Standby => ReplicaRole::Standby,
            WireRole::Candidate => ReplicaRole::Candidate,
            WireRole::Leader => ReplicaRole::Leader,
            WireRole::Stopped => ReplicaRole::Stopped,
        },
        accepted_block,
        accepted_hash,
        next_offset,
        caught_up: state.caught_up,
    })
}
