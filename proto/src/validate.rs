//! Validation: every mistake of a document at once, each with its path and
//! the way out. One code serves CLI, REST and agent.

mod experiment;
mod fault;
mod manifest;
mod member;
mod overrides;
mod probe;
mod target;
#[cfg(test)]
mod tests;

pub use manifest::{Manifest, manifests};
pub use member::member;
pub use overrides::with_overrides;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::experiment::{ExperimentSpec, MAX_SPEC_BYTES};
use crate::grant::GrantSpec;
use crate::ids::Name;
use crate::problem::{Problem, Problems};
use crate::quantity::Span;
use crate::run::RunSpec;
use crate::strict;

/// Checks an Experiment's `spec`.
pub fn experiment(spec: &Value) -> Result<ExperimentSpec, Problems> {
    read(spec, experiment::check)
}

/// Checks a Run's `spec`.
pub fn run(spec: &Value) -> Result<RunSpec, Problems> {
    read(spec, |run: &RunSpec, p: &mut Report| {
        p.name("spec.experimentRef.name", &run.experiment_ref.name);
        if let Some(text) = &run.not_after
            && text.parse::<jiff::Timestamp>().is_err()
        {
            p.add(
                "spec.notAfter",
                format!("{text:?} is not an instant: write it as \"2026-12-01T10:00:00Z\""),
            );
        }
        if let Some(ttl) = &run.ttl_after_finished {
            p.span("spec.ttlAfterFinished", ttl, 0, crate::quantity::MAX_SPAN_MS);
        }
        for (index, set) in run.set.iter().enumerate() {
            if set.value.is_object() || set.value.is_array() || set.value.is_null() {
                p.add(format!("spec.set[{index}].value"), "expected text, a whole number, true or false");
            }
        }
    })
}

/// Checks a Grant's `spec`.
pub fn grant(spec: &Value) -> Result<GrantSpec, Problems> {
    read(spec, |grant: &GrantSpec, p: &mut Report| {
        let from = &grant.from;
        let members = from.clusters.is_some() || !from.namespaces.is_empty();
        match (from.operators.is_empty(), members) {
            (true, false) => p.add("spec.from", "name operators, or clusters with namespaces"),
            (false, true) => p.add("spec.from", "name operators, or clusters with namespaces, not both"),
            (true, true) if from.namespaces.is_empty() => {
                p.add("spec.from.namespaces", "name at least one namespace, or \"*\"");
            }
            (true, true) if from.clusters.as_ref().is_none_or(crate::selector::ClusterSelector::is_empty) => {
                p.add("spec.from.clusters", "name clusters or give a label selector");
            }
            _ => {}
        }
        if grant.to.clusters.is_empty() {
            p.add("spec.to.clusters", "name clusters or give a label selector; everything is not a grant");
        }
        if grant.to.namespaces.is_empty() {
            p.add("spec.to.namespaces", "name at least one namespace, or \"*\"");
        }
        if grant.to.kinds.is_empty() {
            p.add("spec.to.kinds", "name at least one kind, \"network.*\" or \"*\"");
        }
        let known = |k: &str| crate::catalogue::ENTRIES.iter().any(|e| crate::grant::kind_matches(k, e.kind));
        for (index, kind) in grant.to.kinds.iter().enumerate().filter(|(_, k)| !known(k)) {
            p.add(
                format!("spec.to.kinds[{index}]"),
                format!("{kind:?} covers no known kind; see `faultline faults`"),
            );
        }
        if grant.to.max_targets == 0 {
            p.add("spec.to.maxTargets", "is 0, at least 1");
        }
    })
}

/// Reads a spec strictly, then checks its meaning; all problems at once.
fn read<T: JsonSchema + DeserializeOwned>(
    spec: &Value,
    meaning: impl FnOnce(&T, &mut Report),
) -> Result<T, Problems> {
    let size = spec.to_string().len();
    if size > MAX_SPEC_BYTES {
        let why = format!("is {size} bytes as JSON, at most {MAX_SPEC_BYTES}");
        return Err(Problems(vec![Problem::new("spec", why)]));
    }
    let mut mended = spec.clone();
    let mut report = Report::default();
    strict::check(&strict::schema_of::<T>(), &mut mended, "spec", &mut report.problems);
    report.structural = report.problems.len();
    match serde_json::from_value::<T>(mended) {
        Ok(typed) => {
            meaning(&typed, &mut report);
            if report.problems.is_empty() {
                return Ok(typed);
            }
        }
        Err(error) if report.problems.is_empty() => report.add("spec", error.to_string()),
        Err(_) => {}
    }
    Err(Problems(report.problems))
}

/// Collects problems. What the strict walk already complained about is not
/// complained about again.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
    structural: usize,
}

impl Report {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        let covers = |known: &str| {
            let deeper = |long: &str, short: &str| {
                long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            deeper(&path, known) || deeper(known, &path)
        };
        if !self.problems[..self.structural].iter().any(|p| covers(&p.path)) {
            self.problems.push(Problem::new(path, message));
        }
    }

    fn name(&mut self, path: &str, name: &str) {
        if let Err(error) = name.parse::<Name>() {
            self.add(path, error.to_string());
        }
    }

    /// Checks a short name of ours, which becomes part of ids.
    fn label(&mut self, path: &str, name: &str) {
        if name.len() > 63 || name.contains('.') || name.parse::<Name>().is_err() {
            let why =
                "use 1 to 63 characters of a-z, 0-9 and '-', starting and ending with a letter or digit";
            self.add(path, format!("{name:?} is not a valid name: {why}"));
        }
    }

    fn unique<'a>(&mut self, path: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = std::collections::BTreeMap::new();
        for (index, name) in names.enumerate() {
            self.label(&format!("{path}[{index}].name"), name);
            if let Some(first) = seen.insert(name, index) {
                self.add(format!("{path}[{index}].name"), format!("{name:?} is taken by {path}[{first}]"));
            }
        }
    }

    /// A duration within bounds; its milliseconds where it is one.
    fn span(&mut self, path: &str, span: &Span, min_ms: u64, max_ms: u64) -> Option<u64> {
        match span.ms() {
            Err(error) => {
                self.add(path, error.to_string());
                None
            }
            Ok(ms) if ms < min_ms || ms > max_ms => {
                let (min, max) = (Span::from_ms(min_ms), Span::from_ms(max_ms));
                self.add(path, format!("is {span}, must be between {min} and {max}"));
                None
            }
            Ok(ms) => Some(ms),
        }
    }
}
