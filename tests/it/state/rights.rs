//! `state run` with the rights that `topics` prints, and no others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;

use super::check::checked;
use super::scene::Scene;
use crate::support::kafka::Broker;
use crate::support::kafka::security::{Door, PASSWORD, STATE_USER, shared};
use crate::support::kafka::variables::variables;
use crate::support::nats::{Server, Settings};
use crate::support::program::printed;
use crate::support::unique;
use crate::support::wait::eventually_blocking;
use crate::topics::run_kafka_commands;

/// After this the broker aborts what a writer has left open.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

fn goes_from_an_event_to_a_state(scene: &Scene) {
    let _program = scene.run();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    scene.eventually_done();
}

#[test]
fn kafka_commands_are_enough() {
    let secured = shared();
    let mut scene = Scene::on_kafka(Arc::new(Broker::at(secured.broker.bootstrap().to_owned())));
    let options = secured.login(Door::SaslTls, "PLAIN", STATE_USER, PASSWORD);
    scene.variables.extend(variables(&options, &scene.prefix));
    scene.set("KAFKA__TOPICS__ENSURE", "verify");
    assert!(checked(&scene).iter().all(|[_, result, _]| result != "ok"), "{:?}", checked(&scene));
    let script = printed(&["topics", "--format", "kafka"], &scene.variables);
    run_kafka_commands(&script, secured.broker.bootstrap());
    for kind in ["record", "list-entry"] {
        let topic = format!("{}-state.{kind}", scene.prefix);
        assert_eq!(secured.broker.topic_setting(&topic, "cleanup.policy").as_deref(), Some("compact"));
    }
    goes_from_an_event_to_a_state(&scene);
    let rows = checked(&scene);
    let ok = rows.iter().filter(|[_, result, _]| result == "ok").count();
    // The policy of the topics may not be read.
    assert_eq!((rows.len(), ok), (4, 2), "{rows:?}");
}

#[test]
fn writer_that_loses_a_right_leaves_no_transaction_open() {
    let secured = shared();
    let mut scene = Scene::on_kafka(Arc::new(Broker::at(secured.broker.bootstrap().to_owned())));
    let options = secured.login(Door::SaslTls, "PLAIN", STATE_USER, PASSWORD);
    scene.variables.extend(variables(&options, &scene.prefix));
    scene.set("KAFKA__TOPICS__ENSURE", "verify");
    run_kafka_commands(
        &printed(&["topics", "--format", "kafka"], &scene.variables),
        secured.broker.bootstrap(),
    );
    let mut program = scene.run();
    let ids = ["Ada", "Grace"].map(|name| scene.person(name));
    scene.tell("record.created", &ids[0]);
    scene.eventually_named(&ids[0], "Ada");
    let remove = format!(
        "kafka-acls.sh --bootstrap-server \"$BOOTSTRAP\" --command-config \"$ADMIN\" --remove --force \
         --allow-principal 'User:{STATE_USER}' --operation Describe --operation Read --group {}-state\n",
        scene.prefix
    );
    run_kafka_commands(&remove, secured.broker.bootstrap());
    // Its states are stored, its positions refused.
    scene.tell("record.created", &ids[1]);
    let (code, said) = program.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("grant Read on the group"), "{said}");
    // A record behind an open transaction is not seen by readers of committed ones, until the broker aborts it.
    let topic = format!("{}-state.record", scene.prefix);
    for key in 0..30 {
        secured.broker.publish(&topic, Some(&format!("key-{key}")), &[], Some(b"{}"));
    }
    let begun = Instant::now();
    let keys = || scene.kept().iter().filter(|kept| kept.key.starts_with("key-")).count();
    eventually_blocking("what is behind is seen", || keys() == 30);
    assert!(begun.elapsed() < TRANSACTION_TIMEOUT / 2, "{:?}", begun.elapsed());
    assert!(scene.last(&ids[1]).is_none());
}

#[test]
fn nats_permissions_are_enough() {
    let prefix = unique("rights").replace('.', "-");
    let admin = Arc::new(|| ConnectOptions::with_user_and_password("admin".into(), "admin".into()));
    let server = Server::with(Settings {
        more: "authorization: { users: [ { user: admin, password: admin } ] }".into(),
        admin: admin.clone(),
        ..Settings::default()
    });
    let mut scene = Scene::on_nats(Arc::new(server));
    scene.set("NATS__USERNAME", "state");
    scene.set("NATS__PASSWORD", PASSWORD);
    let script = printed(&["topics", "--format", "nats"], &scene.variables);
    let subjects: Vec<_> = script.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    assert!(subjects.len() > 5, "{script}");
    let publish = format!("\"{}\"", subjects.join("\", \""));
    let super::scene::Bus::Nats(server) = &scene.bus else { panic!("{prefix}") };
    server.configure(|settings| {
        settings.more = format!(
            "authorization: {{ users: [ {{ user: admin, password: admin }}, {{ user: state, password: \"{PASSWORD}\", \
             permissions: {{ publish: {{ allow: [{publish}] }}, subscribe: {{ allow: [\"_INBOX.>\"] }} }} }} ] }}"
        );
    });
    server.reload();
    goes_from_an_event_to_a_state(&scene);
    let rows = checked(&scene);
    assert_eq!(rows.iter().map(|[_, result, _]| result.as_str()).collect::<Vec<_>>(), ["ok"], "{rows:?}");
}
