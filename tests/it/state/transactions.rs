//! Transactions on Kafka in which a record is refused: nothing of them is kept, and nothing is lost.

use std::sync::Arc;

use super::scene::Scene;
use crate::support::kafka::Broker;
use crate::support::kafka::security::{Door, PASSWORD, STATE_USER, shared};
use crate::support::kafka::variables::variables;
use crate::support::program::printed;
use crate::topics::run_kafka_commands;

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
