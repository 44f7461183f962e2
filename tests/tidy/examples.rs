//! Every public type and function of the client library is shown in use: by an example of its own, or by
//! the example that its documentation names (``Example: [`Session::publish`].``), which then has to use it.
//! Constants, variants, fields and modules are parts of what has an example.

use std::collections::BTreeMap;

use crate::tree::{Source, sources};

/// The crate whose public items are looked at.
const CRATE: &str = "broker/client/src/";
/// What stands before the name of an item that has an example.
const KINDS: [&str; 6] = [
    "pub fn ",
    "pub const fn ",
    "pub async fn ",
    "pub struct ",
    "pub enum ",
    "pub trait ",
];
/// How a documentation names the item whose example shows this one.
const POINTER: &str = "Example: [`";
/// Fences of examples that rustdoc compiles.
const FENCES: [&str; 3] = ["```", "```no_run", "```should_panic"];

/// A public item: its name (`Type::method` in an `impl`), and what its documentation shows.
struct Item {
    name: String,
    place: String,
    example: String,
    pointer: Option<String>,
}

/// The public items of a file, tests left out.
fn items(source: &Source) -> Vec<Item> {
    let code = source.text.split("\n#[cfg(test)]\nmod tests").next();
    let (mut found, mut docs, mut owner) = (Vec::new(), Vec::new(), None);
    for (at, line) in code.unwrap_or_default().lines().enumerate() {
        if let Some(block) = line.strip_prefix("impl") {
            owner = Some(implementor(block));
        } else if line == "}" {
            owner = None;
        }
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.strip_prefix(' ').unwrap_or(doc));
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        if let Some(rest) = KINDS.iter().find_map(|kind| line.strip_prefix(kind)) {
            let name = word(rest);
            let name = owner
                .as_ref()
                .map_or_else(|| name.to_owned(), |owner| format!("{owner}::{name}"));
            found.push(Item {
                name,
                place: format!("{}:{}", source.path, at + 1),
                example: example(&docs),
                pointer: pointer(&docs),
            });
        }
        docs.clear();
    }
    found
}

/// The type that an `impl` is for.
fn implementor(block: &str) -> String {
    let subject = block.rsplit(" for ").next().unwrap_or(block);
    let subject = subject.trim_start_matches(|letter| letter != ' ').trim();
    word(subject).to_owned()
}

/// The identifier that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The code of an item's examples.
fn example(docs: &[&str]) -> String {
    let (mut code, mut open, mut counts) = (String::new(), false, false);
    for line in docs {
        if line.starts_with("```") {
            open = !open;
            counts = open && FENCES.contains(line);
        } else if counts {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The item that a documentation names as the one with the example.
fn pointer(docs: &[&str]) -> Option<String> {
    let line = docs.iter().find_map(|line| line.split(POINTER).nth(1))?;
    line.split('`').next().map(str::to_owned)
}

/// Whether code uses a name, as a word.
fn uses(code: &str, name: &str) -> bool {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|found| found == name)
}

#[test]
fn every_public_item_of_the_client_is_shown_in_use() {
    let all: Vec<Item> = sources()
        .iter()
        .filter(|source| source.path.starts_with(CRATE))
        .flat_map(items)
        .collect();
    assert!(all.len() > 100, "the items were not found: {}", all.len());
    let by_name: BTreeMap<&str, &Item> = all.iter().map(|item| (&item.name[..], item)).collect();
    let mut wanting = Vec::new();
    for item in &all {
        let own = item.name.rsplit("::").next().unwrap_or(&item.name);
        let (code, whose) = match &item.pointer {
            Some(named) => (by_name.get(&named[..]).map(|named| &named.example), named),
            None => (Some(&item.example), &item.name),
        };
        match code {
            None => wanting.push(format!("{} {}: there is no {whose}", item.place, item.name)),
            Some(code) if code.is_empty() => {
                wanting.push(format!("{} {}: no example", item.place, item.name));
            }
            Some(code) if !uses(code, own) => {
                wanting.push(format!(
                    "{} {}: not in the example of {whose}",
                    item.place, item.name
                ));
            }
            Some(_) => {}
        }
    }
    assert!(
        wanting.is_empty(),
        "add an example, or a line ``Example: [`ITEM`].`` whose example uses it: {wanting:#?}"
    );
}
