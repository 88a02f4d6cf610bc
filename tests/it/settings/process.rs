//! Tests of `tally config`, of `tally serve --check`, and of environment variables. A test can't set variables of its own
//! process, so these tests start processes.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, process::Command};

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
        ("TALLY__STORE__DATA", "2024"),
        ("TALLY_LISTEN", "127.0.0.1:0"),
        (
            "TALLY__TELEMETRY__OTLP_ENDPOINT",
            "http://user:secret@127.0.0.1:1",
        ),
        ("TALLY_SERVICE_HOST", "10.0.0.1"),
        ("TALLY_PORT", "tcp://10.0.0.1:50051"),
        ("TALLY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("TALLY_COMMIT", "of the build"),
    ];
    let in_file = format!("{}, line 2", file.display());
    let expected = [
        ("server.drain", "20s", &*in_file),
        ("batch.siblings", "9", "TALLY__BATCH__SIBLINGS"),
        ("affinity.cpus.exec", "0", "TALLY__AFFINITY__CPUS__EXEC"),
        ("store.data", "2024", "TALLY__STORE__DATA"),
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
        assert_eq!(code, Some(0), "{command:?}: {error}");
        // A check also prints warnings that depend on the machine.
        let is_check = command.contains(&"--check");
        let of_variables = error
            .lines()
            .filter(|line| !is_check || line.contains("variable"));
        assert_eq!(of_variables.count(), 0, "{command:?}: {error}");
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
            "the environment variable TALLY__SERVER__LISTN is not known; did you mean TALLY__SERVER__LISTEN?",
        ),
        (
            &[],
            ("TALLY__STORE__DATA", ""),
            "store.data = \"\": must be the path of a directory (from TALLY__STORE__DATA)",
        ),
        (
            &[],
            ("TALLY_LISTEN", "abc"),
            "TALLY_LISTEN = abc: must be an IP address with a port, for example 127.0.0.1:50051 or [::1]:50051",
        ),
        (
            &[],
            ("TALLY_DATA", ""),
            "TALLY_DATA = \"\": must be a value that is not empty",
        ),
        (
            &[],
            ("TALLY__BREAKER__STRICT", "no"),
            "breaker.strict = no: must be true or false (from TALLY__BREAKER__STRICT)",
        ),
        (
            &[],
            ("TALLY__BREAKER__METHODS__NOBODY__RAMP", "1s"),
            "(from TALLY__BREAKER__METHODS__NOBODY__RAMP)",
        ),
        (
            &["--listen", "127.0.0.1:0"],
            ("TALLY__SERVER__LISTEN", "here"),
            "server.listen = here: must be an IP address with a port, for example 127.0.0.1:50051 (from \
             TALLY__SERVER__LISTEN)",
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

#[test]
fn every_subcommand_follows_the_same_rule_for_unknown_variables() {
    // These subcommands fail without a service, a file or a token, but only after the check of the variables.
    let subcommands: [&[&str]; 8] = [
        &["config"],
        &["serve", "--check"],
        &["topology"],
        &["health", "--endpoint", "http://127.0.0.1:9"],
        &["stats", "--endpoint", "http://127.0.0.1:9"],
        &["circuit", "show", "--endpoint", "http://127.0.0.1:9"],
        &["verify", "nowhere"],
        &["import", "nowhere.csv"],
    ];
    for subcommand in subcommands {
        for (variable, expected) in [
            (
                "TALLY_ENDPONT",
                "tally: the environment variable TALLY_ENDPONT is not known; did you mean TALLY_ENDPOINT?\n",
            ),
            (
                "TALLY_ALLOW_INSECURE",
                "tally: the environment variable TALLY_ALLOW_INSECURE is not known; did you mean \
                 TALLY__SECURITY__ALLOW_INSECURE?\n",
            ),
            (
                "TALLY__",
                "tally: the environment variable TALLY__ is not known\n",
            ),
            (
                "TALLY__SERVER__",
                "tally: the environment variable TALLY__SERVER__ is not known\n",
            ),
        ] {
            let (code, _, error) = tally(subcommand, &[(variable, "x")]);
            assert_eq!((code, &*error), (Some(78), expected), "{subcommand:?}");
        }
        let (_, _, error) = tally(subcommand, &[("TALLY_FOO", "1")]);
        let warning = "tally: warning: the environment variable TALLY_FOO is not known, so it is ignored\n";
        assert!(error.starts_with(warning), "{subcommand:?}: {error}");
    }
    for subcommand in [&["completions", "bash"][..], &["man"]] {
        let (code, _, error) = tally(subcommand, &[("TALLY_ENDPONT", "x")]);
        assert_eq!((code, &*error), (Some(0), ""), "{subcommand:?}");
    }
}

#[test]
fn a_variable_of_a_setting_whose_name_is_not_utf_8_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_tally"))
        .arg("config")
        .env(OsStr::from_bytes(b"TALLY__SERVER__LISTEN\xff"), "127.0.0.1:1")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(
        error.contains("the environment variable TALLY__SERVER__LISTEN\u{fffd} is not known"),
        "{error}"
    );
}

/// A path of the operator may name a file without an end.
#[test]
fn a_file_without_an_end_is_not_read_to_its_end() {
    for arguments in [
        &["--token-file", "/dev/zero"][..],
        &["--endpoint", "https://127.0.0.1:9", "--ca", "/dev/zero"],
        &[
            "--endpoint",
            "https://127.0.0.1:9",
            "--client-certificate",
            "/dev/zero",
            "--client-key",
            "/dev/zero",
        ],
    ] {
        let (code, _, error) = tally(&[&["stats"][..], arguments].concat(), &[]);
        let expected = "tally: can't read /dev/zero: the file is larger than 1048576 bytes\n";
        assert_eq!((code, &*error), (Some(78), expected), "{arguments:?}");
    }
}

#[test]
fn a_variable_of_an_option_is_named_in_its_error() {
    for (subcommand, variables, expected) in [
        (
            &["import", "nowhere.csv"][..],
            &[("TALLY_IMPORT_BATCH", "0")][..],
            "TALLY_IMPORT_BATCH = 0: must be 1 to 8192",
        ),
        (
            &["import", "nowhere.csv"],
            &[("TALLY_IMPORT_BATCH", "many")],
            "TALLY_IMPORT_BATCH = many: must be a whole number",
        ),
        (
            &["import", "nowhere.csv"],
            &[("TALLY_IMPORT_CREATE_ACCOUNTS", "perhaps")],
            "TALLY_IMPORT_CREATE_ACCOUNTS = perhaps: must be one of true, false",
        ),
        (
            &["import", "nowhere.csv"],
            &[("TALLY_IMPORT_GIVE_UP_AFTER", "9999999999999y")],
            "TALLY_IMPORT_GIVE_UP_AFTER = 9999999999999y: must be 1ms to 30days",
        ),
        (
            &["import", "nowhere.csv"],
            &[("TALLY_IMPORT_COLUMNS", "date")],
            "TALLY_IMPORT_COLUMNS = date: must be NAME=NAME-IN-FILE, for example date=Datum",
        ),
        (
            &["stats"],
            &[("TALLY_ENDPOINT", "foo")],
            "TALLY_ENDPOINT = foo: must be an address, for example http://127.0.0.1:50051; the port is missing",
        ),
        (
            &["circuit", "show"],
            &[("TALLY_ENDPOINT", "")],
            "TALLY_ENDPOINT = \"\": must be an address, for example http://127.0.0.1:50051; the text is not an address",
        ),
        (
            &["stats"],
            &[("TALLY_TOKEN", "secret\u{7}")],
            "TALLY_TOKEN: must be printable ASCII",
        ),
        (
            &["stats"],
            &[("TALLY_CLIENT_CERTIFICATE", "a.crt")],
            "TALLY_CLIENT_CERTIFICATE is set, so --client-key <FILE> must be set, too",
        ),
        (
            &["stats"],
            &[("TALLY_TOKEN", "a"), ("TALLY_TOKEN_FILE", "b")],
            "TALLY_TOKEN and TALLY_TOKEN_FILE are set, but exclude each other: set only one of them",
        ),
    ] {
        let (code, _, error) = tally(subcommand, variables);
        assert_eq!(
            (code, error),
            (Some(78), format!("tally: {expected}\n")),
            "{variables:?}"
        );
    }
    for (variable, expected) in [
        (
            "TALLY_IMPORT_COLUMNS",
            "no layout has a column foo; the columns are ",
        ),
        (
            "TALLY_IMPORT_KINDS",
            "a bank statement has no kind foo; the kinds are ",
        ),
    ] {
        let (code, _, error) = tally(&["import", "nowhere.csv"], &[(variable, "foo=bar")]);
        assert_eq!(code, Some(78), "{error}");
        assert!(
            error.starts_with(&format!("tally: {variable} = foo=bar: must be ")),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
    // An option overrides its variable, whose value is checked all the same.
    let show = ["circuit", "show", "--endpoint", "http://127.0.0.1:9"];
    let (code, _, error) = tally(&show, &[("TALLY_ENDPOINT", "http://127.0.0.1:1")]);
    assert_eq!(code, Some(69), "{error}");
    assert!(error.contains("127.0.0.1:9"), "{error}");
    // A missing subcommand is not the fault of a variable.
    let (code, _, error) = tally(&["circuit"], &[("TALLY_ENDPOINT", "http://127.0.0.1:9")]);
    assert_eq!(code, Some(64), "{error}");
    assert!(
        error.starts_with("tally: the subcommand is missing; it must be one of show, "),
        "{error}"
    );
    // A wrong option is an error of the command line, even if there is a variable.
    let (code, _, error) = tally(&["config", "--listen", "abc"], &[("TALLY_LISTEN", "127.0.0.1:0")]);
    assert_eq!(code, Some(64), "{error}");
}

#[test]
fn a_variable_that_an_option_overrides_is_checked() {
    for (arguments, variable, expected) in [
        (
            &["config", "--listen", "127.0.0.1:0"][..],
            ("TALLY_LISTEN", "bad"),
            "TALLY_LISTEN = bad: must be an IP address with a port, for example 127.0.0.1:50051 or [::1]:50051",
        ),
        (
            &["circuit", "show", "--endpoint=http://127.0.0.1:9"],
            ("TALLY_ENDPOINT", "foo"),
            "TALLY_ENDPOINT = foo: must be an address, for example http://127.0.0.1:50051; the port is missing",
        ),
        (
            &["stats", "--token", "a"],
            ("TALLY_TOKEN", "secret\u{7}"),
            "TALLY_TOKEN: must be printable ASCII",
        ),
        (
            &["config", "-o", "json"],
            ("TALLY_OUTPUT", "jsno"),
            "TALLY_OUTPUT = jsno: must be one of table, json; did you mean json?",
        ),
        // An option that excludes the option of the variable overrides the variable, too.
        (
            &["topology", "--config", "nowhere.toml"],
            ("TALLY_ENDPOINT", "foo"),
            "TALLY_ENDPOINT = foo: must be an address, for example http://127.0.0.1:50051; the port is missing",
        ),
    ] {
        let (code, _, error) = tally(arguments, &[variable]);
        assert_eq!(
            (code, error),
            (Some(78), format!("tally: {expected}\n")),
            "{arguments:?}"
        );
    }
    // A subcommand without the option does not use the variable.
    let (code, _, error) = tally(&["verify", "nowhere"], &[("TALLY_LISTEN", "bad")]);
    assert_eq!(code, Some(74), "{error}");
}

#[test]
fn every_subcommand_with_an_output_option_reads_its_variable() {
    let (_, of_option, _) = tally(&["config", "-o", "json"], &[]);
    let (code, of_variable, _) = tally(&["config"], &[("TALLY_OUTPUT", "json")]);
    assert_eq!((code, of_variable), (Some(0), of_option));
    for subcommand in [
        &["bench"][..],
        &["circuit", "show"],
        &["config"],
        &["import", "nowhere.csv"],
        &["stats"],
        &["topology"],
    ] {
        let (code, _, error) = tally(subcommand, &[("TALLY_OUTPUT", "xml")]);
        let expected = "tally: TALLY_OUTPUT = xml: must be one of table, json\n".to_owned();
        assert_eq!((code, error), (Some(78), expected), "{subcommand:?}");
    }
}

#[test]
fn an_endpoint_with_a_password_is_refused_and_not_shown() {
    for endpoint in ["http://user:secret@127.0.0.1:9", "user:secret@127.0.0.1:9"] {
        let problem = "a user name and a password are not accepted, a token is passed with --token-file";
        for (arguments, variable, code) in [
            (&["stats"][..], ("TALLY_ENDPOINT", endpoint), 78),
            (&["stats", "--endpoint", endpoint], ("HOME", "/"), 64),
            (&["topology", "--endpoint", endpoint], ("HOME", "/"), 64),
            (&["bench", "--endpoint", endpoint], ("HOME", "/"), 64),
        ] {
            let (actual, _, error) = tally(arguments, &[variable]);
            assert_eq!(actual, Some(code), "{error}");
            let shown = error.contains("***@127.0.0.1:9") && !error.contains("secret");
            assert!(shown && error.contains(problem), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn a_wrong_combination_has_the_code_of_its_origin() {
    let plain = ["--endpoint", "http://127.0.0.1:9"];
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a.csv");
    fs::write(
        &file,
        "transaction_id,debit_account_id,credit_account_id,minor_units\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    for (arguments, variables, code) in [
        (&["stats", "--ca", "ca.crt"][..], &[][..], 64),
        (
            &["stats"],
            &[("TALLY_CA", "ca.crt"), ("TALLY_ENDPOINT", "http://127.0.0.1:9")],
            78,
        ),
        (
            &[&["stats"][..], &plain].concat(),
            &[("TALLY_SERVER_NAME", "x")],
            64,
        ),
        (&["import", "a.csv", "--columns", "date=A,date=B"], &[], 64),
        (
            &["import", "a.csv"],
            &[("TALLY_IMPORT_COLUMNS", "date=A,date=B")],
            78,
        ),
        (
            &["import", "a.csv"],
            &[("TALLY_IMPORT_KINDS", "interest=A,transfer-in=A")],
            78,
        ),
        (
            &["import", "a.csv", "--ignore-columns", "A"],
            &[("TALLY_IMPORT_COLUMNS", "date=A")],
            64,
        ),
        (&["import", file], &[("TALLY_IMPORT_REJECTS", file)], 78),
        (&["import", file, "--rejects", file], &[], 64),
    ] {
        let (actual, _, error) = tally(arguments, variables);
        assert_eq!(actual, Some(code), "{arguments:?} {variables:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_check_prints_the_warnings_of_the_service() {
    let variables = [
        ("TALLY__AFFINITY__CPUS__EXEC", "4000"),
        ("TALLY__SECURITY__ALLOW_INSECURE", "true"),
    ];
    let (code, _, error) = tally(&["serve", "--check", "--listen", "0.0.0.0:50051"], &variables);
    assert_eq!(code, Some(0), "{error}");
    // The figures in the sentence are also fields.
    assert!(
        error.contains(" cpus=4000 allowed=") && error.contains(" remedy="),
        "{error}"
    );
    for warning in [
        "tally: warning: the placement of the threads costs speed or predictability warning=\"list_ignored\" \
         detail=\"affinity.cpus.exec = 4000: CPUs 4000 are not allowed",
        "tally: warning: anybody who can reach this address can move money (security.allow_insecure is set) \
         listen=0.0.0.0:50051",
    ] {
        assert!(error.contains(warning), "{error}");
    }
    let (_, output, _) = tally(&["topology"], &variables[..1]);
    assert!(!output.contains("explicit CPU lists"), "{output}");
}

#[test]
fn a_plan_is_made_only_with_valid_settings_of_its_section() {
    let (code, _, error) = tally(&["topology"], &[("TALLY__AFFINITY__NET_THREADS_MAX", "65")]);
    let expected =
        "tally: affinity.net_threads_max = 65: must be 1 to 64 (from TALLY__AFFINITY__NET_THREADS_MAX)\n";
    assert_eq!((code, &*error), (Some(78), expected));
}
