//! The subcommands of `tally replica` that work on a data directory: the service of the directory must be stopped.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use tally_journal::{Disk, Journal, RealDisk, StoreKind};
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant, sleep},
};

use super::{
    exit::{self, Failure},
    output::named,
    serve_replica,
    settings_args::SettingsArgs,
};
use crate::{
    config::Loaded,
    replica::{PublishError, Published, check_own_topic, detach, name_directory, publish, reach, rejoin},
    store::{
        embedded::is_data_directory,
        replicated::{KafkaLog, PartitionLog, ReplicatedConfig, directory_name},
    },
    terminal::{outln, progress_bar, without_error_numbers},
};

/// Longest time until a new topic has a leader.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(30);
/// Delay between two attempts to find the leader of a new topic.
const TOPIC_DELAY: Duration = Duration::from_millis(200);

/// Options of `tally replica init`, `republish` and `rejoin`.
#[derive(Debug, Args)]
pub(super) struct DirectoryArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Options of `tally replica init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Make the topic with safe settings if it does not exist: one partition, three copies, two of them in sync and on disk before an
    /// acknowledgement.
    #[arg(long)]
    create_topic: bool,
}

/// Options of `tally replica clone`.
#[derive(Debug, Args)]
pub(super) struct CloneArgs {
    /// The data directory of another replica, which is stopped, or a copy of it.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The data directory to make.
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// What a subcommand needs of the settings.
struct Setting {
    loaded: Loaded,
    config: ReplicatedConfig,
    data: PathBuf,
    sizes: tally_journal::JournalConfig,
    log: KafkaLog,
}

fn setting(args: &SettingsArgs) -> Result<Setting, Failure> {
    let loaded = args.load().map_err(|error| Failure::new(exit::CONFIG, &error))?;
    let store = &loaded.config.store;
    let failed = |error| Failure::new(exit::CONFIG, &error);
    let Some(config) = store.replicated().map_err(failed)? else {
        let message = "store.kind = embedded: must be replicated for this command (TALLY__STORE__KIND, or a file with --config)";
        return Err(Failure::with_message(exit::CONFIG, message.to_owned()));
    };
    let log = KafkaLog::new(&config).map_err(|error| Failure::new(exit::CONFIG, &error))?;
    Ok(Setting {
        data: store.data.clone(),
        sizes: store.config().map_err(failed)?,
        config,
        log,
        loaded,
    })
}

/// `tally replica init`: makes a replicated ledger, from a new directory or from the directory of an embedded store.
pub(super) async fn init(args: &InitArgs) -> Result<(), Failure> {
    let mut setting = setting(&args.settings)?;
    if args.create_topic {
        create_topic(&mut setting.log).await?;
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    if is_data_directory(&*disk, &setting.data).map_err(|error| Failure::new(exit::IO, &error))? {
        let facts = reach(&mut setting.log)
            .await
            .map_err(|error| Failure::new(exit::UNAVAILABLE, &error))?;
        check_own_topic(disk, &setting.data, &facts).map_err(|error| failure(&error))?;
    }
    publish_directory(setting, "initialized").await
}

/// `tally replica republish`: publishes the directory of a replica in a new topic, after the log was lost.
pub(super) async fn republish(args: &DirectoryArgs) -> Result<(), Failure> {
    let setting = setting(&args.settings)?;
    expect_replica(&setting.data)?;
    // An embedded store becomes a replica by `init` only.
    drop(Journal::open_replica(Arc::new(RealDisk), &setting.data).map_err(|error| failure(&error.into()))?);
    publish_directory(setting, "republished").await
}

/// `tally replica rejoin`: lets a replica read the whole log of a topic that was made again.
pub(super) async fn rejoin_topic(args: &DirectoryArgs) -> Result<(), Failure> {
    let mut setting = setting(&args.settings)?;
    expect_replica(&setting.data)?;
    let facts = reach(&mut setting.log)
        .await
        .map_err(|error| Failure::new(exit::UNAVAILABLE, &error))?;
    rejoin(Arc::new(RealDisk), &setting.data, &facts).map_err(|error| failure(&error))?;
    outln!("{}", named("rejoined", &setting.config.topic));
    Ok(())
}

/// `tally replica detach`: ends the log as its leader, and makes the directory one of an embedded store.
pub(super) async fn detach_directory(args: &DirectoryArgs) -> Result<(), Failure> {
    let Setting {
        config, data, loaded, ..
    } = setting(&args.settings)?;
    expect_replica(&data)?;
    let detached = || detach(Arc::new(RealDisk), &data);
    // An earlier call may have ended the log, and may have been interrupted before it changed the directory.
    match detached() {
        Err(PublishError::NotEnded) => {}
        result => {
            return result
                .map_err(|error| failure(&error))
                .map(|()| outln!("{}", named("detached", &data.display().to_string())));
        }
    }
    let name = name_directory(Arc::new(RealDisk), &data).map_err(|error| failure(&error))?;
    let directory = data.clone();
    let checked = loaded
        .check()
        .map_err(|error| Failure::new(exit::CONFIG, &error))?;
    let ended = spawn_blocking(move || serve_replica::end_log(&checked, &config, &directory, name));
    match (ended.await, detached()) {
        // The log may have ended with the block of an earlier call, which this one has only read.
        (Ok(_), Ok(())) => {}
        (Ok(Err(error)), Err(_)) => return Err(Failure::new(exit::FAILED, &error)),
        (Ok(Ok(())), Err(error)) => return Err(failure(&error)),
        (Err(panic), _) => std::panic::resume_unwind(panic.into_panic()),
    }
    outln!("{}", named("detached", &data.display().to_string()));
    Ok(())
}

/// `tally replica clone`: copies the directory of a stopped replica.
pub(super) fn clone(args: &CloneArgs) -> Result<(), Failure> {
    let CloneArgs { from, to } = args;
    // While this lock is held, no service can start in the directory.
    let journal =
        Journal::open_read_only(Arc::new(RealDisk), from).map_err(|error| Failure::new(exit::IO, &error))?;
    if journal.directory().store() != StoreKind::Replicated {
        let message = format!("{}: must be the data directory of a replica", from.display());
        return Err(Failure::with_message(exit::IO, message));
    }
    let io_failure = |path: &Path, error: io::Error| {
        let error = without_error_numbers(error.to_string());
        Failure::with_message(exit::IO, format!("{}: {error}", path.display()))
    };
    if to.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{}: must be empty or missing", to.display());
        return Err(Failure::with_message(exit::IO, message));
    }
    if is_inside(to, from) {
        let message = format!("{}: must not be inside {}", to.display(), from.display());
        return Err(Failure::with_message(exit::IO, message));
    }
    let files = copy_directory(from, to).map_err(|(path, error)| io_failure(&path, error))?;
    outln!(
        "{}",
        named(
            "cloned",
            &format!("{files} files; check them with tally verify {}", to.display())
        )
    );
    Ok(())
}

async fn publish_directory(setting: Setting, done: &str) -> Result<(), Failure> {
    let Setting {
        config,
        data,
        sizes,
        mut log,
        loaded: _,
    } = setting;
    let bar = progress_bar(0, "{pos} of {len} blocks");
    let published = publish(
        &mut log,
        Arc::new(RealDisk),
        &data,
        &sizes,
        config.accept_unsafe_topic,
        &mut |block, last| {
            bar.set_length(last);
            bar.set_position(block);
        },
    )
    .await;
    bar.finish_and_clear();
    let Published {
        last_block,
        blocks,
        next_offset,
    } = published.map_err(|error| failure(&error))?;
    outln!("{}", named(done, &config.topic));
    outln!(
        "{}",
        named(
            "blocks",
            &format!("{last_block}, of which {blocks} were published now")
        )
    );
    outln!("{}", named("next offset", &next_offset.to_string()));
    Ok(())
}

fn expect_replica(data: &Path) -> Result<(), Failure> {
    match is_data_directory(&RealDisk, data) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!("{}: must be the data directory of a replica", data.display());
            Err(Failure::with_message(exit::IO, message))
        }
        Err(error) => Err(Failure::new(exit::IO, &error)),
    }
}

/// Makes the topic if it does not exist, and waits until it can be used.
async fn create_topic(log: &mut KafkaLog) -> Result<(), Failure> {
    if let Err(error) = log.create_topic().await {
        return Err(Failure::new(exit::UNAVAILABLE, &error));
    }
    let until = Instant::now() + TOPIC_TIMEOUT;
    loop {
        // The brokers learn of a new topic one after the other, so some of them do not know its leader yet.
        let usable = match log.reconnect().await {
            Ok(()) => log.inspect().await.map(drop),
            Err(error) => Err(error),
        };
        match usable {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= until => return Err(Failure::new(exit::UNAVAILABLE, &error)),
            Err(_) => sleep(TOPIC_DELAY).await,
        }
    }
}

fn failure(error: &PublishError) -> Failure {
    let code = match error {
        PublishError::Journal(_) | PublishError::Open(_) => exit::IO,
        PublishError::Read(_) | PublishError::Append(_) => exit::UNAVAILABLE,
        PublishError::Unsafe(_) | PublishError::LargeBlocks { .. } => exit::CONFIG,
        PublishError::OtherTopic
        | PublishError::InUse(_)
        | PublishError::NotEnded
        | PublishError::OfOtherTopic
        | PublishError::Ended { .. }
        | PublishError::Raced
        | PublishError::Halted(_) => exit::FAILED,
    };
    Failure::new(code, error)
}

/// Returns whether `path`, which may not exist yet, is `directory` or inside it. Symbolic links are followed.
fn is_inside(path: &Path, directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else {
        return false;
    };
    // The empty path is the working directory.
    let existing = path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        path.canonicalize().ok()
    });
    existing.is_some_and(|path| path.starts_with(directory))
}

/// Copies a directory with its subdirectories, durably. Returns the number of files.
fn copy_directory(from: &Path, to: &Path) -> Result<usize, (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    fs::create_dir_all(to).map_err(at(to))?;
    let mut files = 0;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        // The copy is another directory, so it does not get the name of this one.
        if entry.file_name() == directory_name::FAMILY.subdirectory {
            continue;
        }
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(at(&source))?;
        if kind.is_dir() {
            files += copy_directory(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(at(&target))?;
            let copied = fs::File::open(&target).map_err(at(&target))?;
            copied.sync_all().map_err(at(&target))?;
            files += 1;
        }
    }
    RealDisk
        .sync_dir(to)
        .map_err(|error| (to.to_owned(), error.source))?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_does_not_exist_is_inside_if_its_parent_is() {
        let root = tempfile::tempdir().unwrap();
        let from = root.path().join("from");
        fs::create_dir_all(from.join("journal")).unwrap();
        std::os::unix::fs::symlink(from.join("journal"), root.path().join("link")).unwrap();
        for (path, expected) in [
            ("from", true),
            ("from/new", true),
            ("from/journal/new/newer", true),
            ("link/new", true),
            ("from2", false),
            ("new/from", false),
        ] {
            assert_eq!(is_inside(&root.path().join(path), &from), expected, "{path}");
        }
    }
}
