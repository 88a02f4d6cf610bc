//! `tally health`: checks whether a service is serving.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    client_args::ClientArgs,
    exit::{self, block_on, fail},
};

/// Options of `tally health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Check this gRPC service, for example tally.v1.TransactionService. [default: the whole server]
    #[arg(long, default_value = "", hide_default_value = true)]
    service: String,
    /// Longest time to wait for the connection.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(args: &HealthArgs) -> ExitCode {
    block_on(check(args))
}

#[expect(clippy::print_stdout, reason = "the command's result")]
async fn check(args: &HealthArgs) -> ExitCode {
    // Container runtimes expect exit code 1 in both cases: the service does not answer, or it is not serving.
    let Ok(channel) = args.client.connect(args.timeout).await else {
        return ExitCode::from(exit::FAILED);
    };
    let request = HealthCheckRequest {
        service: args.service.clone(),
    };
    match HealthClient::new(channel).check(request).await {
        Ok(response) => {
            let status = response.into_inner().status();
            println!("{}", status.as_str_name());
            if status == ServingStatus::Serving {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::FAILED)
            }
        }
        Err(status) => fail(exit::FAILED, &status),
    }
}
