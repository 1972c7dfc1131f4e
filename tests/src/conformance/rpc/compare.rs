//! Whether an answer is the one that is expected.

use std::fmt;

use serde_json::{Map, Value};

/// The most characters of a value that are shown.
const MAX_SHOWN: usize = 160;

/// One place where an answer differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The place, as `result.logs[2].data`.
    pub path: String,
    /// What is expected there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl Difference {
    fn new(path: &str, expected: impl fmt::Display, got: impl fmt::Display) -> Self {
        let path = path.trim_start_matches('.').to_owned();
        Self { path, expected: shorten(&expected.to_string()), got: shorten(&got.to_string()) }
    }

    pub(super) fn no_answer(why: impl fmt::Display) -> Self {
        Self::new("", "an answer", why)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, expected, got } = self;
        let path = if path.is_empty() { "the answer" } else { path };
        write!(f, "{path}: expected {expected}, got {got}")
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// Where the values of two responses differ. Where both are errors their messages may.
pub fn same_values(expected: &Value, got: &Value) -> Vec<Difference> {
    let (mut expected, mut got) = (expected.clone(), got.clone());
    if expected.get("error").is_some() && got.get("error").is_some() {
        for response in [&mut expected, &mut got] {
            response.get_mut("error").and_then(Value::as_object_mut).map(|e| e.remove("message"));
        }
    }
    let mut differences = Vec::new();
    values(&mut differences, "", &expected, &got);
    differences
}

/// Where the shapes of two responses differ: the types of values, and the keys that the expected
/// one has. Keys that are data themselves (numbers, addresses) may be others.
pub fn same_shape(expected: &Value, got: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    shapes(&mut differences, "", expected, got);
    differences
}

fn values(found: &mut Vec<Difference>, path: &str, expected: &Value, got: &Value) {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            for (key, value) in expected {
                let path = format!("{path}.{key}");
                match got.get(key) {
                    Some(got) => values(found, &path, value, got),
                    None => found.push(Difference::new(&path, value, "nothing")),
                }
            }
            for (key, value) in got.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                found.push(Difference::new(&format!("{path}.{key}"), "nothing", value));
            }
        }
        (Value::Array(expected), Value::Array(got)) if expected.len() == got.len() => {
            for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
                values(found, &format!("{path}[{index}]"), expected, got);
            }
        }
        (Value::Array(expected), Value::Array(got)) => {
            let (expected, got) = (expected.len(), got.len());
            found.push(Difference::new(path, counted(expected), counted(got)));
        }
        (expected, got) if expected == got => (),
        (expected, got) => found.push(Difference::new(path, expected, got)),
    }
}

fn counted(items: usize) -> String {
    format!("{items} items")
}

fn shapes(found: &mut Vec<Difference>, path: &str, expected: &Value, got: &Value) {
    match (expected, got) {
        // What may be absent does not say what it would be.
        (Value::Null, _) => (),
        (Value::Object(expected), Value::Object(got)) if keys_are_data(expected) => {
            let Some(sample) = expected.values().next() else { return };
            for (key, value) in got {
                shapes(found, &format!("{path}.{key}"), sample, value);
            }
        }
        (Value::Object(expected), Value::Object(got)) => {
            for (key, value) in expected {
                let path = format!("{path}.{key}");
                match got.get(key) {
                    Some(got) => shapes(found, &path, value, got),
                    None => found.push(Difference::new(&path, type_of(value), "nothing")),
                }
            }
        }
        (Value::Array(expected), Value::Array(got)) => {
            let Some(sample) = expected.first() else { return };
            for (index, value) in got.iter().enumerate() {
                shapes(found, &format!("{path}[{index}]"), sample, value);
            }
        }
        (expected, got) if type_of(expected) == type_of(got) => (),
        (expected, got) => found.push(Difference::new(path, type_of(expected), got)),
    }
}

/// Whether an object is a map from numbers or addresses rather than a record.
fn keys_are_data(object: &Map<String, Value>) -> bool {
    let is_data = |key: &String| key.starts_with("0x") || key.bytes().all(|b| b.is_ascii_digit());
    object.keys().all(is_data)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.starts_with("0x") => "hex",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(differences: Vec<Difference>) -> Vec<String> {
        let mut paths: Vec<_> = differences.into_iter().map(|at| at.path).collect();
        paths.sort();
        paths
    }

    #[test]
    fn the_order_of_keys_and_the_message_of_an_error_do_not_matter() {
        let expected = json!({"id": 1, "result": {"a": "0x1", "b": [1, null]}});
        let got = json!({"result": {"b": [1, null], "a": "0x1"}, "id": 1});
        assert_eq!(same_values(&expected, &got), []);
        let expected = json!({"id": 1, "error": {"code": 3, "message": "one", "data": "0x"}});
        let got = json!({"id": 1, "error": {"code": 3, "message": "other", "data": "0x"}});
        assert_eq!(same_values(&expected, &got), []);
    }

    #[test]
    fn everything_else_matters() {
        let expected = json!({"id": 1, "result": {"a": "0x1", "b": [{"c": 1}, 2], "d": 1}});
        let got = json!({"id": 1, "result": {"a": "0x01", "b": [{"c": 2}, 2], "e": 1}});
        let found = ["result.a", "result.b[0].c", "result.d", "result.e"];
        assert_eq!(paths(same_values(&expected, &got)), found);
        let error = |code, data| json!({"error": {"code": code, "message": "", "data": data}});
        assert_eq!(paths(same_values(&error(3, "0x"), &error(-32000, "0x"))), ["error.code"]);
        assert_eq!(paths(same_values(&error(3, "0x"), &error(3, "0x01"))), ["error.data"]);
        let (one, none) = (json!({"result": [1]}), json!({"result": []}));
        assert_eq!(paths(same_values(&one, &none)), ["result"]);
        assert_eq!(paths(same_values(&none, &json!({"error": {}}))), ["error", "result"]);
    }

    #[test]
    fn a_shape_is_types_and_keys() {
        let expected = json!({"result": {"pending": "0x6", "list": [{"a": "0x1"}], "n": null}});
        let same = json!({"result": {"pending": "0x", "list": [], "n": 1, "more": 1}});
        assert_eq!(same_shape(&expected, &same), []);
        let other = json!({"result": {"pending": "six", "list": [{"b": "0x1"}]}});
        let found = ["result.list[0].a", "result.n", "result.pending"];
        assert_eq!(paths(same_shape(&expected, &other)), found);
        assert_eq!(paths(same_shape(&expected, &json!({"error": {}}))), ["result"]);
    }

    #[test]
    fn keys_that_are_data_may_be_others() {
        let expected = json!({"pending": {"0": {"nonce": "0x0"}}});
        assert_eq!(same_shape(&expected, &json!({"pending": {"7": {"nonce": "0x7"}}})), []);
        let found = paths(same_shape(&expected, &json!({"pending": {"7": {}}})));
        assert_eq!(found, ["pending.7.nonce"]);
    }
}
