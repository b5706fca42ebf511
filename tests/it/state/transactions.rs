//! Transactions on Kafka in which a record is refused: nothing of them is kept, and nothing is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::scene::{Bus, Scene};
use super::trouble::tell_together;
use crate::support::faults::Fault;
use crate::support::kafka::Broker;
use crate::support::kafka::security::{Door, PASSWORD, STATE_USER, shared};
use crate::support::kafka::variables::variables;
use crate::support::program::printed;
use crate::support::wait::eventually_blocking;
use crate::topics::run_kafka_commands;

#[test]
fn transaction_with_a_record_that_is_refused_is_repeated_and_leaves_nothing_behind() {
    /// How long Attio takes to answer.
    const SLOW: Duration = Duration::from_secs(6);
    let mut scene = Scene::on_kafka(Arc::new(Broker::start()));
    scene.set("STATE__SETTLE", "3s");
    let mut program = scene.run();
    let (ada, grace) = (scene.person("Ada"), scene.person("Grace"));
    for (id, name) in [(&ada, "Ada"), (&grace, "Grace")] {
        scene.tell("record.created", id);
        scene.eventually_named(id, name);
    }
    scene.eventually_done();

    let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
    // What is written while the broker is paused is older than that when it goes on. Its own records of the end of the
    // transaction are younger.
    broker.set_topic(&format!("{}-state.record", scene.prefix), "message.timestamp.before.max.ms", "8000");
    let before = scene.kept().len();
    scene.rename(&ada, "Ada Lovelace");
    scene.rename(&grace, "Grace Hopper");
    let asked = || scene.attio.seen().iter().filter(|seen| seen.target.ends_with("/records/query")).count();
    let reads = || scene.metrics().get("state_reads_total", &[("kind", "record"), ("result", "ok")]);
    let (seen, read) = (asked(), reads());
    scene.attio.always("/query", Fault::Late(SLOW));
    tell_together(&scene, "record.updated", &[ada.clone(), grace.clone()]);
    eventually_blocking("Attio is asked for both", || asked() > seen);
    broker.pause();
    eventually_blocking("Attio has answered", || reads() > read);
    std::thread::sleep(2 * SLOW);
    broker.resume();
    scene.attio.no_more_faults();

    scene.eventually_named(&ada, "Ada Lovelace");
    scene.eventually_named(&grace, "Grace Hopper");
    scene.eventually_done();
    assert_eq!(scene.kept().len(), before + 2, "nothing of the transaction that was aborted is kept");
    scene.attio.store().remove(&grace).unwrap();
    scene.tell("record.deleted", &grace);
    scene.eventually_gone(&grace);
    program.signal("TERM");
    let (code, said) = program.end();
    assert_eq!(code, Some(0), "{said}");
    // Of several in one batch the client says that they are not valid.
    let refused = |line: &str| line.contains("InvalidTimestamp") || line.contains("InvalidRecord");
    assert!(
        said.lines().any(|line| line.contains("states are not stored, trying on") && refused(line)),
        "{said}"
    );
}

#[test]
fn topic_that_takes_less_than_a_batch_gets_every_state_of_it() {
    let scene = Scene::kafka();
    let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
    let limit = [("cleanup.policy", "compact"), ("max.message.bytes", "100000")];
    broker.create_topic(&format!("{}-state.record", scene.prefix), 1, &limit);
    let _program = scene.run();
    let name = |number: usize| format!("person {number} {}", "x".repeat(2_000));
    let ids: Vec<_> = (0..200).map(|number| scene.person(&name(number))).collect();
    tell_together(&scene, "record.created", &ids);
    scene.eventually_done();
    let kept: BTreeSet<_> = scene.kept().into_iter().map(|kept| kept.key).collect();
    assert_eq!(kept, ids.into_iter().collect());
    assert_eq!(scene.kept().len(), kept.len(), "nothing of a transaction that was aborted is kept");
    assert_eq!(scene.metrics().get("state_stuck", &[]), 0.0);
}

#[test]
fn writer_that_may_not_write_a_topic_any_more_says_so_and_the_next_one_has_lost_nothing() {
    let secured = shared();
    let mut scene = Scene::on_kafka(Arc::new(Broker::at(secured.broker.bootstrap().to_owned())));
    let options = secured.login(Door::SaslTls, "PLAIN", STATE_USER, PASSWORD);
    scene.variables.extend(variables(&options, &scene.prefix));
    scene.set("KAFKA__TOPICS__ENSURE", "verify");
    let commands = printed(&["topics", "--format", "kafka"], &scene.variables);
    run_kafka_commands(&commands, secured.broker.bootstrap());
    let mut program = scene.run();
    let (ada, grace) = (scene.person("Ada"), scene.person("Grace"));
    scene.tell("record.created", &ada);
    scene.eventually_named(&ada, "Ada");
    let right = |verb: &str| {
        let script = format!(
            "kafka-acls.sh --bootstrap-server \"$BOOTSTRAP\" --command-config \"$ADMIN\" {verb} \
             --allow-principal 'User:{STATE_USER}' --operation Write --topic {}-state.record\n",
            scene.prefix
        );
        run_kafka_commands(&script, secured.broker.bootstrap());
    };
    right("--remove --force");
    scene.tell("record.created", &grace);
    scene.rename(&ada, "Ada Lovelace");
    scene.tell("record.updated", &ada);
    let (code, said) = program.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Read and Write on the states'"), "{said}");
    assert!(scene.last(&grace).is_none());
    right("--add");
    let _program = scene.run();
    scene.eventually_named(&ada, "Ada Lovelace");
    scene.eventually_named(&grace, "Grace");
}
