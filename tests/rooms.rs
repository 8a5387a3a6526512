//! The rooms of the workspace: arrows run one way, and only the lake knows where a table keeps its log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Who may use whom, after the table in DESIGN.md.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("starmere-lake", &[]),
    ("starmere-ingest", &["starmere-lake"]),
    ("starmere-models", &["starmere-lake"]),
    ("starmere-marts", &["starmere-lake", "starmere-models"]),
    ("starmere-sql", &["starmere-lake", "starmere-models", "starmere-marts"]),
    ("starmere", &["starmere-lake", "starmere-ingest", "starmere-models", "starmere-marts", "starmere-sql"]),
];

/// Fails on an edge between crates that points the other way, in tests and build scripts too, and on a crate that
/// nobody has put in its place.
#[test]
fn arrows_between_rooms_run_one_way() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let rooms: BTreeSet<String> = packages.iter().map(name).collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into();
    let known: BTreeSet<String> = allowed.keys().map(|&room| room.to_owned()).collect();
    assert_eq!(rooms, known, "every room has its place");
    for package in packages {
        let room = name(package);
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = name(dependency);
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let fine = !rooms.contains(&to) || allowed[room.as_str()].contains(&to.as_str());
            assert!(fine, "`{room}` must not use `{to}` ({kind})");
        }
    }
}

/// Fails on code that builds or reads a path of a Delta log outside the two places that may.
#[test]
fn only_the_lake_knows_where_a_log_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for room in ["lake/src", "ingest/src", "models/src", "marts/src", "sql/src", "src"] {
        rust_files(&root.join(room), &mut sources);
    }
    assert!(sources.len() > 50, "only {} files were looked at", sources.len());
    let mut offenders = Vec::new();
    for source in sources {
        let name = source.strip_prefix(root).unwrap();
        let may = name == Path::new("lake/src/paths.rs") || name.starts_with("lake/src/delta");
        let is_test = name.ends_with("tests.rs") || name.components().any(|part| part.as_os_str() == "tests");
        let text = std::fs::read_to_string(&source).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if !may && !is_test && code.contains("_delta_log") {
            offenders.push(name.to_path_buf());
        }
    }
    assert!(offenders.is_empty(), "`_delta_log` is spoken of in {offenders:?}");
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
