//! Connection options of the subcommands that call a service.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use super::exit::fail_to_connect;
use crate::{
    client::{ClientConfig, Connection, Token},
    proto::engine_service_client::EngineServiceClient,
};

/// Longest time to wait for a connection.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The service to call, and the credentials.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Address of the service; https:// for TLS.
    #[arg(
        long,
        value_name = "URL",
        env = "TALLY_ENDPOINT",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    pub endpoint: String,
    /// How to authenticate.
    #[command(flatten)]
    pub credentials: Credentials,
}

/// How the client and the service authenticate each other.
#[derive(Debug, Clone, Default, Args)]
pub struct Credentials {
    /// Certificate of the authority that signed the certificate of the service, in PEM.
    #[arg(long, value_name = "FILE", env = "TALLY_CA", global = true)]
    pub ca: Option<PathBuf>,
    /// Certificate of the client in PEM, if the service requires one.
    #[arg(
        long,
        value_name = "FILE",
        env = "TALLY_CLIENT_CERTIFICATE",
        requires = "client_key",
        global = true
    )]
    pub client_certificate: Option<PathBuf>,
    /// Private key of --client-certificate, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "TALLY_CLIENT_KEY",
        requires = "client_certificate",
        global = true
    )]
    pub client_key: Option<PathBuf>,
    /// Name in the certificate of the service, if it differs from the host of --endpoint.
    #[arg(long, value_name = "NAME", env = "TALLY_SERVER_NAME", global = true)]
    pub server_name: Option<String>,
    /// Bearer token. Prefer the environment variable: other users can read command lines.
    #[arg(long, env = "TALLY_TOKEN", hide_env_values = true, value_parser = token, global = true)]
    pub token: Option<Token>,
}

fn token(text: &str) -> Result<Token, &'static str> {
    Token::new(text).ok_or("must be printable ASCII")
}

// ===== impl ClientArgs =====

impl ClientArgs {
    /// Returns the configuration of a client.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        self.credentials.config(&self.endpoint)
    }

    /// Connects to the service. On failure, prints the error and returns the exit code.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Connection, ExitCode> {
        self.credentials.connect(&self.endpoint, timeout).await
    }

    /// Connects to the engine service. On failure, prints the error and returns the exit code.
    pub(super) async fn connect_to_engine(&self) -> Result<EngineServiceClient<Connection>, ExitCode> {
        self.connect(TIMEOUT).await.map(EngineServiceClient::new)
    }
}

// ===== impl Credentials =====

impl Credentials {
    /// Returns the configuration of a client of the service at `endpoint`.
    pub(super) fn config(&self, endpoint: &str) -> ClientConfig {
        ClientConfig {
            endpoint: endpoint.to_owned(),
            ca: self.ca.clone(),
            identity: self.client_certificate.clone().zip(self.client_key.clone()),
            server_name: self.server_name.clone(),
            token: self.token.clone(),
        }
    }

    /// Connects to the service at `endpoint`. On failure, prints the error and returns the exit code.
    pub(super) async fn connect(&self, endpoint: &str, timeout: Duration) -> Result<Connection, ExitCode> {
        let connected = self.config(endpoint).connect(timeout).await;
        connected.map_err(|error| fail_to_connect(&error))
    }
}
