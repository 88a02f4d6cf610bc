//! What all commands have in common that talk to a service.

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use super::{exit, fail};

/// Which service.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The service's address.
    #[arg(long, env = "TALLY_ENDPOINT", default_value = "http://127.0.0.1:50051")]
    pub endpoint: String,
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

/// Why a service can't be talked to.
#[derive(Debug, Error)]
enum ConnectError {
    #[error("endpoint {endpoint:?} is not an address such as http://127.0.0.1:50051")]
    Endpoint {
        endpoint: String,
        source: tonic::transport::Error,
    },
    #[error("no service answers at {endpoint}")]
    Unreachable {
        endpoint: String,
        source: tonic::transport::Error,
    },
}

/// A connection to the service at `endpoint`; or the failure, told, and the code to exit with.
pub(super) async fn connect(endpoint: &str, timeout: Duration) -> Result<Channel, ExitCode> {
    let address = Endpoint::from_shared(endpoint.to_owned()).and_then(|address| {
        // Without a scheme and a host there is nothing to connect to, and trying again would not help.
        let usable = address.uri().scheme().is_some() && address.uri().host().is_some();
        if usable {
            Ok(address)
        } else {
            Endpoint::from_shared(String::new())
        }
    });
    let address = address.map_err(|source| {
        fail(
            exit::USAGE,
            &ConnectError::Endpoint {
                endpoint: endpoint.to_owned(),
                source,
            },
        )
    })?;
    address
        .connect_timeout(timeout)
        .timeout(timeout)
        .connect()
        .await
        .map_err(|source| {
            fail(
                exit::UNAVAILABLE,
                &ConnectError::Unreachable {
                    endpoint: endpoint.to_owned(),
                    source,
                },
            )
        })
}
