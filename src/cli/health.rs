//! `tally health`: exit code 0 if the service is serving, 1 if not.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{ClientArgs, block_on, exit, fail};

/// Options of `tally health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Which of its services; all of them if none is named.
    #[arg(long, default_value = "")]
    service: String,
    /// How long to wait for the answer.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(args: &HealthArgs) -> ExitCode {
    block_on(check(args))
}

#[expect(clippy::print_stdout, reason = "the command's result")]
async fn check(args: &HealthArgs) -> ExitCode {
    // For a health check there is no difference between "not serving" and "not there": 1, as container runtimes expect.
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
