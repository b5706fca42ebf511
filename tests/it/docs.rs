//! The reference pages in `deploy/docs` match the code.

use std::collections::{BTreeMap, BTreeSet};

use attio_bridge::catalog::Category;
use attio_bridge::http::respond;
use attio_bridge::metrics::{Labels, Metrics};
use attio_bridge::pipeline::outcome::Reason;

const EVENTS: &str = include_str!("../../deploy/docs/events.md");
const OPERATIONS: &str = include_str!("../../deploy/docs/operations.md");
const WEBHOOKS: &str = include_str!("../../deploy/docs/webhooks.md");

/// The rows of the table under a heading of `operations.md`, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = OPERATIONS.split(&format!("\n## {heading}\n")).nth(1).expect("the heading is there");
    let section = section.split("\n#").next().expect("a split has a first part");
    let row = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(row).collect()
}

fn code_words(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn answer_table_lists_every_reason_with_its_status() {
    let mut written = BTreeMap::new();
    for row in table("Answers") {
        for reason in code_words(&row[0]) {
            let status: u16 = row[1].parse().expect("a status is a number");
            assert_eq!(written.insert(reason.clone(), status), None, "{reason} stands twice");
        }
    }
    let of_code: BTreeMap<_, _> = Reason::ALL
        .into_iter()
        .map(|reason| (reason.slug().to_owned(), respond::status(reason).as_u16()))
        .collect();
    assert_eq!(written, of_code);
}

#[test]
fn metrics_table_lists_every_metric_with_its_labels() {
    let text = String::from_utf8(metrics().render()).expect("the format is text");
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("attio_bridge_")) {
        let (series, _) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let names = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once('='));
        let entry = exported.entry(name.to_owned()).or_default();
        entry.extend(names.map(|(label, _)| label.to_owned()).filter(|label| label != "le"));
    }
    let written: BTreeMap<String, BTreeSet<String>> = table("Metrics")
        .into_iter()
        .map(|row| (code_words(&row[0]).remove(0), code_words(&row[1]).into_iter().collect()))
        .collect();
    assert_eq!(written, exported);
}

fn metrics() -> std::sync::Arc<Metrics> {
    Metrics::new(Labels {
        sources: vec![("attio".into(), vec!["default".into()])],
        reasons: Reason::ALL.into_iter().map(Reason::slug).collect(),
        categories: Category::ALL.into_iter().map(Category::as_str).collect(),
        event_results: vec!["published"],
        signature_results: vec!["ok"],
        publish_results: vec!["acknowledged"],
        bus: "kafka",
        destinations: vec!["attio.record".into()],
    })
}

#[test]
fn example_envelope_is_a_valid_cloudevent() {
    let json = EVENTS.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let event: serde_json::Value =
        serde_json::from_str(json.expect("there is a JSON block")).expect("the block is JSON");
    let parsed: Result<cloudevents::Event, _> = serde_json::from_value(event.clone());
    assert!(parsed.is_ok(), "{parsed:?}");
    assert_eq!(event["partitionkey"], event["data"]["id"]["record_id"]);
}

#[test]
fn webhooks_table_lists_every_verb_and_flag() {
    let rows: Vec<&str> = WEBHOOKS.lines().filter(|line| line.starts_with("| `webhooks ")).collect();
    let command = attio_bridge::cli::command();
    let webhooks = command.find_subcommand("webhooks").expect("there is the verb");
    for verb in webhooks.get_subcommands() {
        let is_named = |row: &&&str| {
            let cell = row.split('|').nth(1).expect("a row has cells");
            code_words(cell).iter().any(|typed| typed.split(' ').any(|word| word == verb.get_name()))
        };
        let row = rows.iter().find(is_named).unwrap_or_else(|| panic!("no row for {}", verb.get_name()));
        for flag in verb.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(row.contains(&format!("--{flag}")), "{}: --{flag} is not in {row}", verb.get_name());
        }
    }
}

#[test]
fn state_metrics_table_lists_every_metric_with_its_labels() {
    const STATE: &str = include_str!("../../deploy/docs/state.md");
    let text = String::from_utf8(attio_bridge::state::metrics::StateMetrics::new().render()).unwrap();
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("attio_bridge_state_")) {
        let series = line.split(' ').next().expect("a sample has a name");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let entry = exported.entry(name.to_owned()).or_default();
        for (label, value) in labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='))
        {
            entry.insert(label.to_owned());
            if label == "result" {
                entry.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    let rows = STATE.split("\n## Metrics\n").nth(1).expect("the heading is there").lines();
    let rows = rows.filter(|line| line.starts_with("| `")).map(|line| line.trim_matches('|').split('|'));
    let written: BTreeMap<String, BTreeSet<String>> = rows
        .map(|mut cells| {
            let mut cell = || code_words(cells.next().expect("a row has cells"));
            (cell().remove(0), cell().into_iter().collect())
        })
        .collect();
    assert_eq!(written, exported);
}
