//! The environment and the flags: they override the tree of the file.
//!
//! `ATTIO_BRIDGE__HTTP__LISTEN` is `http.listen`: upper case, nested by `__`. If a key has a
//! character that a variable cannot have, `_` replaces it:
//!
//! * a source or the label of a secret with `-`: a name in the file wins, else `_` stays `_`;
//! * a category: `LIST_ENTRY` is `list-entry`;
//! * a librdkafka property: every `_` is a `.` (no property that takes text has a `_` in its name);
//! * the secrets of a source are named by label: `ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__DEFAULT`;
//! * `[[webhooks]]` are counted from 0: `ATTIO_BRIDGE__WEBHOOKS__0__NAME`.
//!
//! A secret may be given as `…_FILE`, the name of the file that holds it.

use super::FILE_VARIABLE;
use super::diagnostics::{Diagnostics, SIMILAR};
use super::sections::{TABLES, is_secret};
use super::tree::{Environment, Node, Origin, PREFIX, Table, Value, variable};
use crate::catalog::Category;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag, such as `--listen`.
    pub name: &'static str,
    /// The key it sets, such as `http.listen`.
    pub key: &'static str,
    pub value: String,
}

/// Read by others: clients of Attio's API, and the build of this program.
const OF_OTHERS: [&str; 3] = ["ATTIO_API_TOKEN", "ATTIO_ACCESS_TOKEN", "ATTIO_BRIDGE_REVISION"];

/// Prefixes of the variables of this repository's tests.
const OF_TESTS: [&str; 2] = ["ATTIO_BRIDGE_TEST_", "ATTIO_BRIDGE_LOSS"];

/// The short names, and the long ones that they abbreviate.
const SHORTHANDS: [(&str, &str); 3] = [
    ("ATTIO_WEBHOOK_SECRET", "SOURCES__ATTIO__SECRETS__DEFAULT"),
    ("ATTIO_WEBHOOK_SECRET_PREVIOUS", "SOURCES__ATTIO__SECRETS__PREVIOUS"),
    ("ATTIO_API_KEY", "ATTIO__API_KEY"),
];

pub fn overlay(tree: &mut Table, environment: &Environment, diagnostics: &Diagnostics) {
    for (name, value) in environment {
        let origin = Origin::Environment(name.clone());
        let Some(rest) = long_form(name) else { continue };
        let path = resolve(&rest, tree);
        let key = key_of(&path);
        let Some(value) = value.to_str() else {
            diagnostics.problem(&key, Some(&origin), "is not UTF-8 text");
            continue;
        };
        if let Err(message) = set_variable(tree, &path, value, &origin) {
            diagnostics.problem(&key, Some(&origin), message);
        }
    }
}

pub fn flags(tree: &mut Table, flags: &[Flag]) {
    for flag in flags {
        let path: Vec<String> = flag.key.split('.').map(String::from).collect();
        let origin = Origin::Flag(flag.name);
        // A flag overrides a variable, so nothing can clash.
        let _ = set(tree, &path, Node::text(flag.value.clone(), &origin));
    }
}

/// The key of a path; where the path names a secret's file, the key of the secret.
fn key_of(path: &[String]) -> String {
    let key = file_of(path).unwrap_or_else(|| path.to_vec()).join(".");
    match path {
        [first, _, third, _] if first == "sources" && third == "secrets" => {
            key.strip_suffix("_file").map_or(key.clone(), String::from)
        }
        _ => key,
    }
}

/// What follows the prefix, also for a shorthand.
fn long_form(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix(PREFIX) {
        return Some(rest.to_owned());
    }
    let (short, file) = name.strip_suffix("_FILE").map_or((name, ""), |short| (short, "_FILE"));
    let (_, long) = SHORTHANDS.iter().find(|(shorthand, _)| *shorthand == short)?;
    Some(format!("{long}{file}"))
}

/// Warns of variables that look like the bridge's and that nothing reads. `tree` is the file's: the `env` of a
/// secret there names another variable that is read.
pub fn warn_unknown(tree: &Table, environment: &Environment, diagnostics: &Diagnostics) {
    let begins = |name: &str| name.get(..6).is_some_and(|begin| begin.eq_ignore_ascii_case("ATTIO_"));
    let read = |name: &str| {
        long_form(name).is_some() || name == FILE_VARIABLE || OF_OTHERS.contains(&name) || {
            OF_TESTS.iter().any(|prefix| name.starts_with(prefix))
        }
    };
    let mut named = Vec::new();
    texts_of("env", tree, &mut named);
    for (name, value) in environment.iter().filter(|(name, _)| begins(name) && !read(name)) {
        if named.contains(&&**name) || is_of_kubernetes(name, &value.to_string_lossy()) {
            continue;
        }
        let advice = match meant(name) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "unset it, or see `attio-bridge --help` for the names that have one".to_owned(),
        };
        let origin = Origin::Environment(name.clone());
        diagnostics.warning(name, Some(&origin), format!("has no effect; {advice}"));
    }
}

/// The texts of every key of that name, however deep.
fn texts_of<'t>(name: &str, table: &'t Table, found: &mut Vec<&'t str>) {
    for (key, node) in table {
        match &node.value {
            Value::Text(text) if key == name => found.push(text),
            Value::Table(inner) => texts_of(name, inner, found),
            Value::List(items) => {
                items
                    .iter()
                    .filter_map(|item| item.value.as_table())
                    .for_each(|inner| texts_of(name, inner, found));
            }
            _ => {}
        }
    }
}

/// Kubernetes sets such variables for each Service, here for one called `attio-bridge`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT")
            && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP")))
}

/// The variable with the most similar name; underscores and what all names begin with do not count.
fn meant(name: &str) -> Option<String> {
    fn significant(name: &str) -> String {
        let name = name.to_uppercase().replace('_', "");
        let rest = name.strip_prefix("ATTIO").unwrap_or(&name);
        rest.strip_prefix("BRIDGE").unwrap_or(rest).to_owned()
    }
    let paths = TABLES.iter().filter(|table| !table.path.contains(['*', '[']));
    let keys = paths.flat_map(|table| {
        table.keys.iter().map(|key| (variable(&format!("{}.{}", table.path, key.name())), key))
    });
    let keys = keys.flat_map(|(name, key)| {
        let file = key.kind.description().secret.then(|| format!("{name}_FILE"));
        [Some(name), file].into_iter().flatten()
    });
    let short = SHORTHANDS.iter().flat_map(|(short, _)| [(*short).to_owned(), format!("{short}_FILE")]);
    let known = short.chain(keys).chain([FILE_VARIABLE.to_owned()]);
    let given = significant(name);
    let similarity = |known: &str| match significant(known) {
        // The name of a section was left out.
        known if given.len() > 4 && known != given && known.ends_with(&given) => 0.9,
        known => strsim::jaro_winkler(&given, &known),
    };
    let nearest = known.map(|known| (similarity(&known), known)).reduce(|a, b| if b.0 > a.0 { b } else { a });
    nearest.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, name)| name)
}

/// The path of a variable, in the spelling of the file.
fn resolve(rest: &str, tree: &Table) -> Vec<String> {
    let mut path: Vec<String> = rest.to_lowercase().split("__").map(String::from).collect();
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sources", name, ..] => path[1] = spelling(name, sources(tree)),
        ["route", "categories", name] => {
            path[2] = spelling(name, Category::ALL.iter().map(|category| category.as_str()));
        }
        ["kafka", "properties", ..] => {
            let name = path.split_off(2).join(".").replace('_', ".");
            path.push(name);
        }
        _ => {}
    }
    path
}

fn sources(tree: &Table) -> impl Iterator<Item = &str> {
    let table = tree.get("sources").and_then(|node| node.value.as_table());
    table.into_iter().flat_map(|table| table.keys().map(String::as_str))
}

fn spelling<'n>(name: &str, mut known: impl Iterator<Item = &'n str>) -> String {
    known.find(|known| known.replace('-', "_") == name).unwrap_or(name).to_owned()
}

/// Sets the key of a variable; the message where that is not possible.
fn set_variable(tree: &mut Table, path: &[String], value: &str, origin: &Origin) -> Result<(), String> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["sources", _, "secrets", label] = words[..] {
        let (label, member) = label.strip_suffix("_file").map_or((label, "value"), |label| (label, "file"));
        let list = list_at(tree, &path[..3], origin)?;
        return set_secret(list, label, member, value, origin);
    }
    if let ["sources", _, "secrets", ..] = words[..] {
        return Err(
            "a secret is named by its label, as in …__SECRETS__DEFAULT or …__SECRETS__DEFAULT_FILE".into()
        );
    }
    match file_of(path) {
        Some(path) => {
            set(tree, &path, Node { value: Value::ReadFrom(value.to_owned()), origin: origin.clone() })
        }
        None => set(tree, path, Node::text(value, origin)),
    }
}

/// The key of a secret, if the path is its `_file` form.
fn file_of(path: &[String]) -> Option<Vec<String>> {
    let (last, table) = path.split_last()?;
    let stem = last.strip_suffix("_file").or_else(|| last.strip_suffix(".file"))?;
    let path: Vec<String> = table.iter().cloned().chain([stem.to_owned()]).collect();
    is_secret(&path.iter().map(String::as_str).collect::<Vec<_>>()).then_some(path)
}

fn set(table: &mut Table, path: &[String], leaf: Node) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    if rest.is_empty() {
        return put(table, name, leaf);
    }
    let next = table.entry(name.clone()).or_insert_with(|| Node::table(&leaf.origin));
    match &mut next.value {
        Value::Table(table) => set(table, rest, leaf),
        Value::List(items) => {
            let item = rest[0].parse().ok().and_then(|index: usize| items.get_mut(index));
            match item.map(|node| &mut node.value) {
                Some(Value::Table(table)) => set(table, &rest[1..], leaf),
                _ => Err(format!("the file's list has no table {}", rest[0])),
            }
        }
        // A value where a table should be is found when its key is read.
        _ => Ok(()),
    }
}

fn put(table: &mut Table, name: &str, leaf: Node) -> Result<(), String> {
    if let (Some(Node { origin: Origin::Environment(other), .. }), Origin::Environment(_)) =
        (table.get(name), &leaf.origin)
    {
        return Err(format!("also set by {other}; unset one of the two"));
    }
    table.insert(name.to_owned(), leaf);
    Ok(())
}

fn list_at<'t>(table: &'t mut Table, path: &[String], origin: &Origin) -> Result<&'t mut Vec<Node>, String> {
    let [name, rest @ ..] = path else { return Err("expects a list".into()) };
    let next = table.entry(name.clone()).or_insert_with(|| match rest {
        [] => Node { value: Value::List(Vec::new()), origin: origin.clone() },
        _ => Node::table(origin),
    });
    match (&mut next.value, rest) {
        (Value::List(list), []) => Ok(list),
        (Value::Table(table), [_, ..]) => list_at(table, rest, origin),
        (other, _) => Err(format!("cannot be added: `{name}` is {} ({})", other.kind(), next.origin)),
    }
}

fn set_secret(
    list: &mut Vec<Node>,
    label: &str,
    member: &str,
    value: &str,
    origin: &Origin,
) -> Result<(), String> {
    let label_of = |item: &Node| match item.value.as_table()?.get("label")?.value {
        Value::Text(ref text) => Some(text.clone()),
        _ => None,
    };
    let labels = list.iter().map(label_of).enumerate();
    let mut same =
        labels.filter_map(|(at, known)| Some((at, known.filter(|k| k.replace('-', "_") == label)?)));
    let found = same.next();
    if let Some((at, _)) = found
        && let Origin::Environment(other) = &list[at].origin
    {
        return Err(format!("also set by {other}; unset one of the two"));
    }
    let (at, label) = found.unwrap_or((list.len(), label.to_owned()));
    let secret =
        [(member.to_owned(), Node::text(value, origin)), ("label".into(), Node::text(label, origin))];
    let secret = Node { value: Value::Table(Table::from(secret)), origin: origin.clone() };
    match list.get_mut(at) {
        Some(item) => *item = secret,
        None => list.push(secret),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(name: &str, tree: &Table) -> Option<String> {
        long_form(name).map(|rest| resolve(&rest, tree).join("|"))
    }

    #[test]
    fn variables_map_to_keys() {
        let diagnostics = Diagnostics::default();
        let tree = super::super::file::parse("[sources.big-crm]\n", "c", &diagnostics);
        let table = [
            ("ATTIO_BRIDGE__HTTP__LISTEN", Some("http|listen")),
            ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", Some("kafka|topics|ensure")),
            (
                "ATTIO_BRIDGE__KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE",
                Some("kafka|properties|socket.keepalive.enable"),
            ),
            (
                "ATTIO_BRIDGE__KAFKA__PROPERTIES__SSL__CIPHER_SUITES",
                Some("kafka|properties|ssl.cipher.suites"),
            ),
            ("ATTIO_BRIDGE__KAFKA__PROPERTIES__debug", Some("kafka|properties|debug")),
            ("ATTIO_BRIDGE__ROUTE__CATEGORIES__RECORD", Some("route|categories|record")),
            ("ATTIO_BRIDGE__ROUTE__CATEGORIES__LIST_ENTRY", Some("route|categories|list-entry")),
            ("ATTIO_BRIDGE__SOURCES__BIG_CRM__SCHEME", Some("sources|big-crm|scheme")),
            ("ATTIO_BRIDGE__SOURCES__NEW_ONE__SCHEME", Some("sources|new_one|scheme")),
            ("ATTIO_WEBHOOK_SECRET", Some("sources|attio|secrets|default")),
            ("ATTIO_WEBHOOK_SECRET_FILE", Some("sources|attio|secrets|default_file")),
            ("ATTIO_WEBHOOK_SECRET_PREVIOUS", Some("sources|attio|secrets|previous")),
            ("ATTIO_API_KEY_FILE", Some("attio|api_key_file")),
            ("ATTIO_BRIDGE_CONFIG", None),
            ("ATTIO_BRIDGE_SERVICE_HOST", None),
            ("ATTIO_WEBHOOK_SECRETS", None),
            ("PATH", None),
        ];
        for (name, path) in table {
            assert_eq!(paths(name, &tree).as_deref(), path, "{name}");
        }
    }

    #[test]
    fn keys_map_to_variables() {
        assert_eq!(variable("route.categories.list-entry"), "ATTIO_BRIDGE__ROUTE__CATEGORIES__LIST_ENTRY");
    }
}
