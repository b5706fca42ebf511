//! Every threat of SECURITY.md has tests, and every test that it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const SECURITY: &str = include_str!("../../SECURITY.md");

/// The required properties.
const IDS: [&str; 25] = [
    "H1", "H2", "H3", "D6", "R1", "R3", "R5", "R4", "B1", "B2", "B3", "B4", "B5", "B7", "B8", "C2", "S1",
    "S3", "S4", "S5", "S7", "S8", "S9", "S11", "S12",
];

/// The ids and the tests of a row.
struct Row {
    line: &'static str,
    ids: Vec<&'static str>,
    /// Each test, and whether the row assigns it to the full tier.
    tests: Vec<(&'static str, bool)>,
}

/// The rows of the tables whose last column is `test`.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in SECURITY.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            ["threat", _, "id", "test"] => in_table = true,
            [_, _, id, test] if in_table && !id.starts_with("--") => {
                rows.push(Row { line, ids: id.split(", ").collect(), tests: named_tests(test) })
            }
            [_, _, _, _] => {}
            _ => in_table = false,
        }
    }
    rows
}

/// The tests that a cell names: `` `module::name` ``, followed by `(full tier)` where it is one of those.
fn named_tests(cell: &str) -> Vec<(&str, bool)> {
    let pieces: Vec<&str> = cell.split('`').collect();
    let named = pieces.chunks_exact(2).map(|pair| pair[1]);
    let after = pieces.iter().skip(2).step_by(2);
    named.zip(after).map(|(test, after)| (test, after.starts_with(" (full tier)"))).collect()
}

/// The attributes of a test of that name; none where the file has no such test.
fn attributes<'a>(source: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let definition = format!("fn {name}(");
    let mut definitions = source.match_indices(&definition).map(|(at, _)| at);
    definitions.find_map(|at| {
        let line = source[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = source[..line].lines().rev().map(str::trim);
        let found: Vec<&str> = before.take_while(|line| line.starts_with("#[")).collect();
        found.iter().any(|line| line.contains("test")).then_some(found)
    })
}

/// Whether only the full tier runs a test.
fn is_ignored(source: &str, name: &str) -> bool {
    attributes(source, name).is_some_and(|found| found.iter().any(|line| line.starts_with("#[ignore")))
}

/// Whether a file has a test of that name, by itself or in the list of a suite that runs on every bus.
fn has_test(source: &str, name: &str) -> bool {
    let generic = source.contains(&format!("async fn {name}<"));
    let listed =
        source.split("\nsuite! {").nth(1).is_some_and(|list| list.lines().any(|line| line.trim() == name));
    if generic && listed {
        return true;
    }
    attributes(source, name).is_some()
}

fn source_of(module: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if module.starts_with("src/") {
        return fs::read_to_string(root.join(module)).ok();
    }
    let listed = include_str!("main.rs").lines().any(|line| line == format!("mod {module};"));
    let files = [format!("tests/it/{module}.rs"), format!("tests/it/{module}/mod.rs")];
    files.iter().filter(|_| listed).find_map(|file| fs::read_to_string(root.join(file)).ok())
}

#[test]
fn every_row_names_existing_tests_and_their_tier() {
    let rows = rows();
    assert!(rows.len() > 20, "only {} rows were found", rows.len());
    for Row { line, tests, .. } in rows {
        assert!(!tests.is_empty(), "no test holds this row: {line}");
        for (test, in_full_tier) in tests {
            let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} is no path"));
            let source = source_of(module).unwrap_or_else(|| panic!("there is no {module}: {line}"));
            assert!(has_test(&source, name), "there is no test {test}: {line}");
            assert_eq!(in_full_tier, is_ignored(&source, name), "the tier of {test} is wrong: {line}");
        }
    }
}

#[test]
fn every_property_of_the_plan_has_a_row() {
    let written: BTreeSet<&str> = rows().into_iter().flat_map(|row| row.ids).collect();
    let missing: Vec<_> = IDS.iter().filter(|id| !written.contains(*id)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn a_function_is_a_test_only_with_its_attribute() {
    let source =
        "#[test]\nfn one() {}\n\nfn two() {}\n    #[tokio::test(flavor = \"x\")]\n    async fn three() {}\n";
    assert!(has_test(source, "one") && has_test(source, "three"));
    assert!(!has_test(source, "two") && !has_test(source, "four"));
    let source = "#[test]\n#[ignore = \"full tier: slow\"]\nfn one() {}\n";
    assert!(has_test(source, "one") && is_ignored(source, "one"));
    assert_eq!(named_tests("`a::b`, `c::d` (full tier)"), [("a::b", false), ("c::d", true)]);
}
