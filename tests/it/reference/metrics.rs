//! Tests that `docs/metrics.md` lists every metric family of the service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tally::{
    grpc::{self, ForwardingConfig},
    proto::{
        SetCircuitModeRequest, engine_service_client::EngineServiceClient, set_circuit_mode_request::Change,
    },
    security::{Security, hash_hex},
    store::replicated::ReplicaView,
    telemetry::{Families, MetricSource},
};
use tokio_util::sync::CancellationToken;

use super::{check_page, path, sources};
use crate::support::{
    in_process::Service,
    operators::get,
    server::{ServerOptions, TestServer},
};

/// One metric family.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// The labels with their values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Labels whose values the page does not list: bounds of buckets, and values that depend on the build.
const OPEN_LABELS: [&str; 3] = ["le", "version", "commit"];
/// The family of which a test sees only some values of the labels.
const PARTLY_SEEN: &str = "tally_breaker_transitions_total";

/// Adds the families of a text in Prometheus' format.
fn parse(text: &str, families: &mut BTreeMap<String, Family>) {
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        } else if let Some((series, labels)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| series.strip_suffix(suffix))
                .find(|name| families.contains_key(*name))
                .unwrap_or(series);
            let family = families.get_mut(name).expect("the type comes before the values");
            let (labels, _) = labels.rsplit_once('}').expect("a closing brace");
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once("=\"").expect("a label");
                let value = value.trim_end_matches('"').to_owned();
                family.labels.entry(key.to_owned()).or_default().insert(value);
            }
        }
    }
}

/// Adds the families that only a replica of a replicated store shows.
async fn add_replica(families: &mut BTreeMap<String, Family>) {
    let security = Arc::new(Security::default());
    let view = ReplicaView {
        lag_ms: Some(0),
        ..ReplicaView::default()
    };
    let (service, _driver) = Service::start_replica(view, Arc::clone(&security)).await;
    let services = grpc::services(&service.engine, &security, &CancellationToken::new()).await;
    let (mut services, _reporter) = services.unwrap();
    let replica = service.engine.replica().unwrap();
    services
        .forward_calls(replica, ForwardingConfig::default())
        .unwrap();
    let sources: [Arc<dyn MetricSource>; 2] =
        [Arc::new(service.engine.clone()), Arc::new(services.forwarding())];
    let mut found = BTreeMap::new();
    parse(&Families::collect(&sources).to_prometheus(), &mut found);
    for (name, family) in found {
        families.entry(name).or_insert(family);
    }
}

/// Adds the families that the source code names, and that the services of the test do not show: they depend on the machine.
fn add_from_source(families: &mut BTreeMap<String, Family>) {
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let literals: Vec<&str> = text.split('"').collect();
        for place in 1..literals.len().saturating_sub(2) {
            let Some(kind) = declared_kind(literals[place - 1]) else {
                continue;
            };
            let name = literals[place];
            // A name and a help text, with nothing but a comma between them.
            if name.starts_with("tally_") && literals[place + 1].trim() == "," && !families.contains_key(name)
            {
                let family = Family {
                    kind: kind.to_owned(),
                    help: literals[place + 2].to_owned(),
                    labels: BTreeMap::new(),
                };
                families.insert(name.to_owned(), family);
            }
        }
    }
}

/// Returns the kind of metric that is declared if `code` is the source code before the name; `None` if the name after
/// `code` is not the first argument of a declaration. Other strings may begin with `tally_`, too: the names of the crates.
fn declared_kind(code: &str) -> Option<&'static str> {
    let code = code.trim_end().strip_suffix('(')?;
    let (_, method) = code.rsplit_once('.')?;
    match method {
        "gauge" | "gauges" => Some("gauge"),
        "counter" | "counters" => Some("counter"),
        "histogram" => Some("histogram"),
        _ => None,
    }
}

fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_timestamp_seconds") {
        "seconds since the Unix epoch"
    } else if name.ends_with("_seconds") {
        "seconds"
    } else if name.ends_with("_bytes") {
        "bytes"
    } else {
        ""
    }
}

fn table(families: &BTreeMap<String, Family>) -> String {
    let mut text = "| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, family) in families {
        let labels = family.labels.iter().filter(|(label, _)| *label != "le");
        let labels: Vec<String> = labels
            .map(|(label, values)| {
                if OPEN_LABELS.contains(&label.as_str()) || name == PARTLY_SEEN {
                    return format!("`{label}`");
                }
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                format!("`{label}`: {}", values.join(", "))
            })
            .collect();
        text += &format!(
            "| `{name}` | {} | {} | {} | {} |\n",
            family.kind,
            unit(name),
            labels.join("; "),
            family.help
        );
    }
    text
}

/// Starts a service with everything that adds metrics: TLS, tokens, and a collector (that does not answer).
fn start_with_everything(home: &std::path::Path) -> TestServer {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key, tokens) = (home.join("tls.crt"), home.join("tls.key"), home.join("tokens"));
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(&tokens, format!("read reader {}\n", hash_hex(b"token"))).unwrap();
    ServerOptions::default()
        .env("TALLY__SECURITY__TLS_CERTIFICATE", certificate.to_str().unwrap())
        .env("TALLY__SECURITY__TLS_KEY", key.to_str().unwrap())
        .env("TALLY__SECURITY__TOKENS_FILE", tokens.to_str().unwrap())
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:9")
        .start()
}

#[tokio::test]
async fn the_page_of_the_metrics_agrees_with_the_code() {
    let home = tempfile::tempdir().unwrap();
    let mut families = BTreeMap::new();
    let secured = start_with_everything(home.path());
    parse(&get(&secured, "/metrics").await.2, &mut families);
    // A family without values is not shown, so a circuit has to change its state.
    let plain = TestServer::start();
    let mut engine = EngineServiceClient::connect(plain.endpoint()).await.unwrap();
    let open_for = prost_types::Duration {
        seconds: 60,
        nanos: 0,
    };
    let change = SetCircuitModeRequest {
        change: Some(Change::OpenFor(open_for)),
        ..SetCircuitModeRequest::default()
    };
    engine.set_circuit_mode(change).await.unwrap();
    parse(&get(&plain, "/metrics").await.2, &mut families);
    add_replica(&mut families).await;
    add_from_source(&mut families);
    assert!(families.len() > 30, "{families:?}");
    for (name, family) in &families {
        assert!(
            !family.kind.is_empty() && !family.help.is_empty(),
            "{name}: {family:?}"
        );
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
    }
    check_page("docs/metrics.md", &table(&families));
}

#[test]
fn only_the_first_argument_of_a_declaration_is_a_metric() {
    assert_eq!(declared_kind("families.gauge(\n    "), Some("gauge"));
    assert_eq!(declared_kind("families.counters("), Some("counter"));
    assert_eq!(declared_kind("const CRATES: [&str; 2] = [\n    "), None);
    assert_eq!(declared_kind(",\n    "), None);
}

#[test]
fn other_pages_name_only_documented_metrics() {
    let page = std::fs::read_to_string(path("docs/metrics.md")).unwrap();
    let directory = path("docs");
    let files = [directory.clone(), directory.join("runbooks")]
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect::<Vec<_>>();
    assert!(files.len() > 10);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let words = text.split(|character: char| !character.is_ascii_lowercase() && character != '_');
        for name in words.filter(|word| word.starts_with("tally_") && word.len() > "tally_".len()) {
            let series =
                ["_bucket", "_sum", "_count"].map(|suffix| name.strip_suffix(suffix).unwrap_or(name));
            let is_known = [name, series[0], series[1], series[2]]
                .iter()
                .any(|name| page.contains(&format!("`{name}`")));
            // The names of the crates begin with `tally_`, too, but are not names of metrics.
            let is_crate = [
                "tally_breaker",
                "tally_batch",
                "tally_topology",
                "tally_ledger",
                "tally_journal",
            ];
            assert!(is_known || is_crate.contains(&name), "{}: {name}", file.display());
        }
    }
}
