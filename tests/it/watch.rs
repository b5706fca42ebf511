//! `watch` against a fake Attio: changes are logged once, lost webhooks recreated, slugs kept up to date.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use attio_bridge::attio::bridge::Bridge;
use attio_bridge::fake_attio::webhook::Status;
use attio_bridge::metrics::samples::Samples;
use hyper::Method;
use serde_json::Value;

use crate::support::attio::{Attio, KEY};
use crate::support::faults::Fault;
use crate::support::served::Served;
use crate::support::wait::{eventually_blocking, eventually_some};

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// A running `watch`.
struct Watching<'a> {
    attio: &'a Attio,
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    metrics: String,
}

impl<'a> Watching<'a> {
    fn start(attio: &'a Attio, config: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
            .args(["watch", "--listen", "127.0.0.1:0", "--every", "100ms", "--config"])
            .arg(config)
            .args(more)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ATTIO_API_KEY", KEY)
            .env("ATTIO_BRIDGE__ATTIO__API_URL", attio.url())
            .current_dir(attio.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let mut watching = Self { attio, child, log, metrics: String::new() };
        let first = eventually_some("it watches", || watching.lines("message", "watching").pop());
        watching.metrics = format!("http://{}/metrics", first["addr"].as_str().unwrap());
        watching
    }

    fn lines(&self, field: &str, value: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line[field] == value).cloned().collect()
    }

    fn metrics(&self) -> Samples {
        self.attio.block_on(Bridge::new().unwrap().metrics(&self.metrics)).unwrap()
    }

    fn is(&self, state: &str) -> bool {
        let labels = [("webhook", "production"), ("state", state)];
        self.metrics().sum("watch_webhook_state", &labels) == Some(1.0)
    }

    /// How often it was asked for the list since.
    fn polls(&self) -> f64 {
        self.metrics().sum("watch_polls_total", &[("result", "ok")]).unwrap()
    }

    fn until(&self, state: &str) {
        eventually_blocking(state, || self.is(state));
    }

    /// SIGTERM ends it well.
    fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        let status = eventually_some("it ends", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{:?}", self.log.lock().unwrap());
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configured(attio: &Attio, more: &str) -> std::path::PathBuf {
    let text = format!(
        "[sources.attio]\nsecrets = [{{ label = \"a\", file = \"secret\" }}]\n[[webhooks]]\nname = \"production\"\n\
         source = \"attio\"\ntarget_url = \"{URL}\"\nsubscriptions = [{{ event_type = \"note.created\" }}]\n{more}"
    );
    attio.write("config.toml", &text)
}

#[test]
fn each_change_is_logged_once() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("note.created", Value::Null)]);
    let watching = Watching::start(&attio, &configured(&attio, ""), &[]);
    watching.until("active");
    for (status, name) in
        [(Status::Degraded, "degraded"), (Status::Inactive, "inactive"), (Status::Active, "active")]
    {
        attio.store().set_status(&id, status);
        watching.until(name);
    }
    attio.store().webhooks[0].subscriptions[0].event_type = "note.deleted".into();
    let drift = || watching.metrics().sum("watch_webhook_drift", &[("webhook", "production")]);
    eventually_blocking("drift is seen", || drift() == Some(1.0));
    attio.store().webhooks.clear();
    watching.until("missing");
    let before = watching.polls();
    eventually_blocking("it polls again", || watching.polls() > before + 2.0);
    let logged = |state| watching.lines("state", state).len();
    assert_eq!((logged("degraded"), logged("inactive"), logged("missing")), (1, 1, 1));
    assert_eq!(logged("active"), 3, "at first, again, and with other subscriptions");
    assert!(attio.store().webhooks.is_empty(), "without recreate nothing is created");

    attio.faults((0..5).map(|_| Fault::Status(404)));
    let failed = || watching.metrics().sum("watch_polls_total", &[("result", "failed")]).unwrap();
    eventually_blocking("a failure is counted", || failed() >= 1.0);
    eventually_blocking("its end is logged", || !watching.lines("message", "Attio answers again").is_empty());
    let cannot = "cannot poll Attio: the metrics keep their last values";
    assert_eq!(watching.lines("message", cannot).len(), 1, "though it failed five times");
    watching.end();
}

#[test]
fn lost_webhook_is_recreated_once_by_two_instances() {
    let attio = Attio::start();
    let config = configured(&attio, "secret_file = \"secret\"\nrecreate = true\n");
    let first = Watching::start(&attio, &config, &[]);
    let second = Watching::start(&attio, &config, &[]);
    for round in 0..5 {
        attio.store().webhooks.clear();
        eventually_blocking("it is there, and its secret too", || {
            let Some(made) = attio.store().webhooks.first().cloned() else { return false };
            std::fs::read_to_string(attio.path("secret"))
                .is_ok_and(|text| text == format!("{}\n", made.secret))
        });
        let before = (first.polls(), second.polls());
        eventually_blocking("both poll again", || {
            first.polls() > before.0 + 1.0 && second.polls() > before.1 + 1.0
        });
        let made = attio.only();
        assert_eq!(
            std::fs::read_to_string(attio.path("secret")).unwrap(),
            format!("{}\n", made.secret),
            "{round}"
        );
    }
    // An inactive webhook becomes active only by being recreated.
    let old = attio.only().webhook_id;
    attio.store().set_status(&old, Status::Inactive);
    eventually_blocking("it is another one", || {
        attio.store().webhooks.first().is_some_and(|made| made.webhook_id != old)
    });
    first.end();
    second.end();
    attio.only();
}

/// Watches a lost webhook with `recreate = true` while the API spells its URL so, for several polls.
fn recreate_spelled(spelling: fn(&str) -> String, check: impl Fn(&Attio, &Watching<'_>)) {
    let attio = Attio::start();
    let config = configured(&attio, "secret_file = \"secret\"\nrecreate = true\n");
    attio.store().spelling = spelling;
    let watching = Watching::start(&attio, &config, &[]);
    eventually_blocking("it is created", || !attio.store().webhooks.is_empty());
    let before = watching.polls();
    eventually_blocking("it polls several times", || watching.polls() > before + 4.0);
    let secret = std::fs::read_to_string(attio.path("secret")).unwrap();
    assert_eq!(secret, format!("{}\n", attio.only().secret));
    assert_eq!(attio.asked("POST"), 1);
    check(&attio, &watching);
    watching.end();
}

#[test]
fn webhook_whose_url_is_spelled_differently_is_not_created_again() {
    let spellings: [fn(&str) -> String; 4] = [
        |url| url.replace("https://hooks", "HTTPS://Hooks"),
        |url| url.replace(".com/", ".com:443/"),
        |url| format!("{url}/"),
        |url| url.replace("webhooks", "%77ebhook%73"),
    ];
    for spelling in spellings {
        recreate_spelled(spelling, |_, watching| {
            assert!(watching.is("active"));
            let drift = watching.metrics().sum("watch_webhook_drift", &[("webhook", "production")]);
            assert_eq!(drift, Some(0.0));
        });
    }
}

#[test]
fn webhook_whose_url_is_not_recognised_is_found_by_its_id() {
    let another = |url: &str| url.replace("hooks.example.com", "other.example.com");
    recreate_spelled(another, |_, watching| {
        assert!(watching.is("active"));
        let drift = watching.metrics().sum("watch_webhook_drift", &[("webhook", "production")]);
        assert_eq!(drift, Some(1.0));
        let said = watching.lines("message", "Attio shows another URL than configured");
        assert_eq!(said.len(), 1, "{said:?}");
    });
}

#[test]
fn webhook_that_is_never_listed_is_created_once() {
    let attio = Attio::start();
    let config = configured(&attio, "secret_file = \"secret\"\nrecreate = true\n");
    attio.store().max_page = 0;
    let watching = Watching::start(&attio, &config, &[]);
    let stopped = || {
        let log = watching.log.lock().unwrap();
        let said =
            |line: &&Value| line["message"].as_str().is_some_and(|text| text.contains("created any more"));
        log.iter().filter(said).count()
    };
    eventually_blocking("it says that it stops", || stopped() > 0);
    let before = watching.polls();
    eventually_blocking("it polls several times", || watching.polls() > before + 4.0);
    assert_eq!((stopped(), attio.asked("POST")), (1, 1));
    // Once it is listed, the next loss is mended again.
    attio.store().max_page = 100;
    watching.until("active");
    attio.store().webhooks.clear();
    eventually_blocking("it is created again", || attio.asked("POST") == 2);
    watching.end();
}

#[test]
fn webhook_being_rotated_is_not_recreated() {
    let attio = Attio::start();
    let successor = attio.add(&format!("{URL}?successor-of=x"), &[("note.created", Value::Null)]);
    let config = configured(&attio, "secret_file = \"secret\"\nrecreate = true\n");
    let watching = Watching::start(&attio, &config, &[]);
    eventually_blocking("it has polled", || watching.polls() > 2.0);
    assert_eq!(attio.only().webhook_id, successor, "nothing is created");
    watching.end();
}

#[test]
fn secret_hook_gets_the_manifest() {
    let attio = Attio::start();
    let config = configured(&attio, "recreate = true\n");
    let hook = ["--secret-format", "kubernetes", "--secret-name", "bridge", "--secret-hook"];
    let failing = Watching::start(&attio, &config, &[&hook[..], &["exit 7"]].concat());
    let failed = || {
        let labels = [("webhook", "production"), ("result", "failed")];
        failing.metrics().sum("watch_recreations_total", &labels).unwrap()
    };
    eventually_blocking("it is tried again and again", || failed() >= 2.0);
    failing.end();
    assert!(attio.store().webhooks.is_empty(), "a webhook whose secret is lost is deleted");

    let watching =
        Watching::start(&attio, &config, &[&hook[..], &["cat > given.tmp && mv given.tmp given"]].concat());
    let given = eventually_some("the manifest", || std::fs::read_to_string(attio.path("given")).ok());
    let manifest: Value = serde_yaml_ng::from_str(&given).unwrap();
    assert_eq!(manifest["stringData"]["attio-webhook"], attio.only().secret.as_str());
    watching.end();
}

#[test]
fn silent_bridge_is_reported() {
    let attio = Attio::start();
    attio.add(URL, &[("note.created", Value::Null)]);
    let mut served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let metrics = format!("http://{}/metrics", served.admin);
    let config = configured(&attio, "");
    let watching = Watching::start(&attio, &config, &["--metrics", &metrics, "--silent-after", "3s"]);
    let silent = || watching.metrics().sum("watch_bridge_silent", &[("source", "attio")]).unwrap();
    eventually_blocking("silence is seen", || silent() == 1.0);
    attio
        .block_on(served.ask(&crate::support::request::Request::signed(r#"{"webhook_id":"w","events":[]}"#)));
    eventually_blocking("and its end", || silent() == 0.0);
    watching.end();
}

/// A delivery to one of several replicas is enough.
#[test]
fn bridge_that_just_started_is_not_silent() {
    let attio = Attio::start();
    attio.add(URL, &[("note.created", Value::Null)]);
    let start = || {
        let mut served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
        let mut out = served.stdout();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        served
    };
    let (deaf, hearing) = (start(), start());
    let urls = [&deaf, &hearing].map(|served| format!("http://{}/metrics", served.admin));
    let flags = ["--metrics", &urls[0], "--metrics", &urls[1], "--silent-after", "1h"];
    let watching = Watching::start(&attio, &configured(&attio, ""), &flags);
    eventually_blocking("it has polled", || watching.polls() > 3.0);
    attio.block_on(
        hearing.ask(&crate::support::request::Request::signed(r#"{"webhook_id":"w","events":[]}"#)),
    );
    let last =
        || watching.metrics().sum("watch_bridge_last_delivery_timestamp_seconds", &[("source", "attio")]);
    eventually_blocking("the delivery is seen", || last() > Some(0.0));
    assert_eq!(watching.metrics().sum("watch_bridge_silent", &[("source", "attio")]), Some(0.0));
    watching.end();
}

/// Attio created it without answering so, and does not delete it.
#[test]
fn webhook_with_a_lost_secret_is_recreated() {
    let attio = Attio::start();
    let config = configured(&attio, "secret_file = \"secret\"\nrecreate = true\n");
    attio.faults([Fault::Of(Method::POST, Box::new(Fault::StatusAfter(502)))]);
    attio.faults((0..6).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503)))));
    let watching = Watching::start(&attio, &config, &[]);
    let lost = "the webhook's secret may be lost; it is recreated at the next poll";
    eventually_blocking("it is logged", || !watching.lines("message", lost).is_empty());
    let log = format!("{:?}", watching.log.lock().unwrap());
    assert!(!log.contains("retrying in"), "in an outage that would be all there is: {log}");
    let kept = |secret: &str| {
        std::fs::read_to_string(attio.path("secret")).is_ok_and(|text| text.trim_end() == secret)
    };
    eventually_blocking("its secret is kept", || {
        attio.store().webhooks.first().is_some_and(|made| kept(&made.secret))
    });
    watching.end();
    assert!(kept(&attio.only().secret));
}

/// One object is renamed; the other webhooks are still watched.
#[test]
fn unknown_slug_does_not_stop_the_other_webhooks() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("note.created", Value::Null)]);
    let more = format!(
        "[[webhooks]]\nname = \"deals\"\nsource = \"attio\"\ntarget_url = \"{URL}?deals\"\nrecreate = true\n\
         secret_file = \"deals\"\nsubscriptions = [{{ event_type = \"record.created\", filter = {{ object = \
         \"deals\" }} }}]\n"
    );
    let watching = Watching::start(&attio, &configured(&attio, &more), &[]);
    eventually_blocking("it is created", || attio.store().webhooks.len() == 2);
    let made = attio.store().webhooks[1].webhook_id.clone();
    attio.store().objects[2].slug = "opportunities".into();
    let drift = || watching.metrics().sum("watch_webhook_drift", &[("webhook", "deals")]);
    eventually_blocking("it is not what is configured", || drift() == Some(1.0));
    attio.store().set_status(&id, Status::Degraded);
    watching.until("degraded");
    attio.store().delete(&made).unwrap();
    let failed = || {
        let labels = [("webhook", "deals"), ("result", "failed")];
        watching.metrics().sum("watch_recreations_total", &labels)
    };
    eventually_blocking("recreating fails while the slug is unknown", || failed() >= Some(2.0));
    attio.only();
    let logged = watching.lines("message", "the configured filters cannot be resolved: see `webhooks plan`");
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0]["error"].as_str().unwrap().contains("there is no object \"deals\""), "{logged:?}");
    watching.end();
}

#[test]
fn missing_output_for_new_secrets_is_found_at_start() {
    let attio = Attio::start();
    let start = |config: &Path| {
        let variables = [("ATTIO_API_KEY", KEY), ("ATTIO_BRIDGE__ATTIO__API_URL", &*attio.url())];
        crate::support::attio::program(&["watch", "--config", config.to_str().unwrap()], &variables)
    };
    start(&configured(&attio, "recreate = true\n")).expect(78).mentions(&[
        "production",
        "secret_file",
        "--secret-hook",
    ]);
    let config = configured(&attio, "secret_file = \"no-such-folder/secret\"\nrecreate = true\n");
    let watching = Watching::start(&attio, &config, &[]);
    assert_eq!(watching.lines("message", "recreating this webhook would fail").len(), 1);
    let log = format!("{:?}", watching.log.lock().unwrap());
    assert!(log.contains("its secret_file is no secret of its source"), "{log}");
    watching.end();
}

#[test]
fn slugs_file_is_pulled_and_kept_up_to_date() {
    let attio = Attio::start();
    let path = attio.path("slugs.json");
    let pull = |more: &[&str]| {
        let variables = [("ATTIO_API_KEY", KEY), ("ATTIO_BRIDGE__ATTIO__API_URL", &*attio.url())];
        crate::support::attio::program(&[&["slugs", "pull"], more].concat(), &variables)
    };
    attio.faults([Fault::Status(503)]);
    let printed = pull(&[]).expect(0).mentions(&["answered 503", "retrying in"]);
    pull(&["--to", path.to_str().unwrap()]).expect(0).mentions(&["3 objects and 2 lists, written"]);
    pull(&["--to", path.to_str().unwrap()]).expect(0).mentions(&["unchanged"]);
    let read =
        || attio_bridge::pipeline::slugs::Slugs::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed.stdout);
    let (workspace, deals) = {
        let store = attio.store();
        (store.workspace_id.clone(), store.objects[2].id.clone())
    };
    assert_eq!((read().workspace_id, &*read().objects[&deals]), (workspace, "deals"));

    let config =
        attio.write("config.toml", &format!("[route]\nslugs_file = {:?}\n", path.display().to_string()));
    let watching = Watching::start(&attio, &config, &[]);
    attio.store().objects[2].slug = "opportunities".into();
    eventually_blocking("the new slug", || read().objects[&deals] == "opportunities");
    watching.end();
}
