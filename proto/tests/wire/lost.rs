//! What a document of another version lost when it was read and written again. The tests of every crate that keeps
//! frozen documents take this file by its path.

use serde_json::Value;

/// Where `now` lacks something that `then` has, or has it otherwise.
pub(crate) fn lost(then: &Value, now: &Value) -> Vec<String> {
    let mut out = Vec::new();
    compare(then, now, "", &mut out);
    out
}

fn compare(then: &Value, now: &Value, at: &str, out: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, value) in then {
                compare(value, now.get(name).unwrap_or(&Value::Null), &format!("{at}/{name}"), out);
            }
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            for (index, (then, now)) in then.iter().zip(now).enumerate() {
                compare(then, now, &format!("{at}/{index}"), out);
            }
        }
        _ if then == now => {}
        _ => out.push(format!("{at}: {then} was written, {now} is read")),
    }
}
