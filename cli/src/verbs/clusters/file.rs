//! The file of `clusters invite -f`: many members, read strictly, every problem at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use proto::problem::Problem;
use proto::strict;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::Misuse;

/// One member to invite.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Member {
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<Member>,
}

fn schema() -> Value {
    let labels = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let member = json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "labels": labels },
        "required": ["name"],
    });
    json!({
        "type": "object",
        "properties": { "clusters": { "type": "array", "items": member } },
        "required": ["clusters"],
    })
}

/// Reads the file; `labels` are those of each that does not say otherwise.
pub(super) fn read(file: &Path, labels: &BTreeMap<String, String>) -> anyhow::Result<Vec<Member>> {
    let text = crate::verbs::validate::text(file)?;
    let members = parse(&text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
        let count = format!("{}: {} problem(s), nobody was invited", file.display(), lines.len());
        Misuse(format!("{count}{}", lines.concat()))
    });
    let mut members = members.with_context(|| format!("read {}", file.display()))?;
    for member in &mut members {
        for (key, value) in labels {
            member.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(members)
}

fn parse(text: &str) -> Result<Vec<Member>, Vec<Problem>> {
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| vec![Problem::new("file", format!("is not YAML: {error}"))])?;
    let (mut mended, mut problems) = (value, Vec::new());
    strict::check(&schema(), &mut mended, "", &mut problems);
    let members = serde_json::from_value::<File>(mended).map(|file| file.clusters).unwrap_or_default();
    if members.is_empty() && problems.is_empty() {
        problems.push(Problem::new("clusters", "names no cluster"));
    }
    let mut seen = BTreeSet::new();
    for (index, member) in members.iter().enumerate() {
        // One without a name was reported already.
        let wrong = proto::validate::member(&member.name, &member.labels);
        let wrong = wrong.into_iter().filter(|problem| !(member.name.is_empty() && problem.path == "name"));
        problems.extend(wrong.map(|p| Problem::new(format!("clusters[{index}].{}", p.path), p.message)));
        if !member.name.is_empty() && !seen.insert(member.name.as_str()) {
            let twice = format!("{} is named twice", member.name);
            problems.push(Problem::new(format!("clusters[{index}].name"), twice));
        }
    }
    if problems.is_empty() { Ok(members) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_file_gives_names_and_labels() {
        let members = parse("clusters:\n- name: eu-1\n  labels: {env: prod}\n- {name: us-1}\n").unwrap();
        assert_eq!(members.len(), 2);
        assert_eq!((members[0].name.as_str(), members[0].labels["env"].as_str()), ("eu-1", "prod"));
        assert!(members[1].labels.is_empty());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let text = "clusters:\n- {name: eu-1, lables: {}}\n- {name: Not A Name, labels: {a: b c, n: 1}}\n- {labels: {}}\n- {name: eu-1}\nttl: 1h\n";
        let problems = parse(text).unwrap_err();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        for path in [
            "clusters[0].lables",
            "clusters[1].name",
            "clusters[1].labels.a",
            "clusters[1].labels[n]",
            "clusters[2].name",
            "clusters[3].name",
            "ttl",
        ] {
            assert!(paths.contains(&path), "{path} in {problems:#?}");
        }
        assert_eq!(paths.len(), 7, "{problems:#?}");
        for empty in ["", "clusters: []", "- name: x", "clusters: 3", "a: [", "\u{0}"] {
            assert!(!parse(empty).unwrap_err().is_empty(), "{empty:?}");
        }
    }
}
