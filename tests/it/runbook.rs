//! `deploy/runbook.md` has a section for every alert and every reason, and names only what exists.

use std::collections::BTreeSet;
use std::path::Path;

use attio_bridge::attio::watch::WatchMetrics;
use attio_bridge::pipeline::outcome::Reason;
use attio_bridge::state::metrics::StateMetrics;
use clap::Command;

use crate::support::bridge::Bridge;
use crate::support::scrape::Scrape;

const ALERTS: &str = include_str!("../../deploy/alerts.yaml");
const RUNBOOK: &str = include_str!("../../deploy/runbook.md");
const ITEMS: [&str; 4] = ["- **Means** ", "- **Look at** ", "- **Do** ", "- **Never** "];

/// The sections under a heading of level 2: their titles and texts.
fn sections(heading: &str) -> Vec<(&'static str, &'static str)> {
    let part =
        RUNBOOK.split("\n## ").find_map(|part| part.strip_prefix(heading)).expect("the heading exists");
    part.split("\n### ").skip(1).map(|section| section.split_once('\n').expect("it has a text")).collect()
}

/// The anchors that GitHub gives the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    let anchor = |line: &str| line.trim_start_matches('#').trim().chars().filter(kept).collect::<String>();
    headings.map(|line| anchor(line).to_lowercase().replace(' ', "-")).collect()
}

/// The alerts, also those that are commented out, each with the lines up to the next.
fn alerts() -> Vec<(&'static str, &'static str)> {
    let split = |alert: &'static str| alert.split_once('\n').expect("an alert has an expression");
    ALERTS.split("- alert: ").skip(1).map(split).collect()
}

fn code_words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_alert_and_every_reason_has_a_section_with_four_items() {
    let (of_alerts, of_reasons) = (sections("Alerts"), sections("Reasons"));
    let titles: Vec<_> = of_alerts.iter().map(|(title, _)| *title).collect();
    let names: Vec<_> = alerts().iter().map(|(name, _)| *name).collect();
    assert_eq!(BTreeSet::from_iter(&titles), BTreeSet::from_iter(&names), "a section for each alert");
    assert_eq!(titles.len(), names.len(), "an alert has two sections");
    let titles: Vec<_> = of_reasons.iter().map(|(title, _)| title.trim_matches('`')).collect();
    assert_eq!(titles, Reason::ALL.map(Reason::slug), "a section for each reason, in the order of the code");
    for (title, text) in of_alerts.into_iter().chain(of_reasons) {
        let items = text.lines().filter(|line| line.starts_with("- "));
        let labels: Vec<_> = items.map(|line| ITEMS.iter().find(|item| line.starts_with(**item))).collect();
        assert_eq!(labels, ITEMS.iter().map(Some).collect::<Vec<_>>(), "{title}");
    }
}

#[test]
fn every_alert_links_to_its_section() {
    for (name, rule) in alerts() {
        let urls: Vec<_> = rule.lines().filter_map(|line| line.split_once("runbook_url: ")).collect();
        let [(_, url)] = urls[..] else { panic!("{name} has no runbook_url, or several") };
        assert_eq!(url, format!("deploy/runbook.md#{}", name.to_lowercase()));
        assert!(anchors(RUNBOOK).contains(&name.to_lowercase()), "{name}");
    }
}

/// Also the links of other pages to the runbook.
#[test]
fn links_lead_to_existing_pages_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["README.md", "deploy/runbook.md", "deploy/docs/operations.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let checked: Vec<_> =
            targets.filter(|target| page == "deploy/runbook.md" || target.contains("runbook.md")).collect();
        assert!(!checked.is_empty(), "{page} does not link to the runbook");
        for target in checked {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root.join(page) } else { root.join(page).with_file_name(file) };
            let linked = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page}: {target}: {e}"));
            assert!(
                anchor.is_empty() || anchors(&linked).contains(anchor),
                "{page}: {target}: no such heading"
            );
        }
    }
}

#[tokio::test]
async fn metrics_in_the_runbook_exist() {
    let watch = WatchMetrics::new(&["production".into()], &["attio".into()]).render();
    let mut known = Bridge::start().await.metrics().await.names();
    known.extend(Scrape::parse(std::str::from_utf8(&watch).unwrap()).names());
    let state = StateMetrics::new().render();
    known.extend(Scrape::parse(std::str::from_utf8(&state).unwrap()).names());
    let of_histogram = |name: &String| name.strip_suffix("_count").map(str::to_owned);
    let histograms: Vec<_> = known.iter().filter_map(of_histogram).collect();
    known.extend(histograms);
    let is_metric = |word: &&str| {
        let ends = ["_total", "_seconds", "_in_flight", "_entries", "_up"];
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        word.chars().all(plain) && ends.iter().any(|end| word.ends_with(end))
    };
    let names = code_words(RUNBOOK).filter_map(|word| word.split('{').next()).filter(is_metric);
    let used: BTreeSet<_> = names.collect();
    assert!(used.len() > 10, "{used:?}");
    for name in used {
        assert!(known.contains(name), "there is no metric {name}");
    }
}

#[test]
fn commands_in_the_runbook_have_existing_verbs_and_flags() {
    let lines = RUNBOOK.lines().filter(|line| line.starts_with("attio-bridge "));
    let commands: BTreeSet<_> =
        code_words(RUNBOOK).chain(lines).filter_map(|word| word.strip_prefix("attio-bridge ")).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for line in commands {
        let mut command: Command = attio_bridge::cli::command();
        for word in line.split_whitespace().take_while(|word| !word.starts_with('#')) {
            if let Some(flag) = word.strip_prefix("--") {
                let known = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
                assert!(known, "{line}: there is no --{flag}");
            } else if let Some(verb) = command.find_subcommand(word) {
                command = verb.clone();
            } else {
                assert!(!command.has_subcommands(), "{line}: there is no verb {word}");
            }
        }
        assert!(!command.has_subcommands(), "{line}: the verb is not complete");
    }
}
