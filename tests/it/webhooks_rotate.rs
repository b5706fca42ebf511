//! `webhooks rotate` while deliveries go to a real `serve`, interrupted at every step.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::attio::bridge::Bridge;
use attio_bridge::attio::rotate::{Action, Error, Rotation, SecretPaths, Step};
use attio_bridge::fake_attio::deliver::Timing;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::attio::{Attio, Deliveries, Ran};
use crate::support::faults::Fault;
use crate::support::served::Served;
use crate::support::wait::eventually_blocking;

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// A webhook, the bridge that receives its deliveries, and their files.
struct Site {
    attio: Attio,
    served: Served,
    deliverer: Arc<Deliveries>,
    config: std::path::PathBuf,
    paths: SecretPaths,
}

impl Site {
    fn start() -> Self {
        let attio = Attio::start();
        attio.add(URL, &[("record.created", Value::Null)]);
        let secret = attio.only().secret;
        let current = attio.write("current", &format!("{secret}\n"));
        let previous = attio.write("previous", "something else that is long enough\n");
        let config = attio.write("config.toml", &configuration(&current, &previous));
        let mut served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
        let mut out = served.stdout();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let times = Timing { time_scale: 1.0, per_second: 1000 };
        let deliverer = attio.deliverer(served.http, times);
        Self { attio, served, deliverer, config, paths: SecretPaths { current, previous } }
    }

    fn rotate(&self, more: &[&str]) -> Ran {
        let metrics = format!("http://{}/metrics", self.served.admin);
        let probe = format!("http://{}/webhooks/attio", self.served.http);
        let usual = ["rotate", "production", "--metrics", &metrics, "--probe-url", &probe, "--grace", "1s"];
        self.attio.configured(&self.config, &[&usual, more].concat())
    }

    /// Performs so many steps, as if the process had been killed then.
    fn begin(&self, steps: usize) -> Vec<Step> {
        let client = self.attio.client();
        let bridge = Bridge::new().unwrap();
        let probe = format!("http://{}/webhooks/attio", self.served.http);
        let webhook = self.attio.block_on(client.webhooks()).unwrap().remove(0);
        drop(Rotation::begin(&client, &self.paths, &webhook).unwrap());
        let one = || {
            let rotation = Rotation::resume(&client, &self.paths).unwrap().unwrap();
            let step = self.attio.block_on(rotation.next()).unwrap();
            if step.action == Action::Enable {
                let secret = rotation.secret().unwrap();
                eventually_blocking("the bridge accepts the new secret", || {
                    self.attio.block_on(bridge.accepts(&probe, &secret)) == Ok(true)
                });
            }
            self.attio.block_on(rotation.perform(&step)).unwrap();
            step
        };
        std::iter::repeat_with(one).take(steps).collect()
    }

    /// Publishes events until the work is done.
    fn under_traffic(&self, work: impl FnOnce()) {
        let deliverer = Arc::clone(&self.deliverer);
        let world = self.attio.spawn(async move {
            loop {
                let event = r#"{"event_type":"record.created","id":{"object_id":"o","record_id":"r"}}"#;
                assert!(deliverer.publish(event) > 0, "there is always a webhook that sends");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        work();
        assert!(!world.is_finished());
        world.abort();
        self.attio.block_on(self.deliverer.idle());
        let statuses = self.deliverer.statuses();
        assert!(statuses.iter().all(|status| *status == Some(200)), "no delivery is refused: {statuses:?}");
    }

    /// Asserts that the rotation is complete.
    fn check(&self, old: &str) {
        let webhook = self.attio.only();
        assert_ne!(webhook.webhook_id, old);
        assert_eq!(webhook.target_url, URL);
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&self.paths.current), format!("{}\n", webhook.secret));
        assert_eq!(read(&self.paths.previous), read(&self.paths.current), "the old secret is not accepted");
        assert!(!self.attio.path("current.rotation").exists());
        self.attio.configured(&self.config, &["plan", "--check"]).expect(0);
    }
}

fn configuration(current: &Path, previous: &Path) -> String {
    let (current, previous) = (current.display(), previous.display());
    format!(
        "[bus]\ntype = \"stdout\"\n[sources.attio]\nsecrets = [{{ label = \"current\", file = \"{current}\" }}, \
         {{ label = \"previous\", file = \"{previous}\" }}]\n[[webhooks]]\nname = \"production\"\n\
         source = \"attio\"\ntarget_url = \"{URL}\"\nsecret_file = \"{current}\"\n\
         subscriptions = [{{ event_type = \"record.created\" }}]\n"
    )
}

#[test]
fn rotation_resumes_after_every_step_and_no_delivery_is_refused() {
    let site = Site::start();
    site.under_traffic(|| {
        for steps in 0..5 {
            let old = site.attio.only().webhook_id;
            let performed = site.begin(steps);
            assert_eq!(performed.len(), steps);
            site.rotate(&[]).expect(0).mentions(&["resuming the rotation", "rotated"]);
            site.check(&old);
        }
    });
}

#[test]
fn rotation_completes_while_the_api_spells_urls_differently() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    site.under_traffic(|| {
        site.begin(3);
        site.attio.store().spelling =
            |url| url.replace("https://hooks.example.com/", "https://HOOKS.example.com:443/");
        let apply = ["apply", "--yes", "--overwrite-secret"];
        site.attio.configured(&site.config, &apply).expect(1).mentions(&["webhooks rotate production"]);
        site.rotate(&[]).expect(0).mentions(&["rotated"]);
        site.check(&old);
        let old = site.attio.only().webhook_id;
        site.rotate(&[]).expect(0).mentions(&["waiting until", "rotated"]);
        site.check(&old);
    });
}

/// Both files have the new secret, and the journal still exists.
#[test]
fn rotation_resumes_before_the_journal_is_removed() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    site.under_traffic(|| {
        site.begin(4);
        std::fs::copy(&site.paths.current, &site.paths.previous).unwrap();
        site.rotate(&[]).expect(0).mentions(&["resuming the rotation", "rotated"]);
        site.check(&old);
    });
}

#[test]
fn successor_whose_secret_was_not_stored_is_replaced() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    site.under_traffic(|| {
        let lost = Fault::Of(Method::POST, Box::new(Fault::StatusAfter(502)));
        let down = (0..6).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503))));
        site.attio.faults([lost].into_iter().chain(down));
        site.rotate(&[]).expect(1);
        assert_eq!(site.attio.store().webhooks.len(), 2, "Attio has created it");
        site.rotate(&[]).expect(0).mentions(&["whose secret was not stored", "rotated"]);
        site.check(&old);
    });
}

#[test]
fn second_rotation_of_the_same_webhook_is_refused() {
    let site = Site::start();
    let client = site.attio.client();
    let webhook = site.attio.block_on(client.webhooks()).unwrap().remove(0);
    let rotation = Rotation::begin(&client, &site.paths, &webhook).unwrap();
    site.rotate(&[]).expect(1).mentions(&["another `webhooks rotate` is using", "current.rotation"]);
    assert!(matches!(Rotation::begin(&client, &site.paths, &webhook), Err(Error::File { .. })));
    drop(rotation);
    assert!(Rotation::resume(&client, &site.paths).unwrap().is_some());
}

#[test]
fn apply_creates_nothing_during_a_rotation() {
    let site = Site::start();
    site.begin(3);
    assert!(site.attio.only().target_url.contains("successor-of="), "the old one is gone");
    let apply = ["apply", "--yes", "--overwrite-secret"];
    site.attio
        .configured(&site.config, &apply)
        .expect(1)
        .mentions(&["webhooks rotate production", "nothing was changed"]);
    site.attio.only();
}

#[test]
fn rotation_without_traffic_times_out_and_resumes() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    let late = site.rotate(&["--timeout", "3s", "--json"]).expect(1);
    let late = late.mentions(&["timed out after 3s", "--wait none"]);
    assert!(late.stderr.contains("a delivery is verified") || late.stderr.contains("accepts the new secret"));
    let first = late.json();
    assert_eq!((&first["rotated"], &first["old_webhook_id"]), (&json!(false), &json!(old)), "{first}");
    assert!(first["error"].as_str().unwrap().contains("timed out after 3s"), "{first}");
    let ran = site.rotate(&["--wait", "none", "--json"]).expect(0).mentions(&["resuming", "rotated"]);
    site.check(&old);
    // Both together are a complete rotation, reported without the secret.
    let (second, new) = (ran.json(), site.attio.only());
    let steps = [&first, &second].map(|outcome| outcome["steps"].as_array().unwrap().clone()).concat();
    let steps: Vec<_> = steps.iter().map(|step| (&step["step"], &step["webhook_id"])).collect();
    let (old, id) = (json!(old), json!(new.webhook_id));
    let words = ["create", "enable", "delete", "rename", "finish"].map(Value::from);
    let of = [&Value::Null, &id, &old, &id, &id];
    assert_eq!(steps, std::iter::zip(&words, of).collect::<Vec<_>>());
    let expected = json!({ "rotated": true, "old_webhook_id": old, "webhook_id": id, "target_url": URL,
                       "secret_file": site.paths.current, "steps": second["steps"], "error": null });
    assert_eq!(second, expected);
    assert!(!late.stdout.contains(&new.secret) && !ran.stdout.contains(&new.secret));
}

#[test]
fn missing_flags_and_secrets_are_reported() {
    let attio = Attio::start();
    attio.webhooks(&["rotate", "x"]).expect(2).mentions(&["--metrics", "--wait none"]);
    attio
        .webhooks(&["rotate", "x", "--wait", "none"])
        .expect(1)
        .mentions(&["name or URL of \"x\"", "webhooks import"]);
    let one = "[sources.attio]\nsecrets = [{ label = \"a\", file = \"a\" }]\n[[webhooks]]\nname = \"x\"\n\
               source = \"attio\"\ntarget_url = \"https://a/webhooks/attio\"\nsecret_file = \"a\"\n\
               subscriptions = [{ event_type = \"note.created\" }]\n";
    let config = attio.write("config.toml", one);
    let ran = attio.configured(&config, &["rotate", "x", "--wait", "none"]).expect(1);
    ran.mentions(&["sources.attio.secrets needs two entries"]);
    let ran = attio.configured(&config, &["rotate", "y", "--wait", "none"]).expect(1);
    ran.mentions(&["name or URL of \"y\"", "there are: x"]);
    assert_eq!(attio.asked("POST"), 0);
}

/// A source may have the secrets of several webhooks.
#[test]
fn secret_file_of_another_webhook_is_not_overwritten() {
    let attio = Attio::start();
    attio.add(URL, &[("record.created", Value::Null)]);
    let (mine, other) =
        (attio.write("mine", "mine-0123456789abcdef\n"), attio.write("other", "other-0123456789abcdef\n"));
    let one = |name: &str, url: &str, file: &Path| {
        format!(
            "[[webhooks]]\nname = \"{name}\"\nsource = \"attio\"\ntarget_url = \"{url}\"\nsecret_file = {file:?}\n\
             subscriptions = [{{ event_type = \"record.created\" }}]\n"
        )
    };
    let webhooks = one("mine", URL, &mine) + &one("other", &format!("{URL}?other"), &other);
    // The same file under another name is no free one.
    let alias = other.with_file_name("alias");
    std::os::unix::fs::symlink(&other, &alias).unwrap();
    let secrets = |more: &str| {
        format!(
            "[sources.attio]\nsecrets = [{{ label = \"other\", file = {alias:?} }}, {{ label = \"mine\", file = \
             {mine:?} }}{more}]\n{webhooks}"
        )
    };
    let config = attio.write("config.toml", &secrets(""));
    let rotate = ["rotate", "mine", "--wait", "none", "--grace", "100ms"];
    attio.configured(&config, &rotate).expect(1).mentions(&["needs two entries", "no other webhook's"]);
    let several = ", { label = \"x\", file = \"x\" }, { label = \"y\", file = \"y\" }";
    let config = attio.write("config.toml", &secrets(several));
    attio.configured(&config, &rotate).expect(1).mentions(&["label it \"previous\""]);
    let config = attio.write("config.toml", &secrets(", { label = \"previous\", file = \"previous\" }"));
    attio.configured(&config, &rotate).expect(0);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "other-0123456789abcdef\n");
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), format!("{}\n", attio.only().secret));
}
