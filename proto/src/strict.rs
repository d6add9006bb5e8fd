//! Strict reading at the edges: every unknown field (with the nearest known
//! name), wrong type and missing field of a document at once, by walking the
//! JSON schema of our own types. One code serves YAML, REST and objects.
//!
//! The walk also mends the document (drops the unknown, puts a neutral value
//! for the wrong), so that the checks of meaning can go on and report theirs
//! in the same answer. A mended document is never used for anything else.

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::problem::Problem;

/// JSON schema of a type with everything inlined.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Nesting that no valid document reaches; deeper is refused, not followed.
const MAX_DEPTH: usize = 24;

/// Walks a document along its schema. Problems are pushed in document order.
pub fn check(schema: &Value, value: &mut Value, path: &str, problems: &mut Vec<Problem>) {
    walk(schema, value, path, 0, problems);
}

fn walk(schema: &Value, value: &mut Value, path: &str, depth: usize, problems: &mut Vec<Problem>) {
    let Some(schema) = schema.as_object() else { return };
    if depth > MAX_DEPTH {
        problems.push(Problem::new(path, "nested too deeply"));
        *value = Value::Null;
        return;
    }
    if let Some(branch) = some_branch(schema) {
        if !value.is_null() {
            walk(branch, value, path, depth + 1, problems);
        }
        return;
    }
    if let Some(words) = words(schema) {
        return check_word(&words, value, path, problems);
    }
    let types = types(schema);
    if types.is_empty() || (value.is_null() && types.contains(&"null")) {
        return;
    }
    let wanted = types[0];
    if !is(wanted, value) {
        problems.push(Problem::new(path, wrong_type(wanted, value)));
        *value = zero(schema, depth);
        return;
    }
    match value {
        Value::Object(map) => check_object(schema, map, path, depth, problems),
        Value::Array(items) => check_array(schema, items, path, depth, problems),
        Value::String(text) => check_length(
            schema,
            text.chars().count(),
            "characters",
            ["minLength", "maxLength"],
            path,
            problems,
        ),
        Value::Number(number) => check_range(schema, number.as_i64(), path, problems),
        Value::Bool(_) | Value::Null => {}
    }
}

/// The branch of an optional value that is not null.
fn some_branch(schema: &Map<String, Value>) -> Option<&Value> {
    let branches = schema.get("anyOf")?.as_array()?;
    branches.iter().find(|b| b.get("type").and_then(Value::as_str) != Some("null"))
}

/// The words of an enumeration, in either of the forms schemars writes.
fn words(schema: &Map<String, Value>) -> Option<Vec<&str>> {
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return Some(list.iter().filter_map(Value::as_str).collect());
    }
    let list = schema.get("oneOf")?.as_array()?;
    let words = list.iter().flat_map(|w| {
        let many = w.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        w.get("const").and_then(Value::as_str).into_iter().chain(many)
    });
    Some(words.collect())
}

fn check_word(words: &[&str], value: &mut Value, path: &str, problems: &mut Vec<Problem>) {
    if value.as_str().is_some_and(|v| words.contains(&v)) || value.is_null() {
        return;
    }
    let written = value.as_str().map_or_else(|| value.to_string(), |s| format!("{s:?}"));
    let hint = value.as_str().and_then(|v| nearest(v, words.iter().copied()));
    let hint = hint.map_or_else(String::new, |w| format!("; did you mean {w}?"));
    problems
        .push(Problem::new(path, format!("{} is not one of {}{hint}", short(&written), words.join(", "))));
    *value = words.first().map_or(Value::Null, |w| Value::from(*w));
}

fn types(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ if schema.contains_key("properties") => vec!["object"],
        _ => Vec::new(),
    }
}

fn is(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.as_i64().is_some(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn wrong_type(wanted: &str, value: &Value) -> String {
    let wanted = match wanted {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    };
    let found = match value {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => short(&other.to_string()),
    };
    format!("expected {wanted}, found {found}")
}

fn short(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(60).chain("...".chars()).collect()
    }
}

/// A neutral value, so that the document can still be read.
fn zero(schema: &Map<String, Value>, depth: usize) -> Value {
    if some_branch(schema).is_some() || types(schema).contains(&"null") {
        return Value::Null;
    }
    if let Some(words) = words(schema) {
        return words.first().map_or(Value::Null, |w| Value::from(*w));
    }
    match types(schema).first().copied() {
        Some("object") => {
            let mut map = Map::new();
            if depth <= MAX_DEPTH {
                for (name, property) in required(schema) {
                    map.insert(
                        name.to_owned(),
                        property.as_object().map_or(Value::Null, |p| zero(p, depth + 1)),
                    );
                }
            }
            Value::Object(map)
        }
        Some("array") => Value::Array(Vec::new()),
        Some("string") => Value::from(""),
        Some("integer" | "number") => Value::from(0),
        Some("boolean") => Value::from(false),
        _ => Value::Null,
    }
}

fn properties(schema: &Map<String, Value>) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn required(schema: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    let names =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    names.filter_map(|name| Some((name, properties(schema)?.get(name)?)))
}

fn check_object(
    schema: &Map<String, Value>,
    map: &mut Map<String, Value>,
    path: &str,
    depth: usize,
    problems: &mut Vec<Problem>,
) {
    if let Some(values) = schema.get("additionalProperties").filter(|a| a.is_object()) {
        for (key, value) in map.iter_mut() {
            walk(values, value, &format!("{path}[{}]", short(key)), depth + 1, problems);
        }
        return;
    }
    let Some(known) = properties(schema) else { return };
    let unknown: Vec<String> = map.keys().filter(|k| !known.contains_key(*k)).cloned().collect();
    for key in unknown {
        map.remove(&key);
        let hint = match nearest(&key, known.keys().map(String::as_str)) {
            Some(name) => format!("unknown field; did you mean {name}?"),
            None => {
                format!("unknown field; known here: {}", known.keys().cloned().collect::<Vec<_>>().join(", "))
            }
        };
        problems.push(Problem::new(join(path, &short(&key)), hint));
    }
    for (name, property) in known {
        if let Some(value) = map.get_mut(name) {
            walk(property, value, &join(path, name), depth + 1, problems);
        }
    }
    for (name, property) in required(schema) {
        if !map.contains_key(name) {
            problems.push(Problem::new(join(path, name), "missing"));
            map.insert(name.to_owned(), property.as_object().map_or(Value::Null, |p| zero(p, depth + 1)));
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check_array(
    schema: &Map<String, Value>,
    items: &mut [Value],
    path: &str,
    depth: usize,
    problems: &mut Vec<Problem>,
) {
    check_length(schema, items.len(), "entries", ["minItems", "maxItems"], path, problems);
    let Some(item) = schema.get("items") else { return };
    for (index, value) in items.iter_mut().enumerate() {
        walk(item, value, &format!("{path}[{index}]"), depth + 1, problems);
    }
}

fn check_length(
    schema: &Map<String, Value>,
    length: usize,
    unit: &str,
    [min, max]: [&str; 2],
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    if let Some(min) = bound(min).filter(|&m| (length as u64) < m) {
        problems.push(Problem::new(path, format!("has {length} {unit}, needs at least {min}")));
    }
    if let Some(max) = bound(max).filter(|&m| (length as u64) > m) {
        problems.push(Problem::new(path, format!("has {length} {unit}, at most {max}")));
    }
}

fn check_range(schema: &Map<String, Value>, number: Option<i64>, path: &str, problems: &mut Vec<Problem>) {
    let Some(number) = number else { return };
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    if let Some(min) = bound("minimum").filter(|&m| number < m) {
        problems.push(Problem::new(path, format!("is {number}, at least {min}")));
    }
    if let Some(max) = bound("maximum").filter(|&m| number > m) {
        problems.push(Problem::new(path, format!("is {number}, at most {max}")));
    }
}

/// The known name nearest to what was written, if near enough to be a slip.
pub fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<char> = written.chars().take(64).flat_map(char::to_lowercase).collect();
    let best = known.map(|name| (distance(&written, name), name)).min()?;
    (best.0 <= 1 + written.len() / 4).then_some(best.1)
}

/// Edit distance with swaps of neighbours counting as one (optimal string
/// alignment).
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_get_the_nearest_name_and_strangers_do_not() {
        let known = ["latency", "jitter", "direction", "peers"];
        for (written, expected) in [
            ("latancy", Some("latency")),
            ("Latency", Some("latency")),
            ("peesr", Some("peers")),
            ("colour", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        }
    }
}
