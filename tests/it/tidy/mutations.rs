//! Compares the table of mutations (deliberate bugs for tests) with the places in the code where they are planted.

use std::{collections::BTreeSet, fs, path::Path};

use super::collect;

const TABLE: &str = "src/mutation.rs";

#[test]
fn every_mutation_of_the_table_is_planted_in_the_code_and_every_planted_one_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "crates"] {
        collect(root, &root.join(directory), &mut files);
    }
    let planted: BTreeSet<&str> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(_, text)| names(text, "planted("))
        .collect();
    let table = fs::read_to_string(root.join(TABLE)).expect("the table of mutations");
    let listed: Vec<&str> = names(&table, "mutation(").collect();
    assert_eq!(
        planted,
        listed.iter().copied().collect(),
        "{TABLE} must list what is planted"
    );
    assert_eq!(listed.len(), planted.len(), "{TABLE} lists a mutation twice");
}

/// Returns the string literals that are the first argument of `call` in `text`.
fn names<'a>(text: &'a str, call: &'a str) -> impl Iterator<Item = &'a str> {
    let literal = |rest: &'a str| rest.trim_start().strip_prefix('"')?.split('"').next();
    text.split(call).skip(1).filter_map(literal)
}
