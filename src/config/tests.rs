use std::{io::Write, path::PathBuf, time::Duration};

use tally_breaker::BreakerMode;

use super::*;
use crate::engine::{InitialMode, ThresholdSource};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
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
    let config = load(Some(file.path()), &[("server.listen", "127.0.0.1:2".to_owned())]).unwrap();
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.drain, Duration::from_secs(3));
    let engine = config.engine().unwrap();
    assert_eq!(engine.store.segment_bytes, 16 << 20);
    assert_eq!(engine.breaker.slow_threshold, Duration::from_millis(20));
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
        (
            "memory_max",
            "\"1MiB\"",
            "server.memory_max = 1.0 MiB: must be 64 MiB to 1 TiB",
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
            "store.block_bytes_max = 1.0 MiB: must be at least 2 MiB",
        ),
        (
            "store.checkpoint_bytes",
            "1KiB",
            "store.checkpoint_bytes = 1.0 KiB: must be at least 1 MiB",
        ),
        (
            "batch.queue_bytes_max",
            "1KiB",
            "batch.queue_bytes_max = 1024: must be 1048576 to 1099511627776",
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
            "store.segment_bytes = 10000001: must be a multiple of 4096 up to 1073741824",
        ),
    ];
    for (key, value, expected) in errors {
        let config = load(None, &[(key, value.to_owned())]).unwrap();
        assert_eq!(config.engine().unwrap_err().to_string(), expected);
    }
    let config = load(None, &[("affinity.cpus.exec", "3-1".to_owned())]).unwrap();
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
        (
            "min_calls = 0",
            "breaker.min_calls = 0: must be from 1 to 1000000",
        ),
        (
            "slow_threshold = \"1us\"",
            "breaker.slow_threshold = 1µs: must be from 8us to 60s",
        ),
        (
            "overdue_rounds = 9",
            "breaker.overdue_rounds = 9: must be from 1 to 7",
        ),
        (
            "open_jitter = 1.5",
            "breaker.open_jitter = 1.5: must be from 0 to 0.9",
        ),
        (
            "methods.Nobody = {}",
            "breaker.methods = Nobody: must be one of ProcessTransaction, ProcessTransactions, \
             StreamTransactions, CreateAccounts",
        ),
        (
            "methods.CreateAccounts = { mode = \"auto\" }",
            "breaker.methods.CreateAccounts.mode = set: must be absent; set it for the whole breaker",
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
