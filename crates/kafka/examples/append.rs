//! Measures raw appends on a real cluster, and reads what was appended.
//!
//! Run with `cargo run --release -p tally-kafka --example append -- --brokers 127.0.0.1:9092 --topic bench --create 3`.

#![allow(clippy::print_stdout, reason = "the example prints what it measures")]

use std::{collections::VecDeque, env, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use tally_kafka::{
    Append, Edge, ErrorCode, Fetched, NewTopic, Partition, Password, Sasl, Settings, Tls,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "append --brokers HOST:PORT,… --topic NAME [options]
  --create N       creates the topic with N replicas if it does not exist
  --block BYTES    size of a record (65536)
  --records N      records of one request (1)
  --in-flight N    requests in flight (1)
  --seconds N      how long to append (5)
  --ca FILE        uses TLS, and trusts the certificates of FILE
  --sasl MECHANISM PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; user and password come from SASL_USER and SASL_PASSWORD
  --read           reads everything that was appended, and compares it";

/// What to measure.
struct Load {
    block: usize,
    records: usize,
    in_flight: usize,
    time: Duration,
}

/// What was measured.
#[derive(Default)]
struct Measured {
    times: Vec<Duration>,
    first_offset: Option<i64>,
    next_offset: i64,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str| {
        let position = arguments.iter().position(|argument| argument == name)?;
        arguments.get(position + 1).map(String::as_str)
    };
    let (Some(brokers), Some(topic)) = (option("--brokers"), option("--topic")) else {
        println!("{USAGE}");
        return Ok(());
    };
    let number = |name, default: usize| option(name).map_or(Ok(default), str::parse);
    let load = Load {
        block: number("--block", 65_536)?,
        records: number("--records", 1)?,
        in_flight: number("--in-flight", 1)?,
        time: Duration::from_secs(number("--seconds", 5)?.try_into()?),
    };
    let endpoints = brokers.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let mut settings = Settings::new(endpoints, topic);
    settings.in_flight_max = load.in_flight.max(8);
    settings.batch_bytes_max = settings.batch_bytes_max.max(load.block * load.records + 1024);
    settings.tls = option("--ca").map(trust).transpose()?;
    settings.sasl = option("--sasl").map(credentials).transpose()?;
    let partition = Partition::new(settings)?;
    let replicas = option("--create").map(str::parse).transpose()?;
    let does_read = arguments.iter().any(|argument| argument == "--read");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&partition, &load, replicas, does_read))
}

fn trust(file: &str) -> Outcome<Tls> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls {
        config: Arc::new(config),
        server_name: None,
    })
}

fn credentials(mechanism: &str) -> Outcome<Sasl> {
    Ok(Sasl {
        mechanism: mechanism.parse()?,
        user: env::var("SASL_USER")?,
        password: Password::new(env::var("SASL_PASSWORD")?),
    })
}

async fn run(partition: &Partition, load: &Load, replicas: Option<i16>, does_read: bool) -> Outcome<()> {
    if let Some(replicas) = replicas {
        create(partition, replicas).await?;
    }
    let description = partition.describe().await?;
    let location = &description.location;
    println!(
        "topic {} on brokers {:?}, in sync {:?}, leader {} in epoch {}",
        location.topic_id, location.replicas, location.in_sync, location.leader.id, location.leader_epoch
    );
    for name in [
        "min.insync.replicas",
        "flush.messages",
        "retention.ms",
        "max.message.bytes",
    ] {
        if let Some(config) = description.config(name) {
            println!(
                "  {name} = {} ({:?})",
                config.value.as_deref().unwrap_or("hidden"),
                config.source
            );
        }
    }
    let begin = Instant::now();
    let mut measured = append(partition, load).await?;
    report(load, &mut measured, begin.elapsed());
    if does_read {
        read(partition, load, &measured).await?;
    }
    Ok(())
}

async fn create(partition: &Partition, replicas: i16) -> Outcome<()> {
    let configs = [
        ("cleanup.policy", "delete"),
        ("flush.messages", "1"),
        ("max.message.bytes", "8388608"),
        ("min.insync.replicas", if replicas > 1 { "2" } else { "1" }),
        ("retention.bytes", "-1"),
        ("retention.ms", "-1"),
        ("unclean.leader.election.enable", "false"),
    ];
    let new = NewTopic {
        partitions: 1,
        replication_factor: replicas,
        configs: configs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    match partition.create_topic(&new).await {
        Err(error) if error.code() != Some(ErrorCode::TOPIC_ALREADY_EXISTS) => return Err(error.into()),
        _ => {}
    }
    for _ in 0..100 {
        if partition.locate().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the topic has no leader after 10 s".into())
}

/// Returns block number `index`: its number, repeated.
fn block(load: &Load, index: usize) -> Bytes {
    index.to_le_bytes().into_iter().cycle().take(load.block).collect()
}

async fn append(partition: &Partition, load: &Load) -> Outcome<Measured> {
    let mut appender = partition.appender().await?;
    let values: Vec<Bytes> = (0..load.records).map(|index| block(load, index)).collect();
    let mut in_flight: VecDeque<(Instant, Append)> = VecDeque::new();
    let mut measured = Measured::default();
    let end = Instant::now() + load.time;
    loop {
        while in_flight.len() < load.in_flight && Instant::now() < end {
            in_flight.push_back((Instant::now(), appender.submit(&values, 0)?));
        }
        let Some((begin, append)) = in_flight.pop_front() else {
            return Ok(measured);
        };
        let offset = append.await?.base_offset;
        measured.times.push(begin.elapsed());
        if measured.first_offset.is_some() && offset != measured.next_offset {
            println!("offset {offset} instead of {}", measured.next_offset);
        }
        measured.first_offset.get_or_insert(offset);
        measured.next_offset = offset + i64::try_from(load.records)?;
    }
}

fn report(load: &Load, measured: &mut Measured, time: Duration) {
    measured.times.sort_unstable();
    let requests = measured.times.len();
    let per_second = |count: usize| count as f64 / time.as_secs_f64();
    let percentile = |percent: usize| {
        let time = measured
            .times
            .get((requests * percent / 100).min(requests.saturating_sub(1)));
        time.map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!(
        "{} B x {} x {} in flight: {:.0} requests/s, {:.0} records/s, {:.1} MB/s, p50 {:.2} ms, p99 {:.2} ms",
        load.block,
        load.records,
        load.in_flight,
        per_second(requests),
        per_second(requests * load.records),
        per_second(requests * load.records * load.block) / 1e6,
        percentile(50),
        percentile(99),
    );
}

async fn read(partition: &Partition, load: &Load, measured: &Measured) -> Outcome<()> {
    let reader = partition.reader().await?;
    println!(
        "the log has offsets {} to {}",
        reader.offset(Edge::Start).await?,
        reader.offset(Edge::End).await?
    );
    let expected: Vec<Bytes> = (0..load.records).map(|index| block(load, index)).collect();
    let first = measured.first_offset.ok_or("nothing was appended")?;
    let (begin, mut next, mut bytes) = (Instant::now(), first, 0);
    while next < measured.next_offset {
        let Fetched {
            records, next_offset, ..
        } = reader.fetch(next, Duration::from_millis(500), 8 << 20).await?;
        for record in &records {
            let index = usize::try_from(record.offset - first)? % load.records;
            if record.offset < measured.next_offset && expected.get(index) != Some(&record.value) {
                return Err(format!("the record at offset {} differs", record.offset).into());
            }
            bytes += record.value.len();
        }
        next = next_offset;
    }
    let rate = bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
    println!("read {} records, {rate:.1} MB/s", measured.next_offset - first);
    Ok(())
}
