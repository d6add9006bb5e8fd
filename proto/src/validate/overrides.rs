//! Settable paths: `faults[late].network.delay.latency` names a value of the
//! spec, lists addressed by the `name` of their entries. A Run may set the
//! listed ones; the result is checked like any other spec. No templates.

use serde_json::Value;

use super::{Report, experiment};
use crate::experiment::ExperimentSpec;
use crate::problem::{Problem, Problems};
use crate::run::SetPath;

/// The spec with a Run's overrides applied and checked: the effective spec.
pub fn with_overrides(spec: &Value, set: &[SetPath]) -> Result<(Value, ExperimentSpec), Problems> {
    let original = experiment(spec)?;
    let mut effective = spec.clone();
    let mut problems = Vec::new();
    for (index, SetPath { path, value }) in set.iter().enumerate() {
        let at = format!("spec.set[{index}].path");
        if !original.settable.contains(path) {
            let near = crate::strict::nearest(path, original.settable.iter().map(String::as_str));
            let hint = near.map_or_else(
                || format!("the experiment's settable paths are: {}", original.settable.join(", ")),
                |n| format!("did you mean {n}?"),
            );
            problems.push(Problem::new(at, format!("{path:?} is not settable; {hint}")));
            continue;
        }
        match lookup(&mut effective, path) {
            Some(slot) => *slot = value.clone(),
            None => problems.push(Problem::new(at, format!("{path:?} names nothing in the experiment"))),
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let typed = experiment(&effective)?;
    Ok((effective, typed))
}

pub(super) fn check_settable(spec: &ExperimentSpec, p: &mut Report) {
    let Ok(mut value) = serde_json::to_value(spec) else {
        return;
    };
    for (index, path) in spec.settable.iter().enumerate() {
        let scalar =
            lookup(&mut value, path).is_some_and(|v| v.is_string() || v.is_number() || v.is_boolean());
        let structural = ["name", "target", "settable"].iter().any(|s| path.rsplit('.').next() == Some(s));
        if !scalar || structural || path.starts_with("limits.") {
            let why = format!(
                "{path:?} names no value that may be set; write for example \"faults[late].network.delay.latency\""
            );
            p.add(format!("spec.settable[{index}]"), why);
        }
    }
}

fn lookup<'a>(spec: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = spec;
    for segment in path.split('.') {
        let (field, entry) = match segment.split_once('[') {
            Some((field, rest)) => (field, Some(rest.strip_suffix(']')?)),
            None => (segment, None),
        };
        here = here.get_mut(field)?;
        if let Some(name) = entry {
            let is_it = |v: &&mut Value| v.get("name").and_then(Value::as_str) == Some(name);
            here = here.as_array_mut()?.iter_mut().find(is_it)?;
        }
    }
    Some(here)
}
