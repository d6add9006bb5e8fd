//! The part of a JSON document that a version does not know: what it has, less what that version writes for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What makes an object of a list the same one after a change. A list of anything else keeps what is unknown of its
/// elements only where they did not change.
const IDENTITY: [&str; 3] = ["id", "uid", "name"];

/// What a version does not know of one object or list; never empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Unknown {
    /// Fields that it would not write.
    fields: Map<String, Value>,
    /// Below fields that it would write.
    within: BTreeMap<String, Unknown>,
    /// Of elements of a list, each as this version writes it.
    elements: Vec<(Value, Unknown)>,
}

impl Unknown {
    /// What `stored` has and `known` has not.
    pub(super) fn of(stored: &Value, known: &Value) -> Option<Self> {
        let mut unknown = Self::default();
        match (stored, known) {
            (Value::Object(stored), Value::Object(known)) => {
                for (name, value) in stored {
                    match known.get(name) {
                        // Our documents say "not there" by null, too.
                        None if value.is_null() => {}
                        None => drop(unknown.fields.insert(name.clone(), value.clone())),
                        Some(known) => {
                            unknown.within.extend(Self::of(value, known).map(|of| (name.clone(), of)));
                        }
                    }
                }
            }
            (Value::Array(stored), Value::Array(known)) if stored.len() == known.len() => {
                let elements = stored.iter().zip(known);
                unknown.elements.extend(
                    elements.filter_map(|(stored, known)| Some((known.clone(), Self::of(stored, known)?))),
                );
            }
            _ => {}
        }
        (unknown != Self::default()).then_some(unknown)
    }

    /// Adds it to a later version of the same document. What that has no more, a known field or an element of a list,
    /// takes what was unknown below it with it.
    pub(super) fn restore(&self, document: &mut Value) {
        match document {
            Value::Object(object) => {
                for (name, value) in &self.fields {
                    if !object.contains_key(name) {
                        object.insert(name.clone(), value.clone());
                    }
                }
                for (name, unknown) in &self.within {
                    if let Some(value) = object.get_mut(name) {
                        unknown.restore(value);
                    }
                }
            }
            Value::Array(list) => {
                for (known, unknown) in &self.elements {
                    let mut same = list.iter_mut().filter(|element| is_same(element, known));
                    // Two of one identity: nobody knows which is meant.
                    if let (Some(element), None) = (same.next(), same.next()) {
                        unknown.restore(element);
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_same(a: &Value, b: &Value) -> bool {
    let named = IDENTITY.iter().any(|field| a.get(field).is_some_and(Value::is_string));
    if named { IDENTITY.iter().all(|field| a.get(field) == b.get(field)) } else { a == b }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `stored` as a version reads it is `known`; it then writes `wrote`.
    #[track_caller]
    fn check(stored: &Value, known: &Value, mut wrote: Value, expected: &Value) {
        if let Some(unknown) = Unknown::of(stored, known) {
            unknown.restore(&mut wrote);
        }
        assert_eq!(&wrote, expected);
    }

    #[test]
    fn what_is_known_completely_leaves_nothing() {
        for value in [json!({}), json!([1]), json!("x"), json!({ "a": { "b": [{ "c": null }] } })] {
            assert_eq!(Unknown::of(&value, &value), None, "{value}");
        }
        assert_eq!(Unknown::of(&json!({ "a": 1, "b": null }), &json!({ "a": 1 })), None);
        assert_eq!(Unknown::of(&json!({ "a": "1 s" }), &json!({ "a": "1s" })), None);
    }

    #[test]
    fn fields_come_back_at_every_level_and_known_ones_win() {
        let stored = json!({ "a": 1, "new": { "deep": [1] }, "in": { "b": 2, "new": 3 } });
        let known = json!({ "a": 1, "in": { "b": 2 } });
        check(
            &stored,
            &known,
            json!({ "a": 9, "in": { "b": 8 } }),
            &json!({ "a": 9, "in": { "b": 8, "new": 3 }, "new": { "deep": [1] } }),
        );
        check(
            &stored,
            &known,
            json!({ "a": 1, "new": 7, "in": {} }),
            &json!({ "a": 1, "new": 7, "in": { "new": 3 } }),
        );
    }

    #[test]
    fn a_known_field_that_was_removed_stays_removed_with_all_below() {
        let stored = json!({ "gone": { "b": 2, "new": 3 }, "stop": { "Late": { "new": 1 } } });
        let known = json!({ "gone": { "b": 2 }, "stop": { "Late": {} } });
        check(&stored, &known, json!({ "stop": { "Never": {} } }), &json!({ "stop": { "Never": {} } }));
    }

    #[test]
    fn elements_are_found_by_their_identity_wherever_they_moved() {
        let stored = json!([{ "id": "a", "n": 1, "new": 1 }, { "id": "b", "n": 2, "new": 2 }]);
        let known = json!([{ "id": "a", "n": 1 }, { "id": "b", "n": 2 }]);
        check(
            &stored,
            &known,
            json!([{ "id": "c" }, { "id": "b", "n": 7 }]),
            &json!([{ "id": "c" }, { "id": "b", "n": 7, "new": 2 }]),
        );
        check(&stored, &known, json!([{ "id": "a" }, { "id": "a" }]), &json!([{ "id": "a" }, { "id": "a" }]));
    }

    #[test]
    fn elements_without_identity_are_found_while_they_are_unchanged() {
        let stored = json!([{ "at": 1, "new": 1 }, { "at": 2, "new": 2 }]);
        let known = json!([{ "at": 1 }, { "at": 2 }]);
        check(
            &stored,
            &known,
            json!([{ "at": 2 }, { "at": 3 }]),
            &json!([{ "at": 2, "new": 2 }, { "at": 3 }]),
        );
    }
}
