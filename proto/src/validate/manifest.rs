//! Files as people write them: YAML or JSON, one document or many.

use serde_json::{Map, Value};

use crate::experiment::API_VERSION;
use crate::problem::{Problem, Problems};
use crate::strict::nearest;

/// A file is at most this large, in bytes.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// One document of a YAML or JSON file: `apiVersion`, `kind`, `metadata`, `spec`.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Experiment, Run, Grant.
    pub kind: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// `spec`, as written.
    pub spec: Value,
}

const KINDS: [&str; 3] = ["Experiment", "Run", "Grant"];

/// Reads and checks every document of a YAML or JSON file; all problems at
/// once, each path prefixed with the document's kind and name.
pub fn manifests(text: &str) -> Result<Vec<Manifest>, Problems> {
    if text.len() > MAX_FILE_BYTES {
        let why = format!("is {} bytes, at most {MAX_FILE_BYTES}", text.len());
        return Err(Problems(vec![Problem::new("file", why)]));
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|e| Problems(vec![Problem::new("file", format!("is not YAML: {e}"))]))?;
    let mut problems = Vec::new();
    let mut manifests = Vec::new();
    for (index, document) in documents.into_iter().enumerate().filter(|(_, d)| !d.is_null()) {
        if let Some(manifest) = manifest(document, index, &mut problems) {
            manifests.push(manifest);
        }
    }
    if manifests.is_empty() && problems.is_empty() {
        problems.push(Problem::new("file", "holds no document"));
    }
    if problems.is_empty() { Ok(manifests) } else { Err(Problems(problems)) }
}

fn manifest(document: Value, index: usize, problems: &mut Vec<Problem>) -> Option<Manifest> {
    let before = problems.len();
    let at = format!("document {}", index + 1);
    let Value::Object(mut map) = document else {
        problems.push(Problem::new(at, "expected a mapping with apiVersion, kind, metadata and spec"));
        return None;
    };
    let text = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let kind = text(&map, "kind");
    let metadata = map.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let name = text(&metadata, "name");
    let namespace = metadata.get("namespace").and_then(Value::as_str).map(str::to_owned);
    let here = if name.is_empty() { at } else { format!("{kind} {name}") };
    let mut add = |path: &str, why: String| problems.push(Problem::new(format!("{here}: {path}"), why));
    if text(&map, "apiVersion") != API_VERSION {
        add("apiVersion", format!("expected {API_VERSION}"));
    }
    if !KINDS.contains(&kind.as_str()) {
        let hint =
            nearest(&kind, KINDS.into_iter()).map_or_else(String::new, |k| format!("; did you mean {k}?"));
        add("kind", format!("{kind:?} is not one of {}{hint}", KINDS.join(", ")));
    }
    if let Err(error) = name.parse::<crate::ids::Name>() {
        add("metadata.name", error.to_string());
    }
    for key in
        map.keys().filter(|k| !["apiVersion", "kind", "metadata", "spec", "status"].contains(&k.as_str()))
    {
        add(key, "unknown field; known here: apiVersion, kind, metadata, spec".to_owned());
    }
    let spec = map.remove("spec").unwrap_or(Value::Null);
    let found = match kind.as_str() {
        "Experiment" => super::experiment(&spec).err(),
        "Run" => super::run(&spec).err(),
        "Grant" => super::grant(&spec).err(),
        _ => None,
    };
    for problem in found.into_iter().flat_map(|p| p.0) {
        add(&problem.path, problem.message);
    }
    (problems.len() == before).then_some(Manifest { kind, name, namespace, spec })
}
