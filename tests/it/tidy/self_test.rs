//! The rules on made-up files: what breaks one is reported, what only looks like it is not.

use super::{FILE_LINES_MAX, FUNCTION_LINES_MAX, MACHINE_PATHS, check};

#[test]
fn every_rule_reports_what_breaks_it() {
    let long_function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    let long_file = "// line\n".repeat(FILE_LINES_MAX + 1);
    let machine_path = format!("// see {}/x\n", MACHINE_PATHS[0]);
    for (path, text, finding) in [
        ("src/id.rs", "fn f() {\n\tg();\n}\n", "src/id.rs:2: a tab"),
        ("README.md", machine_path.as_str(), "README.md:1: /"),
        ("src/id.rs", long_file.as_str(), "601 lines"),
        (
            "src/id.rs",
            long_function.as_str(),
            "src/id.rs:1: fn f has 72 lines",
        ),
        ("src/id.rs", "fn f() { todo!() }", "todo!"),
        ("tests/it/x.rs", "fn f() { unimplemented!() }", "unimplemented!"),
        ("src/id.rs", "fn f() { dbg!(1); }", "dbg!"),
        (
            "tests/it/x.rs",
            "#[test]\n#[ignore = \"slow\"]\nfn f() {}",
            "tests/it/x.rs:2: #[ignore",
        ),
        (
            "src/id.rs",
            "fn f() { let (a, b) = mpsc::channel(); }",
            "mpsc::channel()",
        ),
        (
            "src/id.rs",
            "use tokio::sync::mpsc::unbounded_channel;",
            "unbounded_channel",
        ),
        (
            "src/batch/ring.rs",
            "fn f() { unsafe { g() } }",
            "unsafe: only src/sys may",
        ),
        (
            "src/batch/mod.rs",
            "#![allow(unsafe_code)]",
            "unsafe_code: only src/sys may",
        ),
        (
            "src/batch/mod.rs",
            "use super::ledger;",
            "super:: is the crate here",
        ),
        (
            "src/breaker/gate.rs",
            "use crate::time::Clock;",
            "breaker imports time: it may import [] only",
        ),
        (
            "src/batch/mod.rs",
            "use crate::{\n    distribution::D,\n    topology::T,\n};",
            "batch imports topology",
        ),
        (
            "src/topology/pin.rs",
            "fn f() -> crate::batch::B { g() }",
            "topology imports batch",
        ),
        (
            "src/ledger/mod.rs",
            "use crate::{id::{check_id, x}, store};",
            "ledger imports store",
        ),
        (
            "src/store/mod.rs",
            "use crate::engine::E;",
            "L4 service is not below L3 adapters",
        ),
        ("src/engine/mod.rs", "use crate::grpc::G;", "engine imports grpc"),
        ("src/grpc/mod.rs", "use crate::cli::C;", "grpc imports cli"),
        ("src/id.rs", "use crate::stray::S;", "in no layer"),
        ("src/main.rs", "use tally::stray::S;", "in no layer"),
        (
            "proto/tally/v1/x.proto",
            "// M.\nmessage M {\n  int32 a = 1;\n}\n",
            "proto:3: no comment before `int32 a = 1;`",
        ),
        (
            "proto/tally/v1/x.proto",
            "// S.\nservice S {\n  rpc F(A) returns (B);\n}\n",
            "no comment before `rpc F",
        ),
        ("CHANGELOG.md", "# Changelog\n", "no Unreleased section"),
    ] {
        let found = check(path, text);
        assert!(
            found.iter().any(|found| found.contains(finding)),
            "{text:?} gave {found:?}, not {finding:?}"
        );
    }
}

#[test]
fn what_only_looks_broken_is_not_reported() {
    for (path, text) in [
        (
            "src/batch/mod.rs",
            "// crate::ledger, todo!() and unsafe\n/* dbg! */\nuse crate::{batch, distribution};",
        ),
        (
            "src/batch/mod.rs",
            r##"const A: &str = "\" unsafe"; const B: &str = r#"" todo!"#; const C: char = '"';"##,
        ),
        (
            "src/id.rs",
            "fn f<'a>(x: &'a str) -> [u8; 4] { g('\\'', '\u{e9}', b'x') }",
        ),
        (
            "src/engine/mod.rs",
            "use crate::{batch::B, breaker, store::{embedded::{self, X}, Y}, topology};",
        ),
        ("src/batch/tests.rs", &"// line\n".repeat(FILE_LINES_MAX + 1)),
        ("src/sys/affinity.rs", "fn f() { unsafe { g() } }"),
        ("tests/it/x/sys.rs", "fn f() { unsafe { g() } }"),
        (
            "src/time.rs",
            "fn f() { g(); }\nmod tests {\n    use super::*;\n}\n",
        ),
        (
            "README.md",
            "Reads ../shared/network and /workers, then a/rooted/tree.",
        ),
    ] {
        assert_eq!(check(path, text), Vec::<String>::new(), "{text:?}");
    }
}
