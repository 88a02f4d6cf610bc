use std::io::Write;

use super::*;

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
    config.net().unwrap();
    config.affinity().unwrap();
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
    ];
    for (key, value, expected) in errors {
        let config = load(None, &[(key, value.to_owned())]).unwrap();
        assert_eq!(config.engine().unwrap_err().to_string(), expected);
    }
    let config = load(None, &[("affinity.cpus.exec", "3-1".to_owned())]).unwrap();
    let error = config.affinity().unwrap_err().to_string();
    assert!(error.contains("affinity.cpus.exec = 3-1"), "{error}");
}
