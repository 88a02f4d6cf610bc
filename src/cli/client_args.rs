//! Connection options of the subcommands that call a service.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tonic::Request;

use super::{
    exit::{self, Failure},
    values::endpoint,
};
use crate::{
    client::{ClientConfig, ConnectError, Connection, Fault, Token},
    proto::engine_service_client::EngineServiceClient,
};

/// Longest time to wait for a connection, and longest time to wait for the answer of a call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The service to call, and the credentials.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Address of the service; https:// for TLS. Several addresses, with commas between them, are those of its replicas.
    #[arg(
        long,
        value_name = "URL",
        env = "TALLY_ENDPOINT",
        default_value = "http://127.0.0.1:50051",
        value_delimiter = ',',
        value_parser = endpoint,
        global = true
    )]
    pub endpoint: Vec<String>,
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
    /// File with the bearer token.
    #[arg(
        long,
        value_name = "FILE",
        env = "TALLY_TOKEN_FILE",
        conflicts_with = "token",
        global = true
    )]
    pub token_file: Option<PathBuf>,
    /// Bearer token. Prefer --token-file or the environment variable: other users can read command lines.
    #[arg(long, env = "TALLY_TOKEN", hide_env_values = true, value_parser = token, global = true)]
    pub token: Option<Token>,
}

/// The engine service of a connected service.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    /// The generated client.
    pub(super) client: EngineServiceClient<Connection>,
    /// How the connection was opened.
    pub(super) config: ClientConfig,
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

    /// Connects to the engine service.
    pub(super) async fn connect(&self) -> Result<Engine, Failure> {
        Engine::connect(self.config()).await
    }
}

// ===== impl Credentials =====

impl Credentials {
    /// Returns the configuration of a client of the service at `endpoints`.
    pub(super) fn config(&self, endpoints: &[String]) -> ClientConfig {
        ClientConfig {
            endpoints: endpoints.to_vec(),
            ca: self.ca.clone(),
            identity: self.client_certificate.clone().zip(self.client_key.clone()),
            server_name: self.server_name.clone(),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
        }
    }
}

// ===== impl Engine =====

impl Engine {
    /// Connects in one attempt.
    pub(super) async fn connect(config: ClientConfig) -> Result<Self, Failure> {
        Ok(Engine::try_connect(config).await?)
    }

    /// Connects in one attempt. Returns the typed error.
    pub(super) async fn try_connect(config: ClientConfig) -> Result<Self, ConnectError> {
        let connection = config.connect(TIMEOUT).await?;
        Ok(Engine {
            client: EngineServiceClient::new(connection),
            config,
        })
    }

    /// Returns the failure of a call that was sent with [`TIMEOUT`].
    pub(super) fn failure(&self, status: &tonic::Status) -> Failure {
        Failure::call(&self.config, status, TIMEOUT)
    }

    /// Returns the failure of a call that ended with `fault` instead of an answer.
    pub(super) fn faulty(&self, fault: &Fault) -> Failure {
        Failure::with_message(exit::UNAVAILABLE, self.config.explain_fault(fault))
    }
}

/// Returns a request that fails if no answer arrives within `timeout`.
pub(super) fn within<M>(timeout: Duration, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn endpoints(words: &[&str]) -> Result<Vec<String>, clap::Error> {
        let command = ClientArgs::augment_args(Command::new("tally"));
        // The environment of the test must not matter.
        let command = command.mut_args(|argument| argument.env(None::<&str>));
        let matches = command.try_get_matches_from([&["tally"], words].concat())?;
        Ok(ClientArgs::from_arg_matches(&matches)?.config().endpoints)
    }

    #[test]
    fn endpoints_are_separated_by_commas_or_repeated() {
        let found = |words: &[&str]| endpoints(words).unwrap();
        assert_eq!(found(&[]), ["http://127.0.0.1:50051"]);
        assert_eq!(found(&["--endpoint", "a:1,http://b:2"]), ["a:1", "http://b:2"]);
        assert_eq!(
            found(&["--endpoint", "a:1", "--endpoint", "b:2,c:3"]),
            ["a:1", "b:2", "c:3"]
        );
        for wrong in ["a:1,", ",a:1", "a:1,,b:2", "a:1 b:2"] {
            assert!(endpoints(&["--endpoint", wrong]).is_err(), "{wrong:?}");
        }
    }
}
