//! The language: every form that nats-server's own documentation shows, its limits, and that no text
//! makes the parser panic or disagree with JSON.

use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::{Map, Node, Sources, Value, parse};

#[derive(Default)]
struct Files {
    files: HashMap<String, String>,
    environment: HashMap<String, String>,
}

impl Sources for Files {
    fn read(&self, path: &Path) -> Result<String, String> {
        let name = path.display().to_string();
        self.files
            .get(&name)
            .cloned()
            .ok_or_else(|| format!("{name} is not there"))
    }

    fn environment(&self, name: &str) -> Option<String> {
        self.environment.get(name).cloned()
    }
}

fn of(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Map, String> {
    let owned = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let sources = Files {
        files: owned(files),
        environment: owned(environment),
    };
    parse(Path::new(files[0].0), &sources).map_err(|error| error.to_string())
}

fn text(text: &str) -> Result<Map, String> {
    of(&[("a.conf", text)], &[])
}

fn plain(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Bool(on) => json!(on),
        Value::Integer(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Map(map) => of_map(map),
    }
}

fn of_map(map: &Map) -> serde_json::Value {
    let entries = map.entries().iter();
    serde_json::Value::Object(entries.map(|e| (e.key.clone(), plain(&e.node))).collect())
}

fn read(source: &str) -> serde_json::Value {
    of_map(&text(source).unwrap())
}

#[test]
fn keys_and_values_are_separated_in_any_of_three_ways() {
    let wanted = json!({"a": 1, "b": 2, "c": 3, "d": {"e": "f"}, "g": {"h": true}});
    assert_eq!(
        read("a: 1\nb = 2\nc 3 # comment\nd { e f }\ng{h:yes} // the end"),
        wanted
    );
    assert_eq!(read("{a:1,b=2;c 3\nd={e:'f'}, g: {h:on}}"), wanted);
}

#[test]
fn scalars_mean_what_nats_server_says() {
    let map = read(
        "a: -1\nb: 1k\nc: 1kb\nd: 8MB\ne: 2GiB\nf: 1.5\ng: off\nh: 2s\ni: 127.0.0.1:4222\n\
         j: 'sin\\gle'\nk: \"dou\\\"ble\\n\\u00e9\\x41\"\nl: 5x\nm: a#b\nn: nats://h:1/\no: 1e9\n\
         p: $2a$11$abc\nq: 99999999999999999999",
    );
    let wanted = json!({
        "a": -1, "b": 1000, "c": 1024, "d": 8_388_608, "e": 2_147_483_648_u64, "f": 1.5, "g": false,
        "h": "2s", "i": "127.0.0.1:4222", "j": "sin\\gle", "k": "dou\"ble\néA", "l": "5x",
        "m": "a#b", "n": "nats://h:1/", "o": "1e9", "p": "$2a$11$abc",
        "q": "99999999999999999999"
    });
    assert_eq!(map, wanted);
}

#[test]
fn lists_need_commas_or_lines() {
    let wanted = json!({"a": ["x", "y"], "b": [{"c": 1}, {"c": 2}], "d": []});
    assert_eq!(read("a: [x, y]\nb = [\n {c: 1}\n {c: 2},\n]\nd []"), wanted);
    assert!(text("a: [x y]").unwrap_err().starts_with("a.conf:1:7"));
}

#[test]
fn a_block_of_text_ends_at_a_lone_parenthesis() {
    assert_eq!(
        read("a: (\n one (1)\n two\n)\nb: 1"),
        json!({"a": " one (1)\n two", "b": 1})
    );
    assert!(
        text("a: (\n one")
            .unwrap_err()
            .contains("no line with only )")
    );
}

#[test]
fn variables_are_those_of_the_file_then_of_the_environment() {
    let map = of(
        &[(
            "a.conf",
            "port: 1\nlist: [a, b]\nx { port: 2\n y { p: $port, l: $list, e: $HOME_ } }",
        )],
        &[("HOME_", "3"), ("port", "9")],
    );
    let map = map.unwrap();
    let y = of_map(&map)["x"]["y"].clone();
    assert_eq!(y, json!({"p": 2, "l": ["a", "b"], "e": 3}));
    assert!(
        map.entries()
            .iter()
            .any(|entry| entry.key == "list" && entry.is_variable)
    );
    let unknown = text("\n  a: $nope").unwrap_err();
    assert!(unknown.starts_with("a.conf:2:6: $nope"), "{unknown}");
}

#[test]
fn included_files_are_relative_to_the_one_that_names_them() {
    let files = [
        (
            "d/a.conf",
            "include ./sub/b.conf\nx { include 'sub/c.conf' }\nz: $q",
        ),
        ("d/./sub/b.conf", "include c.conf"),
        ("d/./sub/c.conf", "q: 1"),
        ("d/sub/c.conf", "{\"r\": 2}"),
    ];
    assert_eq!(
        of_map(&of(&files, &[]).unwrap()),
        json!({"q": 1, "x": {"r": 2}, "z": 1})
    );
    let missing = of(&[("a", "\ninclude nope")], &[]).unwrap_err();
    assert!(missing.starts_with("a:2:1: nope is not there"), "{missing}");
    let circle = of(&[("a", "include a")], &[]).unwrap_err();
    assert!(circle.contains("include itself"), "{circle}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (source, wanted) in [
        ("port: 43 33", "a.conf:1:10: wanted the end of the line"),
        ("a {", "a.conf:1:3: what begins here has no }"),
        ("a: [1,", "a.conf:1:4: what begins here has no ]"),
        ("a: [{b: 1]", "after a whole number, found ']'"),
        ("a:", "\"a\" has no value"),
        ("x: 1\n}", "a.conf:2:1: wanted a key, found '}'"),
        ("a: \"x", "has no end"),
        ("a: \"\\q\"", "\\q means nothing"),
        ("{a: 1} b", "wanted the end of the file"),
    ] {
        let error = text(source).unwrap_err();
        assert!(error.contains(wanted), "{source}: {error}");
    }
}

#[test]
fn depth_files_and_repetition_are_bounded() {
    let deep = format!("a: {}", "[".repeat(10_000));
    assert!(text(&deep).unwrap_err().contains("nested deeper than"));
    let mut bomb = "a0: [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let again = format!("$a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: [{again}]\n"));
    }
    assert!(text(&bomb).unwrap_err().contains("more than"));
    let own = of(&[("a", "x: $v")], &[("v", "[$v, $v]")]);
    assert!(own.is_ok() || own.unwrap_err().contains("more than"));
}

/// Any tree of a configuration.
fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(|on| json!(on)),
        any::<i64>().prop_map(|number| json!(number)),
        "\\PC{0,12}".prop_map(|text| json!(text)),
        any::<String>().prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| json!(items)),
            prop::collection::hash_map("[a-z_$. ]{1,8}", inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn json_means_the_same_here(inner in tree()) {
        let wanted = json!({ "top": inner });
        for source in [wanted.to_string(), serde_json::to_string_pretty(&wanted).unwrap()] {
            prop_assert_eq!(&read(&source), &wanted, "{}", source);
        }
    }

    #[test]
    fn no_text_is_too_much(source in "[\\[\\]{}():=,;#/$\"'\\\\a-c0-9km\\n .-]{0,80}") {
        let _outcome = text(&source);
    }
}
