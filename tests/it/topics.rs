//! Applies the output of `topics` to brokers with restricted users, and delivers through them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_nats::ConnectOptions;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::support::kafka::security::{Door, PASSWORD, SECOND_USER, shared};
use crate::support::kafka::variables::variables;
use crate::support::nats::target::NatsTarget;
use crate::support::nats::trust::Trust;
use crate::support::nats::{Server, Settings};
use crate::support::program::{self, Variables, lent, printed, variables as named};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::snapshot;
use crate::support::unique;
use crate::support::wait::eventually;
use crate::support::watched::kit;

/// The output of `topics`.
fn topics(arguments: &[&str], variables: &Variables) -> String {
    printed(&[&["topics"], arguments].concat(), variables)
}

/// Every category at one address.
fn together(address: &str) -> Variables {
    let categories = attio_bridge::catalog::Category::ALL;
    let variable = |category: attio_bridge::catalog::Category| {
        let name = category.as_str().replace('-', "_").to_uppercase();
        (format!("ATTIO_BRIDGE__ROUTE__CATEGORIES__{name}"), address.to_owned())
    };
    categories.into_iter().map(variable).collect()
}

fn served(variables: &Variables) -> Served {
    Served::start(&lent(variables))
}

const TASK: &str = r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#;
const UNKNOWN_TYPE: &str = r#"{"event_type":"x.y","id":{"workspace_id":"w"}}"#;

/// The size of a body that is not JSON, as large as `http.max_body_bytes` below.
const LARGEST: usize = 1_000_000;

/// Sends one delivery to each kind of address.
async fn deliver(served: &Served) {
    eventually("it is ready", || async {
        served.ask(&Request::keyed("first", TASK)).await.status_and_reason().0 == 200
    })
    .await;
    assert_eq!(
        served.ask(&Request::keyed("unknown", UNKNOWN_TYPE)).await.status_and_reason(),
        (200, "accepted".into())
    );
    let garbage = Request::keyed("garbage", "x".repeat(LARGEST));
    assert_eq!(
        served.ask(&garbage).await.status_and_reason(),
        (200, "quarantined".into()),
        "{:?}",
        served.log()
    );
}

/// Creates a command in a folder.
fn fake_command(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Runs a script with these commands; returns its output.
fn run(script: &str, folder: &Path, variables: &[(&str, &str)]) -> String {
    let path = folder.join("script.sh");
    std::fs::write(&path, script).unwrap();
    let search = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").arg(path).env("PATH", search).envs(variables.iter().copied()).output();
    let output = output.expect("sh starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script with Kafka's own tools, as the administrator; returns its output.
pub fn run_kafka_commands(script: &str, bootstrap: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let commands = kit("commands/.kafka-4.3.1");
    let classes = format!("{0}/commands/*:{0}/jars/*", commands.display());
    for (name, class) in [("kafka-topics.sh", "TopicCommand"), ("kafka-acls.sh", "AclCommand")] {
        let flags = "-Xmx96m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC";
        let java = format!("exec java {flags} -cp '{classes}' org.apache.kafka.tools.{class} \"$@\"");
        fake_command(folder.path(), name, &java);
    }
    let admin = folder.path().join("admin.properties");
    std::fs::write(&admin, "client.id=administrator\n").unwrap();
    run(script, folder.path(), &[("BOOTSTRAP", bootstrap), ("ADMIN", admin.to_str().unwrap())])
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_commands_create_topics_and_acls_for_a_restricted_user() {
    let secured = shared();
    let prefix = unique("printed");
    let events = format!("{prefix}.events");
    let options = secured.login(Door::SaslTls, "PLAIN", SECOND_USER, PASSWORD);
    let mut config = variables(&options, &prefix);
    config.extend(together(&events));
    config.extend(named(&[
        ("KAFKA__TOPICS__PARTITIONS", "2"),
        ("KAFKA__TOPICS__REPLICATION_FACTOR", "1"),
        ("KAFKA__TOPICS__MIN_INSYNC_REPLICAS", "1"),
        ("KAFKA__TOPICS__RETENTION", "1h"),
        ("HTTP__MAX_BODY_BYTES", &LARGEST.to_string()),
    ]));
    let script = topics(&["--format", "kafka"], &config);
    let said = run_kafka_commands(&script, secured.broker.bootstrap());
    assert!(said.contains("operation=WRITE") && said.contains(SECOND_USER), "{said}");

    for name in ["events", "unknown", "quarantine"].map(|name| format!("{prefix}.{name}")) {
        assert_eq!(secured.broker.partitions(&name), Some(2), "{name}");
        let setting = |key| secured.broker.topic_setting(&name, key).unwrap();
        assert_eq!((setting("retention.ms"), setting("min.insync.replicas")), ("3600000".into(), "1".into()));
    }
    let served = served(&config);
    deliver(&served).await;
    for name in ["events", "unknown", "quarantine"] {
        assert_eq!(secured.broker.read_all(&format!("{prefix}.{name}")).len(), 1, "{name}");
    }
    let checked = program::run(&["check", "--connect"], &config);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn kafka_commands_without_a_login_succeed_on_a_cluster_without_an_authorizer() {
    let folder = tempfile::tempdir().unwrap();
    fake_command(folder.path(), "kafka-topics.sh", "exit 0");
    fake_command(folder.path(), "kafka-acls.sh", "echo granted; exit 1");
    let config = named(&[("BUS__TYPE", "kafka"), ("KAFKA__BOOTSTRAP_SERVERS", "kafka-1:9092")]);
    let script = topics(&["--format", "kafka"], &config);
    assert_eq!(run(&script, folder.path(), &[]), "");
    let words = [
        "# The configuration has no login and no --principal was given, so nothing is granted here.",
        "# kafka.topics.partitions is not set: the cluster's default decides",
        "# kafka.topics.replication_factor is not set: the cluster's default decides",
        "--operation Describe --operation Read",
        "--config cleanup.policy=delete --config retention.ms=604800000",
    ];
    assert!(words.iter().all(|words| script.contains(words)), "{script}");

    // What is granted to readers is a comment always.
    fake_command(folder.path(), "kafka-acls.sh", "echo granted \"$@\"");
    let script = topics(&["--format", "kafka", "--principal", "bridge"], &config);
    let granted = run(&script, folder.path(), &[]);
    assert_eq!(granted.lines().count(), 1, "{granted}");
    assert!(granted.contains("--operation Write") && !granted.contains("Read"), "{granted}");
}

/// The output of the `nats` format: the stream configuration, and the part of the server configuration.
fn nats_output(variables: &Variables) -> (Json, String) {
    let folder = tempfile::tempdir().unwrap();
    let words = r#"[ "$1 $2 $4 $5" = "stream add --config /dev/stdin" ] && cat >"$STREAM""#;
    fake_command(folder.path(), "nats", words);
    let stream = folder.path().join("stream.json");
    let script = topics(&["--format", "nats"], variables);
    let configuration = run(&script, folder.path(), &[("STREAM", stream.to_str().unwrap())]);
    (serde_json::from_slice(&std::fs::read(stream).unwrap()).unwrap(), configuration)
}

/// A server with that part of its configuration, and an administrator.
fn guarded(configuration: &str) -> Server {
    assert!(configuration.contains("users: [ {"), "{configuration}");
    let more = configuration.replace("users: [ {", "users: [ { user: admin, password: admin }, {");
    let more = format!("ATTIO_BRIDGE_NATS_PASSWORD: \"{PASSWORD}\"\n{more}");
    let admin = Arc::new(|| ConnectOptions::with_user_and_password("admin".into(), "admin".into()));
    Server::with(Settings { more, admin, ..Settings::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_commands_create_stream_and_permissions_for_a_restricted_user() {
    for ensure in ["verify", "create"] {
        let target = NatsTarget::new("printed");
        let of = |server: &str, prefix: &str| {
            named(&[
                ("BUS__TYPE", "nats"),
                ("NATS__SERVERS", server),
                ("NATS__USERNAME", "bridge"),
                ("NATS__PASSWORD", PASSWORD),
                ("NATS__STREAM__NAME", &target.stream),
                ("NATS__STREAM__ENSURE", ensure),
                ("NATS__STREAM__DUPLICATE_WINDOW", "3h"),
                ("NATS__STREAM__MAX_AGE", "48h"),
                ("ROUTE__PREFIX", prefix),
                ("HTTP__MAX_BODY_BYTES", &LARGEST.to_string()),
            ])
        };
        let (stream, configuration) = nats_output(&of("nats://somewhere:4222", &target.prefix));
        let server = guarded(&configuration);
        if ensure == "verify" {
            let admin = server.admin_options().connect(server.url()).await.unwrap();
            let subject = format!("$JS.API.STREAM.CREATE.{}", target.stream);
            let answer = admin.request(subject, stream.to_string().into()).await.unwrap();
            let answer: Json = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(answer["error"], Json::Null, "{answer}");
        }
        let config = of(&server.url(), &target.prefix);
        let served = served(&config);
        deliver(&served).await;
        let made = server.stream(&target.stream).unwrap();
        assert_eq!(json!(made.max_age.as_nanos()), stream["max_age"]);
        assert_eq!(json!(made.duplicate_window.as_nanos()), stream["duplicate_window"]);
        assert_eq!(json!(made.subjects), stream["subjects"]);
        assert_eq!(server.read_all(&target.stream).len(), 3);
        let log = served.log();
        assert!(!log.iter().any(|line| line.contains("differs") || line.contains("ermission")), "{log:?}");
        let checked = program::run(&["check", "--connect"], &config);
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");

        // No other subject is permitted.
        let mut elsewhere = of(&server.url(), &unique("beside").replace('.', "-"));
        elsewhere.retain(|(name, _)| !name.ends_with("ENSURE"));
        elsewhere.push(("ATTIO_BRIDGE__NATS__STREAM__ENSURE".into(), "off".into()));
        let beside = self::served(&elsewhere);
        eventually("it is refused", || async {
            beside.ask(&Request::keyed("k", TASK)).await.status_and_reason() == (503, "broker_refused".into())
        })
        .await;
    }
}

/// A configuration for Kafka with every relevant key.
fn full_config() -> Variables {
    named(&[
        ("BUS__TYPE", "kafka"),
        ("KAFKA__BOOTSTRAP_SERVERS", "kafka-1:9092,kafka-2:9092"),
        ("KAFKA__TOPICS__PARTITIONS", "6"),
        ("KAFKA__TOPICS__REPLICATION_FACTOR", "3"),
        ("KAFKA__TOPICS__MIN_INSYNC_REPLICAS", "2"),
        ("KAFKA__TOPICS__RETENTION", "168h"),
        ("KAFKA__TOPICS__ENSURE", "create"),
        ("ROUTE__CATEGORIES__RECORD", "Crm.record_v1"),
        ("HTTP__MAX_BODY_BYTES", "1000000"),
    ])
}

#[test]
fn output_of_each_format_matches_its_snapshot() {
    let nats = named(&[
        ("BUS__TYPE", "nats"),
        ("NATS__SERVERS", "nats://nats-1:4222"),
        ("NATS__STREAM__REPLICAS", "3"),
        ("ROUTE__CATEGORIES__RECORD", "crm.record"),
    ]);
    let table = [
        ("kafka.sh", "kafka", &full_config()),
        ("terraform.tf", "terraform", &full_config()),
        ("strimzi.yaml", "strimzi", &full_config()),
        ("nats.sh", "nats", &nats),
    ];
    let folder = snapshot::folder("topics");
    let changed: Vec<String> = table
        .into_iter()
        .filter_map(|(file, format, config)| {
            snapshot::compare(&folder.join(file), &topics(&["--format", format], config))
        })
        .collect();
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

/// A share group whose dead-letter topic was the quarantine would lose what it rejects: the broker's prefix for such
/// topics is `dlq.`, and it says so in its own log alone.
#[test]
fn no_topic_is_offered_as_the_dead_letter_topic_of_share_groups() {
    for format in ["kafka", "terraform", "strimzi"] {
        let printed = topics(&["--format", format], &full_config());
        assert!(
            printed.contains("quarantine") && !printed.contains("deadletterqueue"),
            "{format}: {printed}"
        );
    }
}

#[test]
fn json_format_lists_topics_principal_and_operations() {
    let data: Json =
        serde_json::from_str(&topics(&["--json", "--principal", "User:CN=x"], &full_config())).unwrap();
    assert_eq!((&data["bus"], &data["principal"]), (&json!("kafka"), &json!("User:CN=x")));
    assert_eq!(data["operations"], json!(["Describe", "Write", "Create"]));
    let topics = data["topics"].as_array().unwrap();
    assert_eq!(topics.len(), 15);
    let of = |name: &str| topics.iter().find(|topic| topic["name"] == name).unwrap();
    let record = of("Crm.record_v1");
    assert_eq!((&record["partitions"], &record["replication_factor"]), (&json!(6), &json!(3)));
    let config =
        json!({ "cleanup.policy": "delete", "min.insync.replicas": "2", "retention.ms": "604800000" });
    assert_eq!(record["config"], config);
    assert_eq!(data["reader_operations"], json!(["Describe", "Read"]));
    let largest: usize =
        of("attio.quarantine")["config"]["max.message.bytes"].as_str().unwrap().parse().unwrap();
    assert!((1_333_336..1_400_000).contains(&largest), "base64 of the largest body: {largest}");
}

#[test]
fn strimzi_format_prints_kafka_resources() {
    let text =
        topics(&["--format", "strimzi", "--cluster", "events", "--principal", "crm_bridge"], &full_config());
    let documents: Vec<serde_yaml_ng::Value> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| serde_yaml_ng::Value::deserialize(document).unwrap())
        .collect();
    let documents: Vec<Json> =
        documents.iter().map(|document| serde_json::to_value(document).unwrap()).collect();
    assert_eq!(documents.len(), 16);
    let by_name: BTreeMap<_, _> =
        documents.iter().map(|document| (document["metadata"]["name"].as_str().unwrap(), document)).collect();
    assert_eq!(by_name.len(), documents.len(), "every name once");
    assert!(
        documents.iter().all(|document| document["metadata"]["labels"]["strimzi.io/cluster"] == "events")
    );
    let quarantine = by_name["attio.quarantine"];
    assert_eq!(quarantine["kind"], "KafkaTopic");
    let record = &by_name["crm.record-v1"]["spec"];
    assert_eq!(record["topicName"], "Crm.record_v1");
    assert_eq!((&record["partitions"], &record["replicas"]), (&json!(6), &json!(3)));
    let config = json!({ "cleanup.policy": "delete", "min.insync.replicas": 2, "retention.ms": 604_800_000 });
    assert_eq!(record["config"], config);
    assert!(quarantine["spec"]["config"]["max.message.bytes"].is_u64());
    let user = by_name["crm-bridge"];
    assert_eq!(user["kind"], "KafkaUser");
    assert_eq!(user["spec"]["authentication"]["type"], "scram-sha-512");
    let acls = user["spec"]["authorization"]["acls"].as_array().unwrap();
    assert_eq!(acls.len(), 15);
    assert!(acls.iter().all(|acl| acl["operations"] == json!(["Describe", "Write", "Create"])));
    assert!(acls.iter().any(|acl| acl["resource"]["name"] == "Crm.record_v1"));
}

#[test]
fn terraform_format_is_well_formed() {
    let mut sparse = full_config();
    sparse.retain(|(name, _)| !name.contains("TOPICS"));
    for (config, variables) in [(full_config(), 0), (sparse, 2)] {
        let text = topics(&["--format", "terraform"], &config);
        let count = |c: char| text.matches(c).count();
        assert_eq!((count('{'), count('[')), (count('}'), count(']')));
        assert!(text.contains("\"Crm.record_v1\" = {") && text.contains("\"max.message.bytes\""), "{text}");
        assert_eq!(text.matches("variable \"").count(), variables, "variables without a default");
        assert_eq!(text.matches("resource \"").count(), 2);
        // Checked by terraform itself, where it is installed.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("topics.tf");
        std::fs::write(&file, &text).unwrap();
        match Command::new("terraform").args(["fmt", "-check", "-diff"]).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => println!("left out: terraform fmt: {error}"),
        }
    }
}

#[test]
fn nats_format_follows_the_configured_login() {
    let nats = |login: (&str, &str)| named(&[("BUS__TYPE", "nats"), ("NATS__SERVERS", "nats://n"), login]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bridge.creds");
    std::fs::write(&file, Trust::new().user()).unwrap();
    let text = topics(&[], &nats(("NATS__CREDS_FILE", file.to_str().unwrap())));
    assert!(
        text.contains("nsc add user --name \"attio-bridge\" --allow-pub 'attio.activity-attribute.>,"),
        "{text}"
    );
    assert!(!text.contains("authorization {"));
    let key = nkeys::KeyPair::new_user().public_key();
    let text = topics(&["--principal", &key], &nats(("NATS__TOKEN", "t")));
    assert!(text.contains(&format!("nkey: \"{key}\"")) && !text.contains("password"), "{text}");
}

#[test]
fn invalid_flag_combinations_are_usage_errors() {
    let nats = named(&[("BUS__TYPE", "nats"), ("NATS__SERVERS", "nats://n")]);
    let stdout = named(&[("BUS__TYPE", "stdout")]);
    let table = [
        (&nats, vec!["--format", "kafka"], "bus.type is nats: choose a format of that bus"),
        (&full_config(), vec!["--format", "nats"], "bus.type is kafka"),
        (&stdout, vec![], "needs no topics"),
        (&full_config(), vec!["--principal", "a'; rm"], "the principal has '\\''"),
        (&full_config(), vec!["--cluster", "A b"], "a Kubernetes name"),
    ];
    for (config, arguments, words) in table {
        let output = program::run(&[vec!["topics"], arguments].concat(), config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && output.stdout.is_empty(), "{words}: {said}");
    }
}
