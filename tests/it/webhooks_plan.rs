//! `webhooks plan`, `apply` and `import`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use attio_bridge::fake_attio::webhook::Status;
use serde_json::{Value, json};

use crate::support::attio::{Attio, KEY, program};
use crate::support::faults::Fault;

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// Two webhooks, one of them filtered by slug. No source has a secret yet.
fn configuration(attio: &Attio) -> PathBuf {
    let secret = attio.path("secret").display().to_string();
    let text = format!(
        r#"
        [sources.attio]
        secrets = [{{ label = "default", file = "{secret}" }}]

        [[webhooks]]
        name = "production"
        source = "attio"
        target_url = "{URL}"
        secret_file = "{secret}"
        subscriptions = [
            {{ event_type = "record.created" }},
            {{ event_type = "record.updated", filter = {{ object = "deals", attribute = {{ "$eq" = "stage" }} }} }},
        ]

        [[webhooks]]
        name = "second"
        source = "attio"
        target_url = "{URL}?second"
        secret_file = "{secret}-second"
        subscriptions = [{{ event_type = "task.created" }}]
        "#
    );
    attio.write("config.toml", &text)
}

#[test]
fn apply_performs_the_plan_and_then_nothing() {
    let attio = Attio::start();
    let file = configuration(&attio);
    let other = attio.add("https://elsewhere.example.com/hook", &[("note.created", Value::Null)]);
    let plan = attio.configured(&file, &["plan"]).expect(0).stdout;
    assert!(plan.contains(&format!("+ production: {URL}: create")), "{plan}");
    assert!(plan.contains("+ record.updated where object = deals and attribute = stage\n"), "{plan}");
    assert!(!plan.lines().any(|line| line.starts_with('-')), "a minus sign means a deletion: {plan}");
    assert!(plan.contains(&other) && plan.contains("not touched"), "{plan}");
    assert!(plan.ends_with("2 to create, 0 to change, 0 unchanged, 1 unmanaged\n"), "{plan}");
    attio.configured(&file, &["plan", "--check"]).expect(3);
    attio.configured(&file, &["apply"]).expect(2).mentions(&["Not a terminal", "--yes"]);
    assert_eq!(attio.asked("POST"), 0);

    attio
        .configured(&file, &["apply", "--yes"])
        .expect(0)
        .mentions(&["production: created", "second: created"]);
    let webhooks = attio.store().webhooks.clone();
    assert_eq!(webhooks.len(), 3);
    for (path, webhook) in ["secret", "secret-second"].into_iter().zip(&webhooks[1..]) {
        assert_eq!(std::fs::read_to_string(attio.path(path)).unwrap(), format!("{}\n", webhook.secret));
    }
    let again = attio.configured(&file, &["apply", "--yes"]).expect(0);
    assert!(again.stdout.contains("0 to create, 0 to change, 2 unchanged, 1 unmanaged"));
    attio.configured(&file, &["plan", "--check"]).expect(0);
    assert_eq!((attio.asked("POST"), attio.asked("PATCH"), attio.asked("DELETE")), (2, 0, 0));
}

#[test]
fn drift_is_reported_and_fixed() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.configured(&file, &["apply", "--yes"]).expect(0);
    let first = attio.store().webhooks[0].clone();
    attio.store().webhooks[0].subscriptions[0].event_type = "note.created".into();
    let drift = attio.configured(&file, &["plan", "--check", "--json"]).expect(3).json();
    assert_eq!(drift["clean"], false);
    let change = &drift["changes"][0];
    assert_eq!(change["action"], "update");
    assert_eq!(change["add"], json!([{ "event_type": "record.created", "filter": null }]));
    assert_eq!(change["remove"], json!([{ "event_type": "note.created", "filter": null }]));
    assert_eq!(drift["changes"][1]["action"], "none");
    let text = attio.configured(&file, &["plan"]).expect(0).stdout;
    assert!(text.contains("~ production") && text.contains("    + record.created\n    - note.created\n"));

    attio.configured(&file, &["apply", "--yes"]).expect(0).mentions(&["production: changed webhook"]);
    let fixed = attio.store().webhooks[0].clone();
    assert_eq!((fixed.webhook_id, fixed.secret), (first.webhook_id, first.secret));
    assert_eq!(fixed.subscriptions, first.subscriptions);
}

#[test]
fn apply_json_has_no_secrets() {
    let attio = Attio::start();
    let file = configuration(&attio);
    let applied = attio.configured(&file, &["apply", "--yes", "--json"]).expect(0);
    let ran = applied.mentions(&["+ production", "2 to create", "second: created"]);
    let outcome = ran.json();
    let webhooks = attio.store().webhooks.clone();
    let of = |name: &str, url: String, action: &str, at: usize, path: &str| {
        json!({ "name": name, "target_url": url, "action": action, "done": true,
                "webhook_id": webhooks[at].webhook_id, "secret_file": attio.path(path) })
    };
    let second = format!("{URL}?second");
    let expected = |action: &str| {
        let changes = [
            of("production", URL.into(), action, 0, "secret"),
            of("second", second.clone(), action, 1, "secret-second"),
        ];
        json!({ "changes": changes, "error": null })
    };
    assert_eq!(outcome, expected("create"));
    assert!(webhooks.iter().all(|webhook| !ran.stdout.contains(&webhook.secret)));
    assert_eq!(attio.configured(&file, &["apply", "--json"]).expect(0).json(), expected("none"));
    attio.store().webhooks[1].subscriptions[0].event_type = "note.created".into();
    let changed = attio.configured(&file, &["apply", "--yes", "--json"]).expect(0).json();
    assert_eq!([&changed["changes"][0]["action"], &changed["changes"][1]["action"]], ["none", "update"]);
    assert_eq!(changed["changes"][1]["webhook_id"], json!(webhooks[1].webhook_id));
}

#[test]
fn apply_json_lists_what_was_done_before_a_failure() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.store().event_types.remove("task.created");
    let failed = attio.configured(&file, &["apply", "--yes", "--json"]).expect(1);
    let outcome = failed.mentions(&["error: ", "validation_type"]).json();
    let done = |at: usize| (&outcome["changes"][at]["done"], &outcome["changes"][at]["webhook_id"]);
    assert_eq!(done(0), (&json!(true), &json!(attio.only().webhook_id)));
    assert_eq!(done(1), (&json!(false), &Value::Null));
    assert!(outcome["error"].as_str().unwrap().contains("validation_type"), "{outcome}");
}

#[test]
fn equal_filters_are_not_drift() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.configured(&file, &["apply", "--yes"]).expect(0);
    {
        let mut store = attio.store();
        let filter = &mut store.webhooks[0].subscriptions[1].filter;
        filter["$and"].as_array_mut().unwrap().reverse();
        store.webhooks[0].subscriptions.reverse();
        store.webhooks[1].subscriptions[0].filter = json!({ "$and": [] });
    }
    attio.configured(&file, &["plan", "--check"]).expect(0);
}

#[test]
fn degraded_status_and_duplicate_urls_are_reported() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.configured(&file, &["apply", "--yes"]).expect(0);
    let id = attio.store().webhooks[1].webhook_id.clone();
    assert!(attio.store().set_status(&id, Status::Degraded));
    let plan = attio.configured(&file, &["plan"]).expect(0).stdout;
    assert!(plan.contains("its status is degraded"), "{plan}");
    let twin = attio.add(URL, &[("list.created", Value::Null)]);
    let plan = attio.configured(&file, &["plan", "--check"]).expect(3).stdout;
    assert!(plan.contains("! production") && plan.contains(&twin), "{plan}");
    attio.configured(&file, &["apply", "--yes"]).expect(1).mentions(&["nothing was changed"]);
}

#[test]
fn existing_secret_file_is_not_overwritten_unless_asked() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.write("secret-second", "the secret of before\n");
    attio.configured(&file, &["apply", "--yes"]).expect(1).mentions(&["secret-second", "already exists"]);
    assert_eq!(attio.asked("POST"), 0, "all files are checked before the first webhook is created");
    attio.configured(&file, &["apply", "--yes", "--overwrite-secret"]).expect(0);
    assert_eq!(attio.store().webhooks.len(), 2);
}

#[test]
fn without_an_output_for_its_secret_no_webhook_is_created() {
    let attio = Attio::start();
    let text = format!(
        "[sources.attio]\n[[webhooks]]\nname = \"a\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\n\
         subscriptions = [{{ event_type = \"record.created\" }}]\n"
    );
    let file = attio.write("config.toml", &text);
    attio.configured(&file, &["apply", "--yes"]).expect(2).mentions(&["secret_file", "--show-secrets"]);
    attio.configured(&file, &["apply", "--yes", "--json"]).expect(2).mentions(&["secret_file"]);
    attio.configured(&file, &["apply", "--yes", "--json", "--show-secrets"]).expect(2);
    assert_eq!(attio.asked("POST"), 0);
    let shown = attio.configured(&file, &["apply", "--yes", "--show-secrets"]).expect(0);
    assert!(shown.stdout.contains(&format!("secret of a: {}\n", attio.only().secret)));
}

#[test]
fn import_prints_existing_webhooks_as_configuration() {
    let attio = Attio::start();
    let filter =
        json!({ "$or": [{ "field": "actor.type", "operator": "not_equals", "value": "api-token" }] });
    attio.add(URL, &[("record.created", Value::Null), ("record.updated", filter)]);
    attio.add("https://hooks.example.com/webhooks/sales?a=\"b\"", &[("task.created", json!({ "$and": [] }))]);
    let sources = "[sources.attio]\nsecrets = [{ label = \"a\", env = \"SECRET\" }]\n\
                   [sources.sales]\nsecrets = [{ label = \"a\", env = \"SECRET\" }]\n\
                   [bus]\ntype = \"stdout\"\n";
    let file = attio.write("config.toml", sources);
    attio.configured(&file, &["plan"]).expect(0).mentions(&["has no [[webhooks]]", "webhooks import"]);
    let imported = attio.configured(&file, &["import"]).expect(0).stdout;
    assert!(imported.contains("source = \"sales\""), "{imported}");
    let file = attio.write("config.toml", &format!("{sources}\n{imported}"));
    let plan = attio.configured(&file, &["plan", "--check"]).expect(0).stdout;
    assert!(plan.contains("0 to create, 0 to change, 2 unchanged, 0 unmanaged"), "{plan}");
    let path = file.to_str().unwrap();
    program(&["check", "--config", path], &[("SECRET", "0123456789abcdef0123456789abcdef")]).expect(0);
    let again = attio.configured(&file, &["import"]).expect(0).stdout;
    assert!(!again.contains("[[webhooks]]"), "{again}");
}

#[test]
fn unknown_event_type_is_applied_with_a_warning() {
    let attio = Attio::start();
    attio.store().event_types.insert("meeting.created".into());
    let text = format!(
        "[sources.attio]\n[[webhooks]]\nname = \"a\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\n\
         secret_file = \"secret\"\nsubscriptions = [{{ event_type = \"meeting.created\" }}]\n"
    );
    let file = attio.write("config.toml", &text);
    attio.configured(&file, &["apply", "--yes"]).expect(0).mentions(&["warning", "meeting.created"]);
    assert_eq!(attio.only().subscriptions[0].event_type, "meeting.created");
}

#[test]
fn duplicate_target_urls_and_invalid_filters_exit_78() {
    let attio = Attio::start();
    let one = |name: &str, filter: &str| {
        format!(
            "[[webhooks]]\nname = \"{name}\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\n\
             subscriptions = [{{ event_type = \"record.updated\", filter = {filter} }}]\n"
        )
    };
    let nested = "{ \"$and\" = [{ \"$or\" = [] }] }";
    let text = format!("[sources.attio]\n{}{}", one("a", "{ object = \"deals\" }"), one("b", nested));
    let file = attio.write("config.toml", &text);
    let refused = attio.configured(&file, &["plan"]).expect(78);
    refused.mentions(&["another webhook has this target_url", "nested"]);
    assert_eq!(attio.asked("GET"), 0);
}

#[test]
fn missing_secret_file_of_an_existing_webhook_is_a_warning() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.configured(&file, &["apply", "--yes"]).expect(0);
    assert!(!attio.configured(&file, &["plan"]).expect(0).stderr.contains("does not"));
    std::fs::remove_file(attio.path("secret-second")).unwrap();
    let id = attio.store().webhooks[1].webhook_id.clone();
    attio.configured(&file, &["apply", "--yes"]).expect(0).mentions(&[
        "warning: second",
        &id,
        "secret-second does not",
    ]);
}

/// How another server may write the same URL.
fn respelled(url: &str) -> String {
    url.replace("https://hooks.example.com/webhooks", "HTTPS://Hooks.EXAMPLE.com:443/%77ebhooks")
}

#[test]
fn target_url_in_another_spelling_is_the_same_webhook() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.store().spelling = respelled;
    let applied = attio.configured(&file, &["apply", "--yes"]).expect(0);
    assert!(!applied.stderr.contains("Attio shows the URL as"), "{}", applied.stderr);
    let plan = attio.configured(&file, &["plan", "--check"]).expect(0).stdout;
    assert!(plan.contains("0 to create, 0 to change, 2 unchanged, 0 unmanaged"), "{plan}");
    attio.configured(&file, &["apply", "--yes", "--overwrite-secret"]).expect(0);
    assert_eq!((attio.asked("POST"), attio.store().webhooks.len()), (2, 2));
    let imported = attio.configured(&file, &["import"]).expect(0).stdout;
    assert!(!imported.contains("[[webhooks]]") && imported.contains("is configured already"), "{imported}");
}

#[test]
fn created_webhook_with_an_unknown_url_is_a_warning() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.store().spelling = |url| url.replace("hooks.example.com", "other.example.com");
    attio
        .configured(&file, &["apply", "--yes"])
        .expect(0)
        .mentions(&["Attio shows the URL as https://other."]);
}

#[test]
fn equal_target_urls_in_two_spellings_exit_78() {
    let attio = Attio::start();
    let one = |name: &str, url: &str| {
        format!(
            "[[webhooks]]\nname = \"{name}\"\nsource = \"attio\"\ntarget_url = \"{url}\"\n\
             subscriptions = [{{ event_type = \"note.created\" }}]\n"
        )
    };
    let text = format!(
        "[sources.attio]\n{}{}",
        one("a", URL),
        one("b", &format!("{}/", respelled(URL)).to_lowercase())
    );
    let file = attio.write("config.toml", &text);
    attio.configured(&file, &["plan"]).expect(78).mentions(&["another webhook has this target_url"]);
}

#[test]
fn secret_file_that_is_no_secret_of_its_source_is_a_warning() {
    let attio = Attio::start();
    let file = configuration(&attio);
    let parts = ["warning: second", "secret-second is no secret of source attio", "sources.attio.secrets"];
    attio.configured(&file, &["plan"]).expect(0).mentions(&parts);
    attio.configured(&file, &["apply"]).expect(2).mentions(&parts).mentions(&["--yes"]);
    let said = attio.configured(&file, &["apply", "--yes"]).expect(0).mentions(&parts).stderr;
    assert!(!said.contains("warning: production"), "{said}");
    // The same file by another path.
    let text = std::fs::read_to_string(&file).unwrap();
    let secret = attio.path("secret").display().to_string();
    let text = text.replace(&format!("file = \"{secret}\" }}"), "file = \"./secret\" }");
    let said = attio.configured(&attio.write("config.toml", &text), &["plan"]).expect(0).stderr;
    assert!(!said.contains("warning: production"), "{said}");
}

#[test]
fn webhook_that_changed_after_the_plan_is_not_overwritten() {
    let attio = Attio::start();
    let file = configuration(&attio);
    attio.configured(&file, &["apply", "--yes"]).expect(0);
    attio.store().webhooks[0].subscriptions.truncate(1);
    // What the second look at the webhook shows.
    let webhook = attio.store().webhooks[0].clone();
    let changed = json!({ "data": {
        "id": { "workspace_id": "w", "webhook_id": webhook.webhook_id }, "target_url": URL, "status": "active",
        "created_at": "", "subscriptions": [{ "event_type": "note.created", "filter": null }],
    } });
    let listed = attio.seen().len();
    attio.configured(&file, &["plan"]).expect(0);
    let reads = attio.seen().len() - listed;
    let pass = std::iter::repeat_n(Fault::Late(Duration::ZERO), reads);
    attio.faults(pass.chain([Fault::Answer(200, changed.to_string())]));
    attio
        .configured(&file, &["apply", "--yes"])
        .expect(1)
        .mentions(&["somebody else has just changed webhook"]);
    assert_eq!(attio.asked("PATCH"), 0);
}

/// Runs `webhooks apply` on a terminal where this is typed; the exit code and what is shown.
fn apply_on_terminal(attio: &Attio, file: &Path, typed: &str) -> (Option<i32>, String) {
    let command = format!("exec '{}' webhooks apply", env!("CARGO_BIN_EXE_attio-bridge"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env_clear();
    script.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("ATTIO_API_KEY", KEY);
    script.env("ATTIO_BRIDGE__ATTIO__API_URL", attio.url()).env("ATTIO_BRIDGE_CONFIG", file);
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("script, of util-linux, runs");
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn declined_apply_changes_nothing_and_is_not_called_an_error() {
    let attio = Attio::start();
    let file = configuration(&attio);
    let (code, shown) = apply_on_terminal(&attio, &file, "n\n");
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("Apply these changes? [y/N]") && shown.contains("nothing was changed"), "{shown}");
    assert!(shown.contains("\u{1b}[32m+\u{1b}[0m production") && !shown.contains("error"), "{shown}");
    assert_eq!(attio.asked("POST"), 0);
    let (code, shown) = apply_on_terminal(&attio, &file, "y\n");
    assert_eq!((code, attio.asked("POST")), (Some(0), 2), "{shown}");
}
