//! `tally replica`: shows the replica behind a service, lets a leader resign, and works on the data directory of a replica.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use super::{
    client_args::{ClientArgs, TIMEOUT, within},
    exit::{Failure, block_on, finish},
    output::{OutputFormat, json_document, named},
    replica_directory::{self, CloneArgs, DirectoryArgs, InitArgs},
    values::comment,
};
use crate::{
    proto::{
        GetReplicaStateRequest, GetReplicaStateResponse, ReplicaRole, ReplicaState, ResignLeadershipRequest,
    },
    terminal::{outln, units},
};

/// Options of `tally replica`.
#[derive(Debug, Args)]
pub struct ReplicaArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the state.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    action: Action,
}

/// The subcommands of `tally replica`.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show the role of the replica, the leader, and the lag of the replica.
    Status,
    /// Let the leader give up leadership. Another replica leads a moment later.
    Resign {
        /// The address of the replica that should lead next, as in store.replicated.peers. Without it, any replica may.
        #[arg(long, value_name = "URL")]
        successor: Option<String>,
        /// The reason for the change. It is recorded in the audit log.
        #[arg(long, default_value = "", hide_default_value = true, value_parser = comment)]
        comment: String,
    },
    /// Make a replicated ledger from a new data directory or from that of an embedded store. The topic must be empty. Start the other
    /// replicas with empty directories.
    Init(InitArgs),
    /// Publish the directory of a stopped replica in an empty topic, after the log was lost. Choose the replica with the greatest accepted
    /// block (`tally verify` shows it), and let the others rejoin.
    Republish(DirectoryArgs),
    /// Let a stopped replica read the topic from its beginning, after another replica was republished.
    Rejoin(DirectoryArgs),
    /// Copy the directory of a stopped replica for a new replica.
    Clone(CloneArgs),
    /// End the replicated log, and turn the data directory of this stopped replica into one of an embedded store. All other replicas stop.
    Detach(DirectoryArgs),
}

pub(super) fn run(args: &ReplicaArgs) -> ExitCode {
    block_on(async {
        finish(match &args.action {
            Action::Status => status(args).await,
            Action::Resign { successor, comment } => resign(args, successor.as_deref(), comment).await,
            Action::Init(args) => replica_directory::init(args).await,
            Action::Republish(args) => replica_directory::republish(args).await,
            Action::Rejoin(args) => replica_directory::rejoin_topic(args).await,
            Action::Clone(args) => replica_directory::clone(args),
            Action::Detach(args) => replica_directory::detach_directory(args).await,
        })
    })
}

async fn status(args: &ReplicaArgs) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let answer = engine
        .client
        .get_replica_state(within(TIMEOUT, GetReplicaStateRequest {}))
        .await;
    let answer = answer.map_err(|status| engine.failure(&status))?.into_inner();
    match args.output {
        OutputFormat::Json => outln!("{}", json_document("GetReplicaStateResponse", &answer)?),
        OutputFormat::Table => print(&answer),
    }
    Ok(())
}

async fn resign(args: &ReplicaArgs, successor: Option<&str>, comment: &str) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let request = ResignLeadershipRequest {
        successor: successor.unwrap_or_default().to_owned(),
        comment: comment.to_owned(),
    };
    let answer = engine.client.resign_leadership(within(TIMEOUT, request)).await;
    let answer = answer.map_err(|status| engine.failure(&status))?.into_inner();
    match args.output {
        OutputFormat::Json => outln!("{}", json_document("ResignLeadershipResponse", &answer)?),
        OutputFormat::Table => outln!("{}", named("resigned", &format!("term {}", answer.term))),
    }
    Ok(())
}

fn print(answer: &GetReplicaStateResponse) {
    let Some(replica) = &answer.replica else {
        outln!("{}", named("store", "embedded: the service has no other replica"));
        return;
    };
    for (name, value) in rows(replica) {
        outln!("{}", named(name, &value));
    }
}

/// Returns the lines of the table.
fn rows(replica: &ReplicaState) -> Vec<(&'static str, String)> {
    let or_unknown = |text: &str| {
        if text.is_empty() {
            "unknown".to_owned()
        } else {
            text.to_owned()
        }
    };
    let end = replica
        .end_offset
        .map_or_else(|| "unknown".to_owned(), |end| end.to_string());
    let mut rows = vec![
        ("role", role_text(replica)),
        ("term", replica.term.to_string()),
        ("leader", or_unknown(&replica.leader)),
        ("address", or_unknown(&replica.address)),
        ("last block", replica.accepted_block.to_string()),
        ("last sequence", replica.last_sequence.to_string()),
        ("offset", format!("{} of {end}", replica.next_offset)),
        ("lag", lag_text(replica)),
        ("skipped", replica.skipped_records.to_string()),
        ("claims", replica.claims.to_string()),
        ("term changes", replica.term_changes.to_string()),
    ];
    if !replica.fault.is_empty() {
        rows.push(("fault", replica.fault.clone()));
    }
    rows
}

/// Returns the role of a replica in words.
pub(super) fn role_text(replica: &ReplicaState) -> String {
    let role = match replica.role() {
        ReplicaRole::Unspecified => "unknown",
        ReplicaRole::Starting => "starting",
        ReplicaRole::Standby => "standby",
        ReplicaRole::Candidate => "candidate",
        ReplicaRole::Leader => "leader",
        ReplicaRole::Stopped => "STOPPED",
    };
    role.to_owned()
}

/// Returns the lag of a replica, and whether it has caught up.
pub(super) fn lag_text(replica: &ReplicaState) -> String {
    let lag = replica.lag.and_then(|lag| Duration::try_from(lag).ok());
    let lag = lag.map_or_else(|| "unknown".to_owned(), units::time);
    if replica.caught_up {
        format!("{lag}, caught up")
    } else {
        format!("{lag}, not caught up")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_unknown_values_and_the_fault() {
        let text = |replica: &ReplicaState| {
            let rows = rows(replica);
            rows.into_iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect::<Vec<_>>()
        };
        let mut replica = ReplicaState {
            role: ReplicaRole::Standby.into(),
            term: 3,
            next_offset: 7,
            ..ReplicaState::default()
        };
        let lines = text(&replica);
        for line in [
            "role: standby",
            "term: 3",
            "leader: unknown",
            "offset: 7 of unknown",
            "lag: unknown, not caught up",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}: {lines:?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("fault")));
        replica.fault = "the log was rolled back".to_owned();
        replica.caught_up = true;
        replica.lag = Some(prost_types::Duration {
            seconds: 0,
            nanos: 5_000_000,
        });
        let lines = text(&replica);
        assert!(
            lines.contains(&"fault: the log was rolled back".to_owned()),
            "{lines:?}"
        );
        assert!(lines.contains(&"lag: 5 ms, caught up".to_owned()), "{lines:?}");
    }
}
