//! The command line of the simulation.

use clap::Parser;

use super::arguments::{Options, Setting, parse_change};

/// Returns the error of the simulation for a command line, if there is one.
fn check(arguments: &str) -> Result<(), String> {
    let options = Options::parse_from(std::iter::once("sim").chain(arguments.split_whitespace()));
    options.check(&settings(), &["skip_fsync"])
}

fn settings() -> [Setting; 2] {
    [("deaths", 0..=1000), ("accounts", 2..=1000)].map(|(name, bounds)| Setting { name, bounds })
}

#[test]
fn good_arguments_are_accepted() {
    for arguments in [
        "",
        "--seed 7 --runs 2000 --threads 1 --twice",
        "--set deaths=0 --set accounts=2 --mutation skip_fsync",
        "--mutations --rounds 5 --runs 2000",
    ] {
        check(arguments).unwrap();
    }
    assert_eq!(parse_change("accounts=9", &settings()), Ok((1, 9)));
}

#[test]
fn each_bad_argument_gets_one_line() {
    for (arguments, expected) in [
        ("--threads 0", "--threads 0: the number must be from 1 to 256"),
        ("--runs 0", "--runs 0: the number must be from 1 to"),
        ("--rounds 0", "--rounds 0: the number must be from 1 to"),
        (
            "--set deaths",
            "--set deaths: write NAME=VALUE, as in --set deaths=0",
        ),
        ("--set dead=1", "--set dead=1: there is no setting dead"),
        (
            "--set deaths=x",
            "--set deaths=x: the value must be a number from 0 to 1000",
        ),
        ("--set deaths=-1", "--set deaths=-1: the value must be a number"),
        (
            "--set accounts=1",
            "--set accounts=1: the value must be a number from 2 to 1000",
        ),
        ("--mutation no_such", "--mutation no_such: there is no such bug"),
        (
            "--mutations --mutation skip_fsync",
            "--mutation can't be given, too",
        ),
        (
            "--seed 18446744073709551615",
            "lead beyond the largest seed, 18446744073709551615",
        ),
        (
            "--seed 9 --runs 18446744073709551610",
            "lead beyond the largest seed",
        ),
        (
            "--mutations --rounds 18446744073709551615",
            "lead beyond the largest seed",
        ),
    ] {
        let problem = check(arguments).expect_err(arguments);
        assert!(problem.contains(expected), "{arguments}: {problem}");
        assert!(!problem.contains('\n'), "{arguments}: {problem}");
    }
}
