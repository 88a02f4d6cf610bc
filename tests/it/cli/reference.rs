//! Tests of the documents that are generated from the definition of the command line, or that must agree with the
//! definition.

use std::{fs, path::Path, process::Command};

use tally::cli::{command, exit};

use crate::support::server::BINARY;

/// Returns the names of the visible subcommands.
fn subcommands() -> Vec<String> {
    command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect()
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_docs_list_every_exit_code_and_every_subcommand() {
    let docs = include_str!("../../../docs/cli.md");
    let rows: Vec<&str> = docs.lines().filter(|line| line.starts_with("| ")).collect();
    for (code, name, meaning) in exit::CODES {
        let row = format!("| {code} | {name} | {meaning} |");
        assert!(rows.contains(&row.as_str()), "docs/cli.md lacks the row\n{row}");
    }
    let codes = rows.iter().filter(|row| {
        row.trim_start_matches("| ")
            .starts_with(|first: char| first.is_ascii_digit())
    });
    assert_eq!(
        codes.count(),
        exit::CODES.len(),
        "docs/cli.md has other exit codes"
    );
    for name in subcommands() {
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&format!("| `tally {name}` |"))),
            "docs/cli.md lacks tally {name}"
        );
    }
}

#[test]
fn every_shell_gets_completions_for_every_subcommand() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        for name in subcommands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
    }
}

#[test]
fn bash_accepts_its_completions() {
    let script = run(&["completions", "bash"]);
    let check = format!(
        "{script}\nCOMP_WORDS=(tally stat); COMP_CWORD=1; _tally tally stat tally; echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["-c", &check]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "statement stats",
        "{output:?}"
    );
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man");
    run(&["man", "--out", pages.to_str().unwrap()]);
    let page = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(page(&pages.join("tally.1")).contains("Exit codes:"));
    assert_eq!(run(&["man"]).trim_end(), page(&pages.join("tally.1")).trim_end());
    for name in subcommands() {
        let text = page(&pages.join(format!("tally-{name}.1")));
        assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
        assert!(text.contains("Exit codes: see"), "{name}: {text}");
        let footer = concat!("\"tally ", env!("CARGO_PKG_VERSION"), "\"");
        assert!(text.contains(footer), "{name}: {text}");
    }
    assert!(
        !pages.join("tally-echo.1").exists(),
        "a hidden subcommand has a page"
    );
}
