//! Tests of the reference pages in `docs/`: settings, metrics and errors.
//!
//! The tables of `docs/settings.md`, `docs/metrics.md` and `docs/errors.md` are generated from the code. The tests fail if
//! a page differs from the code. This command writes the pages:
//!
//! ```sh
//! WRITE_DOCS=1 cargo test --locked --workspace --test it -- reference::
//! ```

mod errors;
mod metrics;
mod settings;

use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->\n";

/// Returns the path of a file of the project.
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// Checks that the generated part of a page is `table`. With `WRITE_DOCS` set, writes the table into the page.
fn check_page(page: &str, table: &str) {
    let file = path(page);
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("a begin of the generated part");
    let (_, after) = rest.split_once(END).expect("an end of the generated part");
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&file, wanted).unwrap();
        return;
    }
    let changed = wanted.lines().zip(text.lines()).find(|(new, old)| new != old);
    assert!(
        wanted == text,
        "{page} does not agree with the code. The first different line, from the code and in the page: {changed:#?}\n\
         WRITE_DOCS=1 cargo test --locked --workspace --test it -- reference:: writes the page."
    );
}

/// Returns the Rust files below `src`, in the order of their paths.
fn sources() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&path("src"), &mut found);
    found.sort();
    found
}
