//! What all commands have in common that talk to a service.

use clap::{Args, ValueEnum};

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
