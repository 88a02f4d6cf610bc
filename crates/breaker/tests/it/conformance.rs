//! `docs/conformance.md` lists tests by name. This test fails if the document names a test that does not exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Adds the names of all functions in the Rust files below `directory`.
fn add_functions(directory: &Path, names: &mut BTreeSet<String>) {
    let mut directories: Vec<PathBuf> = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let functions = text
                    .split("fn ")
                    .skip(1)
                    .filter_map(|rest| rest.split('(').next());
                names.extend(functions.map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_test_listed_in_conformance_md_exists() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A published package does not contain the document and the other packages. In that case, the test has nothing to
    // compare.
    let Ok(list) = fs::read_to_string(workspace.join("docs/conformance.md")) else {
        return;
    };
    let mut functions = BTreeSet::new();
    for directory in ["crates", "src", "tests"] {
        add_functions(&workspace.join(directory), &mut functions);
    }
    let rows = list.lines().filter(|line| line.starts_with("| "));
    let listed: Vec<&str> = rows
        .filter_map(|row| row.rsplit('|').nth(1))
        .flat_map(|tests| tests.split('`').skip(1).step_by(2))
        .collect();
    assert!(
        listed.len() > 80,
        "the tables should list more than 80 tests, but they list only {}",
        listed.len()
    );
    let missing: Vec<&&str> = listed.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(
        missing.is_empty(),
        "docs/conformance.md names tests that do not exist: {missing:?}"
    );
}
