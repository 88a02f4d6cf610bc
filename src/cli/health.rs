//! `tally health`: checks whether a service is serving.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client_args::{ClientArgs, within},
    exit::{self, Failure, block_on, finish},
    values::timeout,
};
use crate::terminal::outln;

/// Options of `tally health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Check this gRPC service, for example tally.v1.TransactionService. [default: the whole server]
    #[arg(long, default_value = "", hide_default_value = true)]
    service: String,
    /// Longest time to wait for the connection, and longest time to wait for the answer, 1ms to 1day.
    #[arg(long, default_value = "2s", value_parser = timeout)]
    timeout: Duration,
}

pub(super) fn run(args: &HealthArgs) -> ExitCode {
    block_on(async { finish(check(args).await) })
}

/// Prints the status of the service. Fails with exit code 1 if the service is not serving, or does not answer: container runtimes
/// expect this code in both cases.
async fn check(args: &HealthArgs) -> Result<(), Failure> {
    let config = args.client.config();
    let failed = |message: String| Failure::with_message(exit::FAILED, message);
    let connection = config
        .connect(args.timeout)
        .await
        .map_err(|error| failed(Failure::from(error).message().to_owned()))?;
    let request = HealthCheckRequest {
        service: args.service.clone(),
    };
    let answer = HealthClient::new(connection)
        .check(within(args.timeout, request))
        .await;
    match answer {
        Ok(response) => {
            let status = response.into_inner().status();
            outln!("{}", status.as_str_name());
            if status == ServingStatus::Serving {
                Ok(())
            } else {
                let endpoint = config.endpoints_text();
                Err(failed(format!("{endpoint} is not serving; see its log")))
            }
        }
        Err(status) if status.code() == Code::NotFound => Err(failed(format!(
            "{} has no service {:?}; --service takes a full name, for example tally.v1.TransactionService",
            config.endpoints_text(),
            args.service
        ))),
        Err(status) => Err(failed(config.explain_within(&status, args.timeout))),
    }
}
