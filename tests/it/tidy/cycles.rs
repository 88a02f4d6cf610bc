//! Finds cycles of imports between the files of one crate.
//!
//! The files are the nodes of a graph. A path in the code such as `super::wal::Commit` is an arrow from the file with
//! this path to another file. The other file is the last module on the path that has its own file, here `wal`. If the
//! parent module re-exports `Commit`, the path `super::Commit` is therefore an arrow to the file of the parent. Test
//! files and inline test modules are not part of the graph, so tests may import any module.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::text::{blanked, paths, without_inline_tests, words};

/// The path of a module from the root of the crate. The path of the root is empty.
type Module = Vec<String>;

/// One file of a crate.
struct Node<'a> {
    path: &'a str,
    /// The files that this file imports, each with the path in the code that imports it.
    arrows: BTreeMap<Module, String>,
}

/// Returns a finding for each cycle between files below the directory `root`, such as `src` or `crates/batch/src`.
/// `files` are all files of the project: their paths from the root of the project, and their texts.
pub(super) fn cycles(root: &str, files: &[(String, String)]) -> Vec<String> {
    let graph = graph(root, files);
    let mut reported = BTreeSet::new();
    let mut found = Vec::new();
    for start in graph.keys() {
        if reported.contains(start) {
            continue;
        }
        if let Some(cycle) = shortest_cycle(&graph, start) {
            found.push(describe(&graph, &cycle));
            reported.extend(cycle);
        }
    }
    found
}

fn graph<'a>(root: &str, files: &'a [(String, String)]) -> BTreeMap<Module, Node<'a>> {
    let of_crate: Vec<(Module, &str, &str)> = files
        .iter()
        .filter_map(|(path, text)| Some((module(path.strip_prefix(root)?)?, path.as_str(), text.as_str())))
        .collect();
    let modules: BTreeSet<Module> = of_crate.iter().map(|(module, ..)| module.clone()).collect();
    of_crate
        .into_iter()
        .map(|(module, path, text)| {
            let arrows = arrows(&module, &without_inline_tests(&blanked(text)), &modules);
            (module, Node { path, arrows })
        })
        .collect()
}

/// Returns the module of a file; `None` for test files and files that are not Rust. `path` is the path of the file from
/// the root of the crate.
fn module(path: &str) -> Option<Module> {
    let mut names: Module = path
        .strip_prefix('/')?
        .strip_suffix(".rs")?
        .split('/')
        .map(str::to_owned)
        .collect();
    if names.iter().any(|name| name.ends_with("tests")) {
        return None;
    }
    if names.last().is_some_and(|name| name == "mod") || names == ["lib"] {
        names.pop();
    }
    Some(names)
}

fn arrows(from: &Module, code: &str, modules: &BTreeSet<Module>) -> BTreeMap<Module, String> {
    let mut arrows = BTreeMap::new();
    let mut add = |base: Module, path: &[String]| {
        if let Some(to) = file_named(base, path, modules).filter(|to| to != from) {
            arrows.entry(to).or_insert_with(|| path.join("::"));
        }
    };
    for prefix in ["crate::", "self::", "super::"] {
        for at in words(code, prefix).filter(|at| !code[..*at].ends_with("::")) {
            for path in paths(&code[at..]) {
                add(from.clone(), &path);
            }
        }
    }
    // A parent module may name its children without a prefix such as `self::`.
    for child in modules.iter().filter(|module| module.len() == from.len() + 1) {
        if let Some(name) = child.strip_prefix(from.as_slice()).and_then(|rest| rest.first()) {
            let prefix = format!("{name}::");
            if words(code, &prefix).any(|at| !code[..at].ends_with("::")) {
                add(from.clone(), std::slice::from_ref(name));
            }
        }
    }
    arrows
}

/// Returns the module to whose file `path` leads, if the code of the module `at` contains `path`.
fn file_named(mut at: Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut rest = path.iter().peekable();
    while let Some(first) = rest.next_if(|name| ["crate", "self", "super"].contains(&name.as_str())) {
        match first.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            _ => {}
        }
    }
    for name in rest {
        at.push(name.clone());
        if !modules.contains(&at) {
            at.pop();
            break;
        }
    }
    modules.contains(&at).then_some(at)
}

fn shortest_cycle(graph: &BTreeMap<Module, Node<'_>>, start: &Module) -> Option<Vec<Module>> {
    let mut reached_from: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for to in graph[at].arrows.keys() {
            if to == start {
                let mut cycle = vec![at.clone()];
                let mut at = at;
                while at != start {
                    at = reached_from[at];
                    cycle.push(at.clone());
                }
                cycle.reverse();
                return Some(cycle);
            }
            if !reached_from.contains_key(to) {
                reached_from.insert(to, at);
                queue.push_back(to);
            }
        }
    }
    None
}

fn describe(graph: &BTreeMap<Module, Node<'_>>, cycle: &[Module]) -> String {
    let arrows = cycle.iter().enumerate().map(|(index, from)| {
        let to = &cycle[(index + 1) % cycle.len()];
        let from = &graph[from];
        format!("{} -> {} ({})", from.path, graph[to].path, from.arrows[to])
    });
    format!("import cycle: {}", arrows.collect::<Vec<_>>().join(", "))
}
