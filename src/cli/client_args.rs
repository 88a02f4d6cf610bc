//! What all commands have in common that talk to a service.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};

use super::{exit, fail};
use crate::client::{ClientConfig, ConnectError, Connection, Token};

/// Which service, and how to reach it.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The service's address; https:// for TLS.
    #[arg(
        long,
        env = "TALLY_ENDPOINT",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    pub endpoint: String,
    /// What it wants to see.
    #[command(flatten)]
    pub credentials: Credentials,
}

/// What a secured service wants to see.
#[derive(Debug, Clone, Default, Args)]
pub struct Credentials {
    /// The authority that signed the service's certificate, in PEM.
    #[arg(long, value_name = "FILE", env = "TALLY_CA", global = true)]
    pub ca: Option<PathBuf>,
    /// Our own certificate in PEM, if the service wants one.
    #[arg(
        long,
        value_name = "FILE",
        env = "TALLY_CLIENT_CERTIFICATE",
        requires = "client_key",
        global = true
    )]
    pub client_certificate: Option<PathBuf>,
    /// Its key in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "TALLY_CLIENT_KEY",
        requires = "client_certificate",
        global = true
    )]
    pub client_key: Option<PathBuf>,
    /// The name in the service's certificate, if it is not the endpoint's host.
    #[arg(long, value_name = "NAME", env = "TALLY_SERVER_NAME", global = true)]
    pub server_name: Option<String>,
    /// The bearer token. Better in the environment than on a command line that others can see.
    #[arg(long, env = "TALLY_TOKEN", hide_env_values = true, value_parser = token, global = true)]
    pub token: Option<Token>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs: the API's own messages in their JSON form.
    Json,
}

fn token(text: &str) -> Result<Token, &'static str> {
    Token::new(text).ok_or("must be printable ASCII")
}

// ===== impl ClientArgs =====

impl ClientArgs {
    /// For clients.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        self.credentials.to(&self.endpoint)
    }

    /// A connection; or the failure, told, and the code to exit with.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Connection, ExitCode> {
        self.credentials.connect(&self.endpoint, timeout).await
    }
}

// ===== impl Credentials =====

impl Credentials {
    /// For a client of the service at `endpoint`.
    fn to(&self, endpoint: &str) -> ClientConfig {
        ClientConfig {
            endpoint: endpoint.to_owned(),
            ca: self.ca.clone(),
            identity: self.client_certificate.clone().zip(self.client_key.clone()),
            server_name: self.server_name.clone(),
            token: self.token.clone(),
        }
    }

    /// A connection to the service at `endpoint`; or the failure, told, and the code to exit with.
    pub(super) async fn connect(&self, endpoint: &str, timeout: Duration) -> Result<Connection, ExitCode> {
        self.to(endpoint).connect(timeout).await.map_err(|error| {
            let code = match &error {
                ConnectError::Endpoint { .. } => exit::USAGE,
                ConnectError::File { .. } | ConnectError::Tls { .. } => exit::CONFIG,
                ConnectError::Unreachable { .. } => exit::UNAVAILABLE,
            };
            fail(code, &error)
        })
    }
}
