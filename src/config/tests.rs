use std::{io::Write, path::PathBuf, time::Duration};

use tally_breaker::BreakerMode;

use super::*;
use crate::{
    engine::{CallKind, InitialMode, ThresholdSource},
    settings::Origin,
};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Returns the value of an option `--option`.
fn option(key: &'static str, value: &str) -> Override {
    Override {
        key,
        value: value.into(),
        origin: Origin::Option { name: "--option" },
    }
}

fn refusal(text: &str) -> String {
    let file = file(text);
    let error = match Loaded::load(Some(file.path()), &[]) {
        Ok(loaded) => loaded.check().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    error.replace(file.path().to_str().unwrap(), "FILE")
}

#[test]
fn defaults_need_no_file_and_are_valid() {
    let config = load(None, &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(config.store.data, PathBuf::from("./tally-data"));
    config.engine().unwrap();
    config.server.check().unwrap();
    config.telemetry.check().unwrap();
    config.affinity.config().unwrap();
}

#[test]
fn flags_override_the_file_and_units_are_read() {
    let file = file(
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"3s\"\n[store]\nsegment_bytes = \"16MiB\"\n[breaker]\nslow_threshold = \"20ms\"",
    );
    let config = load(Some(file.path()), &[option("server.listen", "127.0.0.1:2")]).unwrap();
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.drain, Duration::from_secs(3));
    let engine = config.engine().unwrap();
    assert_eq!(engine.store.segment_bytes, 16 << 20);
    assert_eq!(engine.breaker.slow_threshold, Duration::from_millis(20));
}

const REPLICATED: &str = "[store]\nkind = \"replicated\"\n[store.replicated]\nbrokers = \"k:9092\"\n";

#[test]
fn a_replicated_store_needs_its_addresses_and_fits_to_the_security_of_the_server() {
    let addresses = "advertise = \"http://a:1\"\npeers = \"http://a:1,http://b:1\"\n";
    let loaded = |text: &str| Loaded::load(Some(file(text).path()), &[]).unwrap();
    let config = loaded(&format!("{REPLICATED}{addresses}"));
    config.check().unwrap();
    assert_eq!(
        config.config.store.replicated().unwrap().unwrap().peers,
        ["http://b:1"]
    );
    // The settings of a replicated store are checked, but not needed, while the store is embedded.
    let embedded = "[store.replicated]\nheartbeat = \"50ms\"";
    assert_eq!(loaded(embedded).config.store.replicated().unwrap(), None);
    assert_eq!(
        refusal("[store.replicated]\nheartbeat = \"5s\""),
        "store.replicated.heartbeat = 5s: must be 10ms to 1s (from FILE, line 2)"
    );
    assert_eq!(
        refusal(REPLICATED),
        "store.replicated.advertise = unset: must be set to the URL of this replica, because store.kind is replicated"
    );
    let tls = "[security]\ntls_certificate = \"c\"\ntls_key = \"k\"\n";
    let error = refusal(&format!("{REPLICATED}{addresses}{tls}"));
    assert!(
        error.starts_with(
            "store.replicated.advertise = http://a:1: must be https://HOST:PORT, because security.tls_certificate is set"
        ),
        "{error}"
    );
    let secure = addresses.replace("http:", "https:") + "peer_ca_file = \"ca\"\n";
    let config = loaded(&format!("{REPLICATED}{secure}{tls}client_ca = \"clients\"\n")).config;
    let forwarding = config.forwarding().unwrap();
    assert_eq!(forwarding.ca, Some(PathBuf::from("ca")));
    assert_eq!(
        forwarding.identity,
        Some((PathBuf::from("c"), PathBuf::from("k")))
    );
}

#[test]
fn a_host_name_is_not_an_address_to_listen_on() {
    let text = refusal("[server]\nlisten = \"localhost:50051\"");
    assert!(
        text.contains("localhost:50051")
            && text.contains("must be an IP address with a port, for example 127.0.0.1:50051"),
        "{text}"
    );
}

#[test]
fn errors_name_the_key_the_value_and_the_source() {
    for (text, parts) in [
        ("[server]\nlistn = \"x\"", &["listn", "server"][..]),
        (
            "[breaker]\nmin_calls = \"many\"",
            &["many", "breaker.min_calls", ".tmp"],
        ),
        ("[store]\nsegment_bytes = \"soon\"", &["segment_bytes"]),
    ] {
        let file = file(text);
        let error = load(Some(file.path()), &[]).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let missing = load(Some(std::path::Path::new("/nonexistent/tally.toml")), &[])
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/nonexistent/tally.toml"), "{missing}");
}

#[test]
fn bounds_of_the_server_and_of_telemetry_are_checked() {
    for (key, value, expected) in [
        (
            "message_time_max",
            "\"2h\"",
            "server.message_time_max = 2h: must be 1s to 1 hour",
        ),
        ("drain", "\"2h\"", "server.drain = 2h: must be 0s to 1 hour"),
        (
            "memory_max",
            "\"1MiB\"",
            "server.memory_max = 1MiB: must be 64MiB to 1TiB",
        ),
        (
            "connection_grace",
            "\"10ms\"",
            "server.connection_grace = 10ms: must be 1s to 1 day",
        ),
    ] {
        let file = file(&format!("[server]\n{key} = {value}"));
        let error = load(Some(file.path()), &[]).unwrap().server.check().unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    for (key, value, expected) in [
        (
            "trace_ratio",
            "1.5",
            "telemetry.trace_ratio = 1.5: must be 0 to 1",
        ),
        (
            "trace_ratio",
            "nan",
            "telemetry.trace_ratio = NaN: must be 0 to 1",
        ),
        (
            "metrics_interval",
            "\"1ms\"",
            "telemetry.metrics_interval = 1ms: must be 1s to 1 hour",
        ),
    ] {
        let file = file(&format!("[telemetry]\n{key} = {value}"));
        let error = load(Some(file.path()), &[])
            .unwrap()
            .telemetry
            .check()
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn bounds_are_checked_with_key_value_and_bound() {
    let errors = [
        (
            "store.block_bytes_max",
            "1MiB",
            "store.block_bytes_max = 1MiB: must be 2MiB to 16MiB, a quarter of store.segment_bytes",
        ),
        (
            "store.segment_bytes",
            "4MiB",
            "store.segment_bytes = 4MiB: must be a multiple of 4KiB, 8MiB to 1GiB",
        ),
        (
            "store.checkpoint_bytes",
            "1KiB",
            "store.checkpoint_bytes = 1KiB: must be 1MiB to 1TiB",
        ),
        (
            "batch.queue_bytes_max",
            "1KiB",
            "batch.queue_bytes_max = 1KiB: must be 1MiB to 1TiB",
        ),
        (
            "batch.max_linger",
            "2s",
            "batch.max_linger = 2s: must be 0s to 1s",
        ),
        (
            "batch.latency_budget",
            "2h",
            "batch.latency_budget = 2h: must be 1us to 1h",
        ),
        (
            "store.segment_bytes",
            "10000001",
            "store.segment_bytes = 10000001B: must be a multiple of 4KiB, 8MiB to 1GiB",
        ),
    ];
    for (key, value, expected) in errors {
        let config = load(None, &[option(key, value)]).unwrap();
        assert_eq!(config.engine().unwrap_err().to_string(), expected);
    }
    let config = load(None, &[option("affinity.cpus.exec", "3-1")]).unwrap();
    let error = config.affinity.config().unwrap_err().to_string();
    let expected = "affinity.cpus.exec = 3-1: must be a list of CPUs such as 0-3,7: ";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_kind_of_call_can_have_its_own_settings() {
    let file = file(
        "[breaker]\nslow_threshold = \"auto\"\nmode = \"metrics_only\"\nconsecutive_failures = 0\n\
         [breaker.methods.processtransactions]\nslow_threshold = \"2s\"\nviolations = 7\n\
         [breaker.methods.StreamTransactions]\npreset = \"seed\"\n",
    );
    let engine = load(Some(file.path()), &[]).unwrap().engine().unwrap();
    assert_eq!(engine.breaker.consecutive_failures, None);
    let circuits = engine.circuits;
    assert_eq!(circuits.threshold, ThresholdSource::Auto);
    assert_eq!(circuits.mode, InitialMode(BreakerMode::MetricsOnly));
    let [None, Some(bulk), Some(stream), None] = circuits.methods else {
        panic!("{:?}", circuits.methods)
    };
    assert_eq!(bulk.threshold, ThresholdSource::Configured);
    assert_eq!(bulk.settings.slow_threshold, Duration::from_secs(2));
    assert_eq!(
        (bulk.settings.violations, bulk.settings.consecutive_failures),
        (Some(7), None)
    );
    assert_eq!(stream.threshold, ThresholdSource::Preset);
    assert_eq!(stream.settings.slow_threshold, Duration::from_millis(1));
    assert_eq!(stream.settings.violations, Some(10));
}

#[test]
fn with_the_preset_for_replicated_stores_no_kind_of_call_waits_long_for_a_log_that_hangs() {
    for (more, expected_s) in [
        ("", [2, 4, 4, 4]),
        ("slow_threshold = \"1s\"\n", [1, 20, 20, 20]),
        (
            "[breaker.methods.StreamTransactions]\nramp = \"1s\"\n",
            [2, 4, 4, 4],
        ),
        (
            "[breaker.methods.ProcessTransactions]\nslow_threshold = \"9s\"\n",
            [2, 9, 4, 4],
        ),
    ] {
        let file = file(&format!("[breaker]\npreset = \"replicated\"\n{more}"));
        let engine = load(Some(file.path()), &[]).unwrap().engine().unwrap();
        let found = CallKind::ALL.into_iter().zip(&engine.circuits.methods);
        let found = found.map(|(kind, own)| match own {
            Some(own) => own.settings.slow_threshold,
            None => kind.settings(&engine.breaker).slow_threshold,
        });
        let expected = expected_s.map(Duration::from_secs);
        assert_eq!(found.collect::<Vec<_>>(), expected, "{more}");
    }
}

#[test]
fn the_latency_budget_of_batches_comes_from_its_key_or_from_the_preset_seed() {
    for (text, expected) in [
        ("", None),
        ("[breaker]\npreset = \"default\"\n", None),
        ("[breaker]\npreset = \"seed\"\n", Some(Duration::from_micros(800))),
        (
            "[breaker]\npreset = \"seed\"\n[batch]\nlatency_budget = \"5ms\"\n",
            Some(Duration::from_millis(5)),
        ),
    ] {
        let file = file(text);
        let engine = load(Some(file.path()), &[]).unwrap().engine().unwrap();
        assert_eq!(engine.batch.latency_budget, expected, "{text}");
    }
}

#[test]
fn every_breaker_setting_is_checked_and_named() {
    for (text, expected) in [
        ("min_calls = 0", "breaker.min_calls = 0: must be 1 to 1000000"),
        (
            "slow_threshold = \"1us\"",
            "breaker.slow_threshold = 1us: must be 8us to 60s",
        ),
        ("overdue_rounds = 9", "breaker.overdue_rounds = 9: must be 1 to 7"),
        ("open_jitter = 1.5", "breaker.open_jitter = 1.5: must be 0 to 0.9"),
        (
            "methods.Nobody = {}",
            "breaker.methods = Nobody: must be one of ProcessTransaction, ProcessTransactions, \
             StreamTransactions, CreateAccounts",
        ),
        (
            "methods.CreateAccounts = { mode = \"auto\" }",
            "breaker.methods.CreateAccounts.mode = auto: must be set for all kinds of calls together, as breaker.mode",
        ),
        (
            "methods.CreateAccounts = { ramp_min = 0.0 }",
            "breaker.methods.CreateAccounts.ramp_min = 0: must be above 0 and at most 1",
        ),
    ] {
        let file = file(&format!("[breaker]\n{text}"));
        let error = load(Some(file.path()), &[]).unwrap().engine().unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let file = file("[breaker]\nslow_threshold = \"soon\"");
    let error = load(Some(file.path()), &[]).unwrap_err().to_string();
    for part in ["breaker.slow_threshold", "soon", "\"auto\""] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn errors_have_the_key_the_value_the_bounds_and_the_line() {
    for (text, expected) in [
        (
            "[server]\n\ndrain = \"2h\"",
            "server.drain = 2h: must be 0s to 1 hour (from FILE, line 3)",
        ),
        (
            "[breaker]\nmin_calls = \"many\"",
            "breaker.min_calls = many: must be a whole number, 1 to 1000000 (from FILE, line 2)",
        ),
        (
            "[breaker]\nmin_calls = 99999999999",
            "breaker.min_calls = 99999999999: must be a whole number, 1 to 1000000 (from FILE, line 2)",
        ),
        (
            "affinity.mode = \"pinn\"",
            "affinity.mode = pinn: must be one of auto, off, fence, pin, strict; did you mean pin? (from FILE, line 1)",
        ),
        (
            "[telemetry]\nlog = \"debgu\"",
            "telemetry.log = debgu: must be a level or TARGET=LEVEL, such as info or tally=debug,warn: unknown level \
             \"debgu\", the levels are off, error, warn, info, debug, trace; did you mean debug? (from FILE, line 2)",
        ),
        (
            "[breaker.methods.CreateAccounts]\nramp_min = 0.0",
            "breaker.methods.CreateAccounts.ramp_min = 0: must be above 0 and at most 1 (from FILE, line 2)",
        ),
        (
            "[breaker.methods.CreateAccount]\nramp_min = 0.5",
            "breaker.methods = CreateAccount: must be one of ProcessTransaction, ProcessTransactions, \
             StreamTransactions, CreateAccounts; did you mean CreateAccounts? (from FILE, line 1)",
        ),
        (
            "[affinity.fifo]\npriority = 50",
            "affinity.fifo.priority = 50: must be 1 to 10 (from FILE, line 2)",
        ),
        (
            "server = 5",
            "server = 5: must be a table of settings (from FILE, line 1)",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

#[test]
fn errors_have_no_words_of_the_libraries() {
    for (text, expected) in [
        (
            "server.listen = 5",
            "server.listen = 5: must be an IP address with a port, for example 127.0.0.1:50051 (from FILE, line 1)",
        ),
        (
            "store.segment_bytes = -1",
            "store.segment_bytes = -1: must be a size with a unit, such as 64MiB, a multiple of 4KiB, 8MiB to 1GiB (from \
             FILE, line 1)",
        ),
        (
            "store.segment_bytes = true",
            "store.segment_bytes = true: must be a size with a unit, such as 64MiB, a multiple of 4KiB, 8MiB to 1GiB \
             (from FILE, line 1)",
        ),
        (
            "server.drain = 10",
            "server.drain = 10: must be a time with a unit, such as 20ms, 0s to 1 hour (from FILE, line 1)",
        ),
        (
            "breaker.strict = \"no\"",
            "breaker.strict = no: must be true or false (from FILE, line 1)",
        ),
        (
            "breaker.methods.CreateAccounts.strict = true",
            "breaker.methods.CreateAccounts.strict = true: must be set for all kinds of calls together, as \
             breaker.strict (from FILE, line 1)",
        ),
        (
            "store.data = \"\"",
            "store.data = \"\": must be the path of a directory (from FILE, line 1)",
        ),
        (
            "security.tokens_file = \"\"",
            "security.tokens_file = \"\": must be the path of a file (from FILE, line 1)",
        ),
        (
            "breaker.half_open_permits = 8\nbreaker.half_open_ok_needed = 9",
            "breaker.half_open_ok_needed = 9: must be 1 to 8 (breaker.half_open_permits) (from FILE, line 2)",
        ),
        (
            "store.segment_bytes = \"8MiB\"",
            "store.block_bytes_max = 4MiB: must be 2MiB, a quarter of store.segment_bytes",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

#[test]
fn all_unknown_keys_are_listed_with_the_probable_keys() {
    for (text, expected) in [
        (
            "[server]\nlistn = 1\n[store]\nnonsense = 2",
            "server.listn is not a setting; did you mean server.listen? (from FILE, line 2); store.nonsense is not a \
             setting (from FILE, line 4)",
        ),
        (
            "[servr]\nlisten = \"127.0.0.1:1\"",
            "servr is not a setting; did you mean server? (from FILE, line 1)",
        ),
        (
            "[server]\nsegment_bytes = 1",
            "server.segment_bytes is not a setting; did you mean store.segment_bytes? (from FILE, line 2)",
        ),
        (
            "[breaker.methods.CreateAccounts]\nslow_treshold = \"1s\"",
            "breaker.methods.CreateAccounts.slow_treshold is not a setting; did you mean \
             breaker.methods.CreateAccounts.slow_threshold? (from FILE, line 2)",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    for (text, place, reason) in [
        (
            "[server]\ndrain = 3s\n",
            "line 2, column 10",
            "the value of drain is not TOML; write a text, a time or a size in quotes, or a number of at most \
             9223372036854775807, or true or false",
        ),
        (
            "[server\ndrain = \"3s\"\n",
            "line 1, column 8",
            "a table must be in brackets, such as [server], with nothing after it",
        ),
        (
            "[server]\ndrain\n",
            "line 2, column 6",
            "this is not TOML; write KEY = VALUE, such as drain = \"10s\", or a table, such as [server]",
        ),
        (
            "[server]\ndrain = \"3s\"\ndrain = \"4s\"\n",
            "line 3, column 1",
            "this key or table is in the file already; leave out one of the two",
        ),
    ] {
        let expected = format!("the configuration file FILE is not valid TOML: {place}: {reason}");
        assert_eq!(refusal(text), expected);
    }
}

#[test]
fn a_number_beyond_64_bits_is_the_error_of_its_setting() {
    for (text, expected) in [
        (
            "[batch]\n# a comment\nsiblings = 99_999_999_999_999_999_999 # too many\n",
            "batch.siblings = 99_999_999_999_999_999_999: must be a whole number, 1 to 1048576 (from FILE, line 3)",
        ),
        (
            "[affinity]\nfifo.priority = -9999999999999999999\n",
            "affinity.fifo.priority = -9999999999999999999: must be a whole number, 1 to 10 (from FILE, line 2)",
        ),
    ] {
        assert_eq!(refusal(text), expected);
    }
    assert!(
        refusal("[batch]\nsibling = 99999999999999999999\n").contains("the value of sibling is not TOML")
    );
}

#[test]
fn a_value_is_shown_as_it_is_written() {
    assert_eq!(
        refusal("[server]\ndrain = \"99h\"\n"),
        "server.drain = 99h: must be 0s to 1 hour (from FILE, line 2)"
    );
    let memory = refusal("[server]\nmemory_max = \"10MB\"\n");
    assert!(
        memory.starts_with("server.memory_max = 10MB: must be 64MiB"),
        "{memory}"
    );
}

#[test]
fn a_list_of_one_cpu_can_be_a_number() {
    let file = file("[affinity.cpus]\nexec = 3\nwal = \"4-5\"");
    let affinity = load(Some(file.path()), &[]).unwrap().affinity.config().unwrap();
    assert_eq!(affinity.cpus.exec, Some("3".parse().unwrap()));
    assert_eq!(affinity.cpus.wal, Some("4-5".parse().unwrap()));
}

#[test]
fn effective_settings_have_their_origin_and_no_secrets() {
    let file = file(
        "[breaker]\npreset = \"seed\"\nmin_calls = 7\n[breaker.methods.CreateAccounts]\nramp = \"1s\"\n\
         [telemetry]\notlp_endpoint = \"http://user:secret@collector:4317\"\n",
    );
    let loaded = Loaded::load(Some(file.path()), &[option("server.listen", "127.0.0.1:2")]).unwrap();
    let settings = loaded.settings();
    let in_file = |line| Origin::File {
        path: file.path().to_owned(),
        line: Some(line),
    };
    for (key, value, origin) in [
        (
            "server.listen",
            Some("127.0.0.1:2"),
            Origin::Option { name: "--option" },
        ),
        ("server.drain", Some("10s"), Origin::Default),
        ("store.segment_bytes", Some("64MiB"), Origin::Default),
        ("breaker.preset", Some("seed"), in_file(2)),
        ("breaker.min_calls", Some("7"), in_file(3)),
        ("breaker.slow_threshold", Some("1ms"), Origin::Preset),
        ("breaker.bucket", Some("1s"), Origin::Default),
        ("breaker.methods.CreateAccounts.ramp", Some("1s"), in_file(5)),
        ("batch.latency_budget", Some("800us"), Origin::Preset),
        ("affinity.net_threads_max", Some("8"), Origin::Default),
        ("security.tokens_file", None, Origin::Default),
        (
            "telemetry.otlp_endpoint",
            Some("http://***@collector:4317"),
            in_file(7),
        ),
    ] {
        let found = settings.iter().find(|setting| setting.key == key).unwrap();
        assert_eq!((found.value.as_deref(), &found.origin), (value, &origin), "{key}");
    }
    let of_methods = settings
        .iter()
        .filter(|setting| setting.key.starts_with("breaker.methods."));
    assert_eq!(of_methods.count(), 1);
}

#[test]
fn the_bounds_of_a_setting_come_from_its_check() {
    for (key, expected) in [
        ("server.drain", Some("0s to 1 hour")),
        ("server.memory_max", Some("64MiB to 1TiB")),
        ("breaker.min_calls", Some("1 to 1000000")),
        ("affinity.fifo.priority", Some("1 to 10")),
        ("telemetry.trace_ratio", Some("0 to 1")),
        ("admin.enabled", None),
    ] {
        assert_eq!(bounds(key).as_deref(), expected, "{key}");
    }
}

#[test]
fn a_setting_in_a_setting_is_an_unknown_key() {
    assert_eq!(
        refusal("[store.data]\nx = 1"),
        "store.data.x is not a setting; did you mean store.data? (from FILE, line 2)"
    );
}

#[test]
fn a_list_of_unknown_keys_is_cut() {
    let keys: String = (0..5000).map(|index| format!("q{index:04} = 1\n")).collect();
    let text = refusal(&keys);
    assert!(
        text.ends_with("q0009 is not a setting (from FILE, line 10); and 4990 more"),
        "{text}"
    );
}

#[test]
fn a_value_that_is_overridden_is_checked_too() {
    let refusal = |text: &str, overrides: &[Override]| {
        let file = file(text);
        let error = Loaded::load(Some(file.path()), overrides).err()?;
        Some(error.to_string().replace(file.path().to_str().unwrap(), "FILE"))
    };
    let expected = |text: &str| Some(text.to_owned());
    assert_eq!(
        refusal(
            "server.listen = \"here\"",
            &[option("server.listen", "127.0.0.1:2")]
        ),
        expected(
            "server.listen = here: must be an IP address with a port, for example 127.0.0.1:50051 (from FILE, line 1)"
        )
    );
    assert_eq!(
        refusal("server.drain = \"2h\"", &[option("server.drain", "3s")]),
        expected("server.drain = 2h: must be 0s to 1 hour (from FILE, line 1)")
    );
    // A value that is valid in its own file, or together with the values in force, is no error.
    let sizes = "store.segment_bytes = \"256MiB\"\nstore.block_bytes_max = \"64MiB\"";
    assert_eq!(refusal(sizes, &[option("store.block_bytes_max", "4MiB")]), None);
    let segment = option("store.segment_bytes", "8MiB");
    assert_eq!(
        refusal(sizes, &[segment, option("store.block_bytes_max", "2MiB")]),
        None
    );
    // The address is not secured, but it is not in force.
    let open = "server.listen = \"0.0.0.0:1\"";
    assert_eq!(refusal(open, &[option("server.listen", "127.0.0.1:2")]), None);
}

#[test]
fn a_file_that_is_too_long_or_no_text_is_refused() {
    let error = load(Some(std::path::Path::new("/dev/zero")), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--config = /dev/zero: must be a file of at most 1MiB"
    );
    let mut binary = tempfile::NamedTempFile::new().unwrap();
    binary.write_all(b"[server]\n# \xff\n").unwrap();
    let error = load(Some(binary.path()), &[]).unwrap_err().to_string();
    assert!(
        error.ends_with("is not valid TOML: line 2, column 3: the file is not UTF-8 text"),
        "{error}"
    );
}
