//! Every kind of key has somebody who takes it out of the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first segments that `retention.rs` says something of.
fn told() -> Vec<&'static str> {
    let rows = include_str!("../retention.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    let row = |row: &'static str| {
        let (family, who) = row.split_once("` |").expect("two columns");
        assert!(who.trim_matches([' ', '|']).len() > 5, "{family}: by whom?");
        family
    };
    rows.map(row).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The text literals that follow `before` in a source, up to the end of their first segment.
fn literals<'a>(source: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let after = source.split(before).skip(1).filter_map(|rest| rest.split('"').next());
    after.map(|text| text.split(['/', '{']).next().unwrap_or_default())
}

/// The first segment of every key that the code can build.
fn built() -> BTreeSet<String> {
    let keys = include_str!("../store/keys.rs").split("#[cfg(test)]").next().unwrap_or_default();
    let mut families: BTreeSet<String> = literals(keys, "Path::new(\"").map(str::to_owned).collect();
    let codec = include_str!("../driver/codec.rs").split("#[cfg(test)]").next().unwrap_or_default();
    for before in ["&str = \"", "format!(\""] {
        let fit = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        families.extend(literals(codec, before).filter(fit).map(str::to_owned));
    }
    families
}

#[test]
fn every_kind_of_key_says_who_takes_it_out() {
    let told = told();
    let mut sorted = told.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(told, sorted, "once each, in order");
    let built = built();
    assert!(
        built.contains("once") && built.contains("operators-spent") && built.contains("runs"),
        "{built:?}"
    );
    let told: BTreeSet<String> = told.into_iter().map(str::to_owned).collect();
    assert_eq!(built, told, "a row in the table of retention.rs for each, and none for what is gone");
}

/// Otherwise the test above would not see it.
#[test]
fn keys_are_built_in_two_places_only() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50, "{}", files.len());
    for file in
        files.iter().filter(|file| !file.ends_with("driver/codec.rs") && !file.ends_with("store/keys.rs"))
    {
        let text = std::fs::read_to_string(file).expect("a source");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in
            [".put(\"", ".put(format!(\"", ".put_leased(\"", ".put_leased(format!(\"", ".put(&format!(\""]
        {
            assert!(!code.contains(call), "{}: {call}: build the key in store/keys.rs", file.display());
        }
    }
}
