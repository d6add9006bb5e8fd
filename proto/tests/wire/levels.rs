//! Where a later version may say more: every object of a document. The tests of every crate that adds unknown fields to
//! frozen documents take this file by its path.

use serde_json::{Map, Value};

/// Every object of a document as a pointer, but for maps, whose keys are names of things and no fields. `is_map` is
/// asked with the last name on the way to an object, and the object.
pub(crate) fn objects(document: &Value, is_map: &dyn Fn(&str, &Map<String, Value>) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    collect(document, "", is_map, &mut out);
    out
}

fn collect(
    value: &Value,
    at: &str,
    is_map: &dyn Fn(&str, &Map<String, Value>) -> bool,
    out: &mut Vec<String>,
) {
    match value {
        Value::Object(object) => {
            if !is_map(at.rsplit('/').next().unwrap_or_default(), object) {
                out.push(at.to_owned());
            }
            for (name, value) in object {
                collect(value, &format!("{at}/{name}"), is_map, out);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                collect(value, &format!("{at}/{index}"), is_map, out);
            }
        }
        _ => {}
    }
}
