//! What the centre says of a member when it invites it.

use std::collections::BTreeMap;

use crate::ids::Name;
use crate::problem::Problem;

/// The longest name, label key or label value, in bytes.
const MAX_BYTES: usize = 63;

/// Everything that is wrong with a member's name and labels.
pub fn member(name: &str, labels: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    match name.parse::<Name>() {
        Ok(name) if name.as_str().len() > MAX_BYTES => {
            problems.push(Problem::new("name", format!("at most {MAX_BYTES} characters")));
        }
        Ok(_) => {}
        Err(error) => problems.push(Problem::new("name", error.to_string())),
    }
    for (key, value) in labels {
        let fit = |text: &str| {
            text.len() <= MAX_BYTES && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        };
        if key.is_empty() || !fit(key) || !fit(value) {
            let rule = "use at most 63 letters, digits, '-', '_', '.' and '/'";
            problems.push(Problem::new(format!("labels.{key}"), rule));
        }
    }
    problems
}
