//! Tests of `tally config`, of `tally serve --check`, and of environment variables. A test can't set variables of its own
//! process, so these tests start processes.

use std::{fs, process::Command};

/// Runs `tally` with these arguments and environment variables. Returns its exit code, standard output and standard error.
fn tally(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tally"))
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Returns the cells of the row of a setting in a table.
fn row<'a>(table: &'a str, key: &str) -> Vec<&'a str> {
    let row = table
        .lines()
        .find(|line| line.contains(&format!(" {key} ")))
        .unwrap_or_default();
    row.split(['│', '┆'])
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

#[test]
fn the_settings_in_force_are_shown_with_their_origin() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tally.toml");
    fs::write(&file, "[server]\ndrain = \"20s\"\n").unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--admin", "127.0.0.1:0"];
    let variables = [
        ("TALLY__BATCH__SIBLINGS", "9"),
        ("TALLY__AFFINITY__CPUS__EXEC", "0"),
        ("TALLY_LISTEN", "127.0.0.1:0"),
        (
            "TALLY__TELEMETRY__OTLP_ENDPOINT",
            "http://user:secret@127.0.0.1:1",
        ),
        ("TALLY_SERVICE_HOST", "10.0.0.1"),
        ("TALLY_PORT", "tcp://10.0.0.1:50051"),
        ("TALLY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("TALLY_PROFILE", "of another program"),
    ];
    let in_file = format!("{}, line 2", file.display());
    let expected = [
        ("server.drain", "20s", &*in_file),
        ("batch.siblings", "9", "TALLY__BATCH__SIBLINGS"),
        ("affinity.cpus.exec", "0", "TALLY__AFFINITY__CPUS__EXEC"),
        ("server.listen", "127.0.0.1:0", "TALLY_LISTEN"),
        ("admin.listen", "127.0.0.1:0", "--admin"),
        ("store.segment_bytes", "64MiB", "default"),
        ("security.tokens_file", "not set", "default"),
        (
            "telemetry.otlp_endpoint",
            "http://***@127.0.0.1:1",
            "TALLY__TELEMETRY__OTLP_ENDPOINT",
        ),
    ];
    for command in [&["config"][..], &["serve", "--check"]] {
        let (code, output, error) = tally(&[command, &arguments].concat(), &variables);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{command:?}");
        for (key, value, origin) in expected {
            assert_eq!(row(&output, key), [key, value, origin], "{command:?}");
        }
        assert!(!output.contains("secret"));
    }
    let (code, output, _) = tally(&[&["config", "-o", "json"][..], &arguments].concat(), &variables);
    assert_eq!(code, Some(0));
    let settings: Vec<serde_json::Value> = serde_json::from_str(&output).unwrap();
    let of = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(
        *of("server.drain"),
        serde_json::json!({
            "key": "server.drain",
            "value": "20s",
            "origin": {"kind": "file", "path": file, "line": 2},
        })
    );
    assert_eq!(of("security.tokens_file")["value"], serde_json::Value::Null);
    assert!(!output.contains("secret"));
}

#[test]
fn errors_name_the_variable_or_the_option_and_the_probable_name() {
    for (arguments, variable, expected) in [
        (
            &[][..],
            ("TALLY__SERVER__LISTN", "127.0.0.1:1"),
            "TALLY__SERVER__LISTN is not a setting; did you mean TALLY__SERVER__LISTEN?",
        ),
        (
            &[],
            ("TALLY__SERVER__DRAIN", "2h"),
            "server.drain = 2h: must be 0s to 1 hour (from TALLY__SERVER__DRAIN)",
        ),
        (
            &[],
            ("TALLY__SERVER", "x"),
            "server = x: must be a table of settings (from TALLY__SERVER)",
        ),
        (
            &[],
            ("TALLY_LISTN", "127.0.0.1:1"),
            "the environment variable TALLY_LISTN is not known; did you mean TALLY_LISTEN?",
        ),
        (
            &[],
            ("TALLY__TELEMETRY__LOG", "debgu"),
            "did you mean debug? (from TALLY__TELEMETRY__LOG)",
        ),
        (
            &[],
            ("TALLY__TELEMETRY__OTLP_ENDPOINT", "collector:4317"),
            "telemetry.otlp_endpoint = collector:4317: must be http://HOST:PORT, such as http://127.0.0.1:4317; the \
             export has no TLS (from TALLY__TELEMETRY__OTLP_ENDPOINT)",
        ),
        (&["--listen", "0.0.0.0:1"], ("HOME", "/"), "(from --listen)"),
    ] {
        for command in [&["config"][..], &["serve", "--check"], &["serve"]] {
            let (code, _, error) = tally(&[command, arguments].concat(), &[variable]);
            assert_eq!(code, Some(78), "{command:?}: {error}");
            assert!(error.trim_end().ends_with(expected), "{command:?}: {error}");
        }
    }
}
