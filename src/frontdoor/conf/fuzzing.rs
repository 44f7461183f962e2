//! What the fuzz target of the configuration language checks: no text makes the parser panic or run
//! away, and what it has read means the same when it is written as JSON.

use std::path::Path;

use serde_json::json;

use super::{Map, Node, Sources, Value, parse};

/// A main text, and one that is every included file and every variable.
struct Texts<'a> {
    main: &'a str,
    other: &'a str,
}

impl Sources for Texts<'_> {
    fn read(&self, path: &Path) -> Result<String, String> {
        let text = if path == Path::new("main") {
            self.main
        } else {
            self.other
        };
        Ok(text.to_owned())
    }

    fn environment(&self, name: &str) -> Option<String> {
        name.starts_with('E').then(|| self.other.to_owned())
    }
}

/// All bytes are a text, up to a byte 0; what follows it is the other one.
///
/// # Panics
/// When the parser breaks its promise.
#[allow(
    clippy::panic,
    reason = "a broken promise is what the fuzzer looks for"
)]
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (main, other) = text.split_once('\0').unwrap_or((&text, ""));
    let Ok(map) = parse(Path::new("main"), &Texts { main, other }) else {
        return;
    };
    // A fraction has more than one spelling.
    let Some(wanted) = json_of_map(&map) else {
        return;
    };
    let again = wanted.to_string();
    let texts = Texts {
        main: &again,
        other: "",
    };
    match parse(Path::new("main"), &texts) {
        Ok(map) => assert_eq!(json_of_map(&map), Some(wanted)),
        Err(error) => panic!("{error} in {again}"),
    }
}

fn json_of_map(map: &Map) -> Option<serde_json::Value> {
    let entries = map.entries().iter();
    let entries = entries.map(|entry| Some((entry.key.clone(), json_of(&entry.node)?)));
    Some(serde_json::Value::Object(entries.collect::<Option<_>>()?))
}

fn json_of(node: &Node) -> Option<serde_json::Value> {
    Some(match &node.value {
        Value::Bool(on) => json!(on),
        Value::Integer(number) => json!(number),
        Value::Float(_) => return None,
        Value::String(text) => json!(text),
        Value::Array(items) => items.iter().map(json_of).collect::<Option<_>>()?,
        Value::Map(map) => json_of_map(map)?,
    })
}
