//! A webhook gets a new secret while it goes on sending to a real `serve`, interrupted wherever it can be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::attio::bridge::Bridge;
use attio_bridge::attio::rotate::{Error, Places, Rotation, Step};
use attio_bridge::fake_attio::fault::Fault;
use attio_bridge::fake_attio::timing::Timing;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::attio::{Attio, Deliveries, Ran};
use crate::support::eventually;
use crate::support::served::Served;

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// A webhook that sends, the bridge that it sends to, and their files.
struct Site {
    attio: Attio,
    served: Served,
    deliverer: Arc<Deliveries>,
    config: std::path::PathBuf,
    places: Places,
}

impl Site {
    fn start() -> Self {
        let attio = Attio::start();
        attio.add(URL, &[("record.created", Value::Null)]);
        let secret = attio.only().secret;
        let current = attio.write("current", &format!("{secret}\n"));
        let previous = attio.write("previous", "something else that is long enough to be taken\n");
        let config = attio.write("config.toml", &configuration(&current, &previous));
        let mut served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
        let mut out = served.stdout();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let times = Timing { time_scale: 1.0, per_second: 1000 };
        let deliverer = attio.deliverer(served.http, times);
        Self { attio, served, deliverer, config, places: Places { current, previous } }
    }

    fn rotate(&self, more: &[&str]) -> Ran {
        let metrics = format!("http://{}/metrics", self.served.admin);
        let probe = format!("http://{}/webhooks/attio", self.served.http);
        let usual = ["rotate", "production", "--metrics", &metrics, "--probe-url", &probe, "--grace", "1s"];
        self.attio.configured(&self.config, &[&usual, more].concat())
    }

    /// Takes so many steps and leaves it at that, as if the process had been killed then.
    fn begin(&self, steps: usize) -> Vec<Step> {
        let client = self.attio.client();
        let bridge = Bridge::new().unwrap();
        let probe = format!("http://{}/webhooks/attio", self.served.http);
        let webhook = self.attio.block_on(client.webhooks()).unwrap().remove(0);
        drop(Rotation::begin(&client, &self.places, &webhook).unwrap());
        let one = || {
            let rotation = Rotation::resume(&client, &self.places).unwrap().unwrap();
            let step = self.attio.block_on(rotation.next()).unwrap();
            if matches!(step, Step::Awaken(_)) {
                let secret = rotation.secret().unwrap();
                eventually("the bridge takes the new secret", || {
                    self.attio.block_on(bridge.accepts(&probe, &secret)) == Ok(true)
                });
            }
            self.attio.block_on(rotation.perform(&step)).unwrap();
            step
        };
        std::iter::repeat_with(one).take(steps).collect()
    }

    /// Things go on happening until the work is done.
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

    /// It is over, and nothing is left of it.
    fn check(&self, old: &str) {
        let webhook = self.attio.only();
        assert_ne!(webhook.webhook_id, old);
        assert_eq!(webhook.target_url, URL);
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&self.places.current), format!("{}\n", webhook.secret));
        assert_eq!(read(&self.places.previous), read(&self.places.current), "the old secret is not taken");
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
fn interrupted_after_each_step_it_goes_on_and_no_delivery_is_refused() {
    let site = Site::start();
    site.under_traffic(|| {
        for steps in 0..5 {
            let old = site.attio.only().webhook_id;
            let taken = site.begin(steps);
            assert_eq!(taken.len(), steps);
            site.rotate(&[]).expect(0).says(&["going on with the rotation", "rotated"]);
            site.check(&old);
        }
    });
}

/// The old secret is forgotten, and the note of it is still there.
#[test]
fn interrupted_at_its_very_end_it_goes_on() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    site.under_traffic(|| {
        site.begin(4);
        std::fs::copy(&site.places.current, &site.places.previous).unwrap();
        site.rotate(&[]).expect(0).says(&["going on with the rotation", "rotated"]);
        site.check(&old);
    });
}

#[test]
fn a_successor_whose_secret_is_lost_is_made_again() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    site.under_traffic(|| {
        let lost = Fault::Of(Method::POST, Box::new(Fault::StatusAfter(502)));
        let down = (0..6).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503))));
        site.attio.faults([lost].into_iter().chain(down));
        site.rotate(&[]).expect(1);
        assert_eq!(site.attio.store().webhooks.len(), 2, "Attio has made it");
        site.rotate(&[]).expect(0).says(&["its secret was lost on its way", "rotated"]);
        site.check(&old);
    });
}

/// Two would undo each other's steps; and `apply` makes nothing in the middle of one.
#[test]
fn while_it_is_at_work_nothing_else_is() {
    let site = Site::start();
    let client = site.attio.client();
    let webhook = site.attio.block_on(client.webhooks()).unwrap().remove(0);
    let rotation = Rotation::begin(&client, &site.places, &webhook).unwrap();
    site.rotate(&[]).expect(1).says(&["another `webhooks rotate` is at work", "current.rotation"]);
    assert!(matches!(Rotation::begin(&client, &site.places, &webhook), Err(Error::File { .. })));
    drop(rotation);
    assert!(Rotation::resume(&client, &site.places).unwrap().is_some());
}

#[test]
fn in_the_middle_of_it_apply_makes_nothing() {
    let site = Site::start();
    site.begin(3);
    assert!(site.attio.only().target_url.contains("successor-of="), "the old one is gone");
    let apply = ["apply", "--yes", "--overwrite-secret"];
    site.attio
        .configured(&site.config, &apply)
        .expect(1)
        .says(&["webhooks rotate production", "nothing was changed"]);
    site.attio.only();
}

#[test]
fn without_traffic_it_says_so_and_goes_on_later() {
    let site = Site::start();
    let old = site.attio.only().webhook_id;
    let late = site.rotate(&["--timeout", "3s", "--json"]).expect(1);
    let late = late.says(&["not within 3s", "--wait none"]);
    assert!(late.stderr.contains("a delivery is verified") || late.stderr.contains("takes the new secret"));
    let first = late.json();
    assert_eq!((&first["rotated"], &first["old_webhook_id"]), (&json!(false), &json!(old)), "{first}");
    assert!(first["error"].as_str().unwrap().contains("not within 3s"), "{first}");
    let ran = site.rotate(&["--wait", "none", "--json"]).expect(0).says(&["going on", "rotated"]);
    site.check(&old);
    // Both together are a whole rotation, told without the secret.
    let (second, new) = (ran.json(), site.attio.only());
    let steps = [&first, &second].map(|outcome| outcome["steps"].as_array().unwrap().clone()).concat();
    let steps: Vec<_> = steps.iter().map(|step| (&step["step"], &step["webhook_id"])).collect();
    let (old, id) = (json!(old), json!(new.webhook_id));
    let words = ["create", "awaken", "delete", "rename", "forget"].map(Value::from);
    let of = [&Value::Null, &id, &old, &id, &id];
    assert_eq!(steps, std::iter::zip(&words, of).collect::<Vec<_>>());
    let told = json!({ "rotated": true, "old_webhook_id": old, "webhook_id": id, "target_url": URL,
                       "secret_file": site.places.current, "steps": second["steps"], "error": null });
    assert_eq!(second, told);
    assert!(!late.stdout.contains(&new.secret) && !ran.stdout.contains(&new.secret));
}

#[test]
fn what_it_needs_is_said() {
    let attio = Attio::start();
    attio.webhooks(&["rotate", "x"]).expect(2).says(&["--metrics", "--wait none"]);
    attio
        .webhooks(&["rotate", "x", "--wait", "none"])
        .expect(1)
        .says(&["is called \"x\"", "webhooks import"]);
    let one = "[sources.attio]\nsecrets = [{ label = \"a\", file = \"a\" }]\n[[webhooks]]\nname = \"x\"\n\
               source = \"attio\"\ntarget_url = \"https://a/webhooks/attio\"\nsecret_file = \"a\"\n\
               subscriptions = [{ event_type = \"note.created\" }]\n";
    let config = attio.write("config.toml", one);
    let ran = attio.configured(&config, &["rotate", "x", "--wait", "none"]).expect(1);
    ran.says(&["sources.attio.secrets needs two entries"]);
    let ran = attio.configured(&config, &["rotate", "y", "--wait", "none"]).expect(1);
    ran.says(&["is called \"y\"", "there is: x"]);
    assert_eq!(attio.asked("POST"), 0);
}

/// A source may take the secrets of several webhooks: none of them is written over for another.
#[test]
fn the_secret_of_another_webhook_is_left_alone() {
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
    let secrets = |more: &str| {
        format!(
            "[sources.attio]\nsecrets = [{{ label = \"other\", file = {other:?} }}, {{ label = \"mine\", file = \
             {mine:?} }}{more}]\n{webhooks}"
        )
    };
    let config = attio.write("config.toml", &secrets(""));
    let rotate = ["rotate", "mine", "--wait", "none", "--grace", "100ms"];
    attio.configured(&config, &rotate).expect(1).says(&["needs two entries", "no other webhook's"]);
    let several = ", { label = \"x\", file = \"x\" }, { label = \"y\", file = \"y\" }";
    let config = attio.write("config.toml", &secrets(several));
    attio.configured(&config, &rotate).expect(1).says(&["labelled \"previous\""]);
    let config = attio.write("config.toml", &secrets(", { label = \"previous\", file = \"previous\" }"));
    attio.configured(&config, &rotate).expect(0);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "other-0123456789abcdef\n");
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), format!("{}\n", attio.only().secret));
}
