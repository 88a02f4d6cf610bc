//! The section `admin`: the operators' port.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The operators' port: metrics, health, the log's filter, and a page. Plain HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// The address to listen on. Port 0 takes a free port, which is printed.
    pub listen: SocketAddr,
    /// Whether the service opens the port.
    pub enabled: bool,
}

// ===== impl AdminSettings =====

impl Default for AdminSettings {
    fn default() -> Self {
        AdminSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            enabled: true,
        }
    }
}
