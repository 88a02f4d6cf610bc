//! Tests of `tally bench` as a process: its report, its counts, and the options that it rejects.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::server::{BINARY, TestServer};

/// Options for a short measurement. These tests do not check measured times, so a short measurement is enough.
const SHORT: [&str; 8] = [
    "--duration",
    "300ms",
    "--rounds",
    "1",
    "--accounts",
    "100",
    "--json",
    "--self-contained",
];

/// Runs `tally bench`. Returns its exit code, standard output and standard error.
fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY)
        .arg("bench")
        .args(arguments)
        .env_remove("TALLY_ENDPOINT")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs `tally bench`, which must succeed, and returns the object that `--json` prints.
fn report(arguments: &[&str]) -> Value {
    let (code, out, error) = bench(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {out}"))
}

fn short(arguments: &[&str]) -> Value {
    report(&[&SHORT, arguments].concat())
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer);
    value
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer} is no number in {report:#}"))
}

fn count(report: &Value, pointer: &str) -> u64 {
    let value = report.pointer(pointer);
    value
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer} is no count in {report:#}"))
}

/// Checks the fields that every report contains.
fn assert_sound(report: &Value) {
    assert!(number(report, "/transactions_per_second") > 0.0, "{report:#}");
    assert!(
        number(report, "/server_cpu_us_per_transaction") >= 0.0,
        "{report:#}"
    );
    let latencies = ["p50", "p90", "p99", "p999", "max"]
        .map(|quantile| number(report, &format!("/latency_us/{quantile}")));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{latencies:?}");
    assert!(count(report, "/transactions") > 0, "{report:#}");
    assert_eq!(count(report, "/replayed"), 0, "{report:#}");
    assert_eq!(count(report, "/seed"), 1);
    for text in ["machine", "commit", "version", "command", "mode"] {
        let value = report[text].as_str().unwrap_or_default();
        assert!(!value.is_empty(), "no {text} in {report:#}");
    }
    let command = report["command"].as_str().unwrap();
    assert!(command.contains(" bench "), "{command}");
}

/// Checks that the counts add up: every scheduled transaction was answered, rejected, or counted as missed.
fn assert_adds_up(figures: &Value) {
    let schedule = |part: &str| count(figures, &format!("/schedule/{part}"));
    let answered = count(figures, "/transactions") + schedule("rejected");
    assert_eq!(schedule("due"), answered + schedule("missed"), "{figures:#}");
    assert!(schedule("late") <= answered, "{figures:#}");
}

#[test]
fn every_mode_is_measured() {
    for (mode, in_flight, extra) in [
        ("unary", "8", vec![]),
        ("stream", "16", vec![]),
        ("batch", "2", vec!["--batch", "50"]),
    ] {
        for distribution in [vec![], vec!["--hot"], vec!["--zipf", "0.99", "--random-ids"]] {
            let arguments = [
                vec!["--mode", mode, "--in-flight", in_flight],
                extra.clone(),
                distribution.clone(),
            ]
            .concat();
            let report = short(&arguments);
            assert_sound(&report);
            assert_eq!(report["mode"], mode);
            assert!(report.get("schedule").is_none() && report.get("baseline").is_none());
            let named = report["distribution"].as_str().unwrap();
            let expected = distribution
                .first()
                .map_or("uniform", |word| word.trim_start_matches('-'));
            assert!(named.starts_with(expected), "{named}");
            if mode == "batch" {
                assert_eq!(count(&report, "/transactions") % 50, 0);
            }
        }
    }
}

#[test]
fn every_scheduled_transaction_is_sent_or_counted_as_missed() {
    for (mode, extra) in [
        ("unary", vec!["--baseline"]),
        ("stream", vec![]),
        ("batch", vec!["--batch", "10"]),
    ] {
        let arguments = [vec!["--mode", mode, "--rate", "500"], extra.clone()].concat();
        let report = short(&arguments);
        assert_sound(&report);
        assert_adds_up(&report);
        assert_eq!(count(&report, "/rate"), 500);
        // 0.3 s at 500 transactions per second are 150 transactions, independent of the number of threads.
        assert_eq!(count(&report, "/schedule/due"), 150, "{report:#}");
        if mode == "unary" {
            assert_adds_up(&report["baseline"]);
            assert_eq!(count(&report, "/baseline/schedule/due"), 150);
        }
    }
}

#[test]
fn a_rate_that_the_client_cannot_reach_counts_missed_transactions() {
    // A client with one call in flight can't send 200,000 transactions per second.
    let report = short(&["--rate", "200000", "--in-flight", "1", "--connections", "1"]);
    assert_sound(&report);
    assert_adds_up(&report);
    assert!(count(&report, "/schedule/missed") > 0, "{report:#}");
    assert!(count(&report, "/schedule/late") > 0, "{report:#}");
}

#[test]
fn rounds_with_listings_are_in_the_same_report() {
    let report = short(&["--hot", "--in-flight", "8", "--listings", "2"]);
    assert_sound(&report);
    assert_eq!(count(&report, "/listings/connections"), 2);
    assert!(number(&report, "/listings/pages_per_second") > 0.0, "{report:#}");
    assert!(number(&report, "/listings/transactions_per_second") > 0.0);
    assert!(number(&report, "/listings/latency_us/p99") >= number(&report, "/listings/latency_us/p50"));
}

#[test]
fn the_baseline_is_in_the_same_report() {
    let home = tempfile::tempdir().unwrap();
    let (plot, hdr) = (home.path().join("out.svg"), home.path().join("out.hgrm"));
    let report = short(&[
        "--baseline",
        "--in-flight",
        "8",
        "--plot",
        plot.to_str().unwrap(),
        "--hdr",
        hdr.to_str().unwrap(),
    ]);
    assert_sound(&report);
    assert!(number(&report, "/baseline/transactions_per_second") > 0.0);
    assert!(number(&report, "/baseline/latency_us/p999") > 0.0);
    assert!(number(&report, "/ratio_to_baseline") > 0.0);

    let chart = fs::read_to_string(plot).unwrap();
    assert!(chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>"));
    for text in ["percentile", "transactions/s", "tally", "echo", "99.9 %"] {
        assert!(chart.contains(text), "no {text:?} in the chart");
    }
    let latencies = fs::read_to_string(hdr).unwrap();
    assert!(
        latencies
            .trim_start()
            .starts_with("Value     Percentile TotalCount"),
        "{latencies}"
    );
    let total = format!("Total count    = {:>12}]", count(&report, "/transactions"));
    assert!(latencies.contains(&total), "no {total:?} in {latencies}");
}

#[test]
fn a_growing_ledger_is_measured_including_its_restart() {
    let report = report(&[
        "--self-contained",
        "--transactions",
        "2005",
        "--accounts",
        "100",
        "--mode",
        "batch",
        "--batch",
        "50",
        "--in-flight",
        "2",
        "--json",
    ]);
    assert_sound(&report);
    assert_eq!(count(&report, "/transactions"), 2005);
    assert_eq!(count(&report, "/growth/accounts"), 100);
    let steps = report["growth"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 10);
    assert_eq!(count(&steps[9], "/transactions"), 2005);
    for pointer in [
        "/growth/last_to_first",
        "/growth/bytes_per_account",
        "/growth/bytes_per_transaction_id",
        "/growth/journal_bytes",
        "/growth/restart_seconds",
        "/growth/restart_after_kill_seconds",
        "/growth/steps/0/transactions_per_second",
        "/growth/steps/9/rss_bytes",
    ] {
        assert!(number(&report, pointer) > 0.0, "{pointer} in {report:#}");
    }
}

#[test]
fn a_running_service_can_be_measured_and_replays_are_counted() {
    let server = TestServer::start();
    let endpoint = server.endpoint();
    let arguments = [
        "--endpoint",
        endpoint.as_str(),
        "--transactions",
        "100",
        "--accounts",
        "10",
        "--in-flight",
        "4",
        "--json",
        "--token",
        "secret-token",
    ];
    let first = report(&arguments);
    assert_eq!(
        (count(&first, "/transactions"), count(&first, "/replayed")),
        (100, 0)
    );
    assert!(first["growth"]["restart_seconds"].is_null());
    let command = first["command"].as_str().unwrap();
    assert!(
        command.contains("--token ***") && !command.contains("secret-token"),
        "{command}"
    );
    let again = report(&arguments);
    assert_eq!(
        (count(&again, "/transactions"), count(&again, "/replayed")),
        (100, 100)
    );
}

#[test]
fn the_disk_is_measured() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let report = report(&["--disk", "--data", data.to_str().unwrap(), "--json"]);
    let cells = report["disk"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        // A file system without direct writes reports an error instead of times.
        let refused = cell["method"] != "write, fdatasync" && cell["error"].is_string();
        assert!(refused || number(cell, "/times/p50_us") > 0.0, "{cell:#}");
    }
    assert!(
        fs::read_dir(data).unwrap().next().is_none(),
        "the file of the measurement was not removed"
    );
}

#[test]
fn batches_have_a_default_that_the_service_accepts() {
    for options in [&["--mode", "batch"][..], &["--mode", "batch", "--holds"]] {
        let report = short(options);
        assert_sound(&report);
        assert_eq!(
            (
                count(&report, "/in_flight"),
                count(&report, "/transactions_per_call")
            ),
            (4, 8192)
        );
    }
}

#[test]
fn a_signal_removes_the_data_of_the_service_that_the_benchmark_started() {
    for (signal, exit_code, word) in [("-INT", 130, "interrupted"), ("-TERM", 143, "terminated")] {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(BINARY)
            .args([
                "bench",
                "--self-contained",
                "--duration",
                "1h",
                "--accounts",
                "100",
            ])
            .env_remove("TALLY_ENDPOINT")
            .env("TMPDIR", home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let data = home.path().join(format!("tally-bench-{}", child.id()));
        while !data.join("journal").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the benchmark ended");
            thread::sleep(Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit_code), "{words}");
        assert!(words.contains(&format!("tally: {word}")), "{words}");
        assert!(
            fs::read_dir(home.path()).unwrap().next().is_none(),
            "files are left"
        );
    }
}

#[test]
fn calls_are_measured_before_during_and_after_the_expiry_of_many_holds() {
    let report = report(&[
        "--expiring-holds",
        "3000",
        "--in-flight",
        "8",
        "--accounts",
        "100",
        "--json",
    ]);
    assert_eq!(count(&report, "/holds"), 3000);
    for part in ["before", "during", "after"] {
        assert!(count(&report, &format!("/{part}/calls")) > 0, "{report:#}");
        assert_eq!(count(&report, &format!("/{part}/failed")), 0, "{report:#}");
        let times = ["p50", "p99", "max"].map(|name| number(&report, &format!("/{part}/{name}_us")));
        assert!(times[0] > 0.0 && times.is_sorted(), "{report:#}");
    }
    assert!(number(&report, "/bytes_per_hold") > 0.0, "{report:#}");
    assert!(number(&report, "/expiry_seconds") >= 0.0, "{report:#}");
}

#[test]
fn contradicting_options_are_rejected() {
    for (arguments, words) in [
        (vec!["--hot", "--zipf", "0.9"], vec!["--hot", "--zipf"]),
        (
            vec!["--mode", "batch", "--baseline"],
            vec!["--baseline", "--mode batch"],
        ),
        (
            vec!["--mode", "stream", "--baseline"],
            vec!["--baseline", "--mode stream"],
        ),
        (vec!["--batch", "10"], vec!["--batch", "--mode unary"]),
        (
            vec!["--endpoint", "http://127.0.0.1:1", "--self-contained"],
            vec!["--endpoint", "--self-contained"],
        ),
        (
            vec!["--endpoint", "http://127.0.0.1:1", "--data", "x"],
            vec!["--endpoint", "--data"],
        ),
        (
            vec!["--transactions", "9", "--rate", "5"],
            vec!["--transactions", "--rate"],
        ),
        (
            vec!["--transactions", "9", "--duration", "1s"],
            vec!["--transactions", "--duration"],
        ),
        (vec!["--disk", "--rate", "5"], vec!["--disk", "--rate"]),
        (
            vec!["--expiring-holds", "9", "--rate", "5"],
            vec!["--expiring-holds", "--rate"],
        ),
        (
            vec!["--expiring-holds", "9", "--disk"],
            vec!["--expiring-holds", "--disk"],
        ),
        (
            vec!["--listings", "9", "--baseline"],
            vec!["--listings", "--baseline"],
        ),
        (vec!["--disk", "--mode", "batch"], vec!["--disk", "--mode"]),
        (
            vec!["--mode", "batch", "--rate", "100", "--duration", "1s"],
            vec!["--rate 100", "8192", "81.9 s"],
        ),
        (vec!["--rate", "0"], vec!["--rate", "0"]),
        (vec!["--zipf=-1"], vec!["--zipf"]),
        (vec!["--zipf", "11"], vec!["--zipf", "at most 10"]),
        (vec!["--duration", "0s"], vec!["--duration", "1ms to 1day"]),
        (vec!["--accounts", "1"], vec!["--accounts", "2 to 100000000"]),
        (vec!["--endpoint", "nowhere"], vec!["nowhere"]),
    ] {
        let (code, out, error) = bench(&arguments);
        assert_eq!(code, Some(64), "{arguments:?}: {out}{error}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no {word:?} in {error}");
        }
    }
    let (code, _, error) = bench(&["--endpoint", "http://127.0.0.1:1"]);
    assert_eq!(code, Some(69), "{error}");
    let (code, _, error) = bench(&["--disk", "--data", "/proc/nowhere"]);
    assert_eq!(code, Some(74), "{error}");
    // A file that can't be written is an error before the measurement of 101 days.
    for option in ["--plot", "--hdr"] {
        let (code, _, error) = bench(&["--duration", "1day", "--rounds", "101", option, "/nowhere/file"]);
        assert_eq!(code, Some(74), "{error}");
        assert!(error.contains("can't write /nowhere/file"), "{error}");
    }
}
