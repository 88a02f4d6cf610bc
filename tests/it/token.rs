//! Tests of `tally token` as a process: an error never changes the tokens file, and the service accepts the token.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::server::BINARY;

fn token(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("token")
        .args(arguments)
        .output()
        .unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_token_and_its_entry_are_written_to_private_files() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, out) = (dir.path().join("tokens"), dir.path().join("payments.token"));
    let (tokens_name, out_name) = (tokens.to_str().unwrap(), out.to_str().unwrap());
    let payments = [
        "--role",
        "write",
        "--name",
        "payments",
        "--tokens-file",
        tokens_name,
    ];
    let made = token(&[&payments[..], &["--out", out_name]].concat());
    assert!(
        made.status.success() && made.stdout.is_empty() && made.stderr.is_empty(),
        "{made:?}"
    );
    assert_eq!((mode(&tokens), mode(&out)), (0o600, 0o600));
    let secret = fs::read_to_string(&out).unwrap();
    let table = tally::security::TokenTable::parse(&fs::read_to_string(&tokens).unwrap()).unwrap();
    let grant = table.find(secret.trim().as_bytes()).unwrap();
    assert_eq!(
        (&*grant.principal.name, grant.principal.role.as_str()),
        ("payments", "write")
    );

    // Without --out, the token is on standard output.
    let admin = token(&["--role", "admin", "--name", "root", "--tokens-file", tokens_name]);
    assert!(admin.status.success() && admin.stderr.is_empty(), "{admin:?}");
    let table = tally::security::TokenTable::parse(&fs::read_to_string(&tokens).unwrap()).unwrap();
    assert_eq!(table.len(), 2);
    assert!(table.find(admin.stdout.trim_ascii()).is_some());

    // A second token of the same name needs the option --rotate.
    let before = fs::read_to_string(&tokens).unwrap();
    let again = token(&payments);
    assert_eq!(again.status.code(), Some(64), "{again:?}");
    assert_eq!(fs::read_to_string(&tokens).unwrap(), before);
    let rotated = token(&[&payments[..], &["--rotate"]].concat());
    assert!(rotated.status.success(), "{rotated:?}");
    assert!(fs::read_to_string(&tokens).unwrap().starts_with(&before));
}

#[test]
fn a_tokens_file_in_a_locked_data_directory_can_be_changed() {
    // A service locks its data directory for as long as it runs.
    let dir = tempfile::tempdir().unwrap();
    let service = fs::File::open(dir.path()).unwrap();
    service.lock().unwrap();
    let tokens = dir.path().join("tokens");
    // `timeout` ends the process if it waits for the lock of the directory.
    let made = Command::new("timeout")
        .args([
            "30",
            BINARY,
            "token",
            "--role",
            "read",
            "--name",
            "a",
            "--tokens-file",
        ])
        .arg(&tokens)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(fs::read_to_string(&tokens).unwrap().lines().count(), 1);
}

#[test]
fn an_error_changes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, out) = (dir.path().join("tokens"), dir.path().join("out"));
    let (tokens_name, out_name) = (tokens.to_str().unwrap(), out.to_str().unwrap());
    let files = ["--tokens-file", tokens_name, "--out", out_name];
    for options in [
        ["--role", "wirte", "--name", "a"],
        ["--role", "write", "--name", "a b"],
        ["--role", "write", "--name", "a\u{1b}[31m"],
    ] {
        let failed = token(&[&options[..], &files[..]].concat());
        assert_eq!(failed.status.code(), Some(64), "{failed:?}");
        assert!(
            fs::read_dir(dir.path()).unwrap().next().is_none(),
            "a file was made"
        );
    }
    fs::write(&tokens, "error: invalid value\n").unwrap();
    let options = ["--role", "write", "--name", "a"];
    let failed = token(&[&options[..], &files[..]].concat());
    let words = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(78), "{words}");
    assert!(
        words.contains("line 1: role \"error:\": must be read, write or admin; the file was not changed"),
        "{words}"
    );
    assert!(failed.stdout.is_empty() && !out.exists());
    assert_eq!(fs::read_to_string(&tokens).unwrap(), "error: invalid value\n");

    // A file that exists is never overwritten by a secret.
    fs::write(&tokens, "").unwrap();
    fs::write(&out, "mine").unwrap();
    let failed = token(&[&options[..], &files[..]].concat());
    assert_eq!(failed.status.code(), Some(64), "{failed:?}");
    assert_eq!(
        (
            fs::read_to_string(&out).unwrap(),
            fs::read_to_string(&tokens).unwrap()
        ),
        ("mine".to_owned(), String::new())
    );
}

/// The service must not accept a token that nobody has seen, so this closed pipe is an error.
#[test]
fn a_token_that_can_not_be_printed_leaves_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    let options = ["--role", "read", "--name", "a"];
    assert!(
        token(&[&options[..], &["--tokens-file", tokens.to_str().unwrap()]].concat())
            .status
            .success()
    );
    let before = fs::read_to_string(&tokens).unwrap();
    for is_full in [false, true] {
        for into_file in [false, true] {
            let mut command = Command::new(BINARY);
            command.args(["token", "--role", "write", "--name", "b"]);
            if into_file {
                command.arg("--tokens-file").arg(&tokens);
            }
            let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            // The reader is dropped before the process starts, so the write fails in every run.
            let closed = || std::io::pipe().unwrap().1;
            let child = command
                .stdout(if is_full {
                    Stdio::from(full())
                } else {
                    closed().into()
                })
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let ended = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(74), "{words}");
            assert!(
                words.starts_with("tally: can't print the token, so no token was created: "),
                "{words}"
            );
            assert_eq!(words.lines().count(), 1, "the entry was printed: {words}");
            assert_eq!(fs::read_to_string(&tokens).unwrap(), before);
        }
    }
}

#[test]
fn options_that_name_the_wrong_file_are_refused_and_a_dash_is_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["token", "--role", "read", "--name", "a"]);
        command.args(arguments).current_dir(dir.path()).output().unwrap()
    };
    let made = in_dir(&["--out", "-", "--tokens-file", "tokens"]);
    assert!(made.status.success() && made.stdout.len() == 65, "{made:?}");
    fs::create_dir(dir.path().join("d")).unwrap();
    for (arguments, expected) in [
        (
            ["--tokens-file", "x", "--out", "./x"],
            "--out and --tokens-file name the same file ./x",
        ),
        (
            ["--tokens-file", "tokens", "--out", "d/../tokens"],
            "--out and --tokens-file name the same file",
        ),
        (
            ["--tokens-file", "-", "--out", "x"],
            "--tokens-file must be a file, not standard output (-)",
        ),
    ] {
        let refused = in_dir(&arguments);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(64) && words.contains(expected),
            "{arguments:?}: {words}"
        );
    }
    // Neither a file named `-` nor a lock file is left.
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["d", "tokens"]);
}

#[test]
fn a_token_that_would_be_discarded_is_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    for redirection in [">&-", ">/dev/null"] {
        let ended = Command::new("sh")
            .arg("-c")
            .arg(format!("exec \"$@\" {redirection}"))
            .args([
                "sh",
                BINARY,
                "token",
                "--role",
                "write",
                "--name",
                "a",
                "--tokens-file",
            ])
            .arg(&tokens)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(74), "{redirection}: {words}");
        assert!(
            words.starts_with("tally: standard output is closed or /dev/null"),
            "{redirection}: {words}"
        );
        assert!(!tokens.exists(), "{redirection}");
    }
}

/// If standard error discards the entry, nobody could add it to a tokens file, so no token may be created.
#[test]
fn an_entry_that_is_lost_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for (redirection, prints_token) in [("2>&-", false), ("2>/dev/null", false), ("2>/dev/full", true)] {
        for into_file in [false, true] {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("exec \"$@\" {redirection}"));
            command.args(["sh", BINARY, "token", "--role", "write", "--name", "a"]);
            if into_file {
                command.arg("--out").arg(&out);
            }
            let ended = command.output().unwrap();
            assert_eq!(ended.status.code(), Some(74), "{redirection}");
            assert_eq!(
                !ended.stdout.is_empty(),
                prints_token && !into_file,
                "{redirection}"
            );
            assert!(!out.exists(), "{redirection}");
        }
    }
}
