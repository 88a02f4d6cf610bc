//! temporary
use std::process::ExitCode;
use clap::{Args, Subcommand};
use super::{exit::{block_on, finish}, replica_directory::{self, InitArgs, DirectoryArgs, CloneArgs}};
/// Options
#[derive(Debug, Args)]
pub struct ReplicaArgs { #[command(subcommand)] action: Action }
#[derive(Debug, Subcommand)]
enum Action {
    /// Init
    Init(InitArgs),
    /// Republish
    Republish(DirectoryArgs),
    /// Rejoin
    Rejoin(DirectoryArgs),
    /// Clone
    Clone(CloneArgs),
}
pub(super) fn run(args: &ReplicaArgs) -> ExitCode {
    block_on(async { finish(match &args.action {
        Action::Init(a) => replica_directory::init(a).await,
        Action::Republish(a) => replica_directory::republish(a).await,
        Action::Rejoin(a) => replica_directory::rejoin_topic(a).await,
        Action::Clone(a) => replica_directory::clone(a),
    }) })
}
