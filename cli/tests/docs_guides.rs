//! The guides and the README say what is there: every `faultline` command in them parses, every manifest in them is
//! valid, and every link between them leads somewhere.

use std::path::{Path, PathBuf};

use proto::ceiling::CeilingSpec;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path and text of each page.
fn pages() -> Vec<(PathBuf, String)> {
    let guides = std::fs::read_dir(root().join("docs/guides")).expect("docs/guides is there");
    let mut paths: Vec<_> = guides.map(|entry| entry.expect("an entry").path()).collect();
    paths.push(root().join("README.md"));
    let pages: Vec<_> =
        paths.into_iter().map(|p| (p.clone(), std::fs::read_to_string(p).expect("text"))).collect();
    assert!(pages.len() >= 6, "{}", pages.len());
    pages
}

/// Fenced blocks: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push((language.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// Words of a shell line, up to a comment, a redirection or the next command.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut quoted) = (Vec::new(), String::new(), None, false);
    for letter in line.chars().chain([' ']) {
        match (quote, letter) {
            (Some(q), l) if q == l => quote = None,
            (None, '\'' | '"') => (quote, quoted) = (Some(letter), true),
            (None, ' ') if word.is_empty() && !quoted => {}
            (None, ' ') => {
                if !quoted && ["#", ">", "&&", "|"].contains(&word.as_str()) {
                    return words;
                }
                words.push(std::mem::take(&mut word));
                quoted = false;
            }
            (_, letter) => word.push(letter),
        }
    }
    words
}

#[test]
fn every_command_parses() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, page) in pages() {
        for (_, block) in blocks(&page) {
            let block = block.replace("\\\n", " ");
            let commands =
                block.lines().flat_map(|line| line.split(" && ")).filter(|l| l.starts_with("faultline "));
            for line in commands {
                let parsed = cli::command().try_get_matches_from(words(line));
                if let Err(error) = parsed {
                    wrong.push(format!("{}: {line}: {error}", path.display()));
                }
                seen += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 30, "{seen}");
}

#[test]
fn every_manifest_is_valid() {
    let mut seen = 0;
    for (path, page) in pages() {
        for (_, block) in blocks(&page).into_iter().filter(|(language, _)| language == "yaml") {
            let place = format!("{}:\n{block}", path.display());
            let document: Value = serde_saphyr::from_str(&block).expect(&place);
            let kind = document["kind"].as_str().unwrap_or_default();
            if ["Experiment", "Run", "Grant"].contains(&kind) {
                proto::validate::manifests(&block).expect(&place);
                seen += 1;
            }
            let ceiling = if block.starts_with("# /etc/faultline/ceiling.yaml") {
                &document
            } else {
                &document["ceiling"]
            };
            if !ceiling.is_null() {
                let mut problems = Vec::new();
                let schema = proto::strict::schema_of::<CeilingSpec>();
                proto::strict::check(&schema, &mut ceiling.clone(), "ceiling", &mut problems);
                assert!(problems.is_empty(), "{place}: {problems:?}");
                seen += 1;
            }
            if !document["workloads"].is_null() {
                serde_json::from_value::<proto::workloads::WorkloadsFile>(document.clone()).expect(&place);
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn every_link_leads_to_a_file() {
    for (path, page) in pages() {
        let folder = path.parent().unwrap_or(Path::new("."));
        for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !file.contains("://");
            assert!(!is_local || folder.join(file).exists(), "{}: {target}", path.display());
        }
    }
}
