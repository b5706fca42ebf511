//! `dev --state`, run as a program.

use serde_json::Value;

use crate::dev::{Running, json, run, text};
use crate::support::{kafka, nats};

/// The lines of one round of `--state`, without the first and the last, and the last.
fn states(arguments: &[&str]) -> (Vec<Value>, Value) {
    let output = run(&[&["--state", "--once", "--json", "--rate", "20"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let mut lines: Vec<Value> = text(&output.stdout).lines().map(json).collect();
    let summary = lines.pop().expect("a summary");
    assert_eq!((&lines.remove(0)["kind"], &summary["kind"]), (&"start".into(), &"summary".into()));
    (lines, summary)
}

#[test]
fn state_shows_events_beside_the_state_that_they_led_to() {
    let nats = nats::shared();
    for arguments in
        [&[][..], &["--bus", &nats.url()], &["--bus", &format!("kafka://{}", kafka::shared().bootstrap())]]
    {
        let (lines, summary) = states(arguments);
        assert_eq!(
            (&summary["differing"], &summary["as_expected"]),
            (&Value::Array(Vec::new()), &true.into())
        );
        let types = |line: &Value| -> Vec<String> {
            let events = line["events"].as_array().unwrap().iter();
            events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
        };
        let last = |kind: &str, wanted: &str| {
            let is_wanted = |line: &&Value| {
                line["state"]["type"] == format!("com.attio.{kind}")
                    && types(line).iter().any(|name| name == wanted)
            };
            lines.iter().rfind(is_wanted).unwrap_or_else(|| panic!("{kind} of {wanted}: {lines:#?}"))
        };
        // Where the changes are faster than the reads, the states of the updates are those of the merge.
        let is_update = |line: &&Value| types(line).iter().any(|name| name == "com.attio.record.updated");
        let updated = lines.iter().find(is_update).expect("events of updates, and a state");
        let of_person = lines.iter().filter(|line| line["entity"] == updated["entity"]);
        let told: Vec<_> = of_person.flat_map(types).collect();
        assert_eq!(told.iter().filter(|name| name.ends_with("updated")).count(), 3, "{told:?}");
        let merged = last("record.state", "com.attio.record.merged");
        let values = &merged["state"]["data"]["values"];
        assert_eq!(values["job_title"][0]["value"], "Head of Engineering");
        assert_eq!(values["name"][0]["full_name"], "Ada Lovelace");
        assert_eq!(merged["state"]["partitionkey"], merged["entity"]);
        let gone = last("record.gone", "com.attio.record.merged");
        assert_eq!((&gone["gone"], gone["entity"] == merged["entity"]), (&true.into(), false));
        last("comment.gone", "com.attio.comment.deleted");
    }
}

#[test]
fn state_fits_a_terminal_of_80_columns_and_needs_a_broker() {
    let output = run(&["--state", "--once", "--rate", "20"]);
    let screen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{screen}\n{}", text(&output.stderr));
    for part in
        ["record.updated", "-> people ", "name=Ada Lovelace", "is gone", "exactly what the workspace holds"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let wide = screen.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
    let refused = run(&["--state", "--bus", "stdout"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}

#[test]
fn state_goes_on_until_it_is_stopped() {
    let mut running = Running::start(&["--state", "--json", "--rate", "20"]);
    running.next("start");
    // More than one round leads to.
    for _ in 0..20 {
        assert!(!running.next("state")["events"].as_array().unwrap().is_empty());
    }
    running.stop();
    assert!(running.next("summary")["changes"].as_u64().unwrap() > 12);
    assert_eq!(running.code(), Some(0));
}

#[test]
fn round_of_states_that_is_stopped_is_not_as_expected() {
    let mut running = Running::start(&["--state", "--once", "--json", "--rate", "0.1"]);
    running.next("start");
    running.stop();
    assert_eq!(running.next("summary")["as_expected"], false);
    assert_eq!(running.code(), Some(3));
}
