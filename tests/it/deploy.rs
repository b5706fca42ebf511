//! The files of `deploy` match the bridge: configurations load, commands parse, ports, paths and timeouts agree.
//!
//! `.ci/lint-deploy` checks that each file is well formed.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use attio_bridge::cli::Exit;
use attio_bridge::config::{Config, Problems};
use serde_json::{Value as Json, json};

use crate::setup::{SECRET, Setup};
use crate::support::bridge::Bridge;

const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");
const UNIT: &str = include_str!("../../deploy/attio-bridge.service");
const COMPOSE: &str = include_str!("../../deploy/compose.yaml");
const CONFIG_MAP: &str = include_str!("../../deploy/kubernetes/config.yaml");
const DEPLOYMENT: &str = include_str!("../../deploy/kubernetes/deployment.yaml");
const SERVICE: &str = include_str!("../../deploy/kubernetes/service.yaml");
const BUDGET: &str = include_str!("../../deploy/kubernetes/disruption-budget.yaml");
const NETWORK: &str = include_str!("../../deploy/kubernetes/network-policy.yaml");
const WATCH: &str = include_str!("../../deploy/kubernetes/examples/watch.yaml");
const SHARED_DEDUP: &str = include_str!("../../deploy/kubernetes/examples/shared-dedup.yaml");
const KUBERNETES_SECRET: &str = include_str!("../../deploy/kubernetes/examples/secret.yaml");

/// The time of a stop beyond its delay and its drain.
const MARGIN: Duration = Duration::from_secs(5);

fn yaml(text: &str) -> Json {
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).expect("it is YAML");
    value.apply_merge().expect("what is merged is a mapping");
    serde_json::to_value(value).expect("keys are text")
}

#[track_caller]
pub fn at<'a>(value: &'a Json, pointer: &str) -> &'a Json {
    value.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"))
}

#[track_caller]
pub fn text<'a>(value: &'a Json, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_else(|| panic!("no text at {pointer}"))
}

pub fn list(value: &Json) -> &[Json] {
    value.as_array().expect("a list")
}

/// The first element of a list with this name.
#[track_caller]
pub fn named<'a>(value: &'a Json, name: &str) -> &'a Json {
    let found = list(value).iter().find(|element| element["name"] == name);
    found.unwrap_or_else(|| panic!("nothing is named {name}"))
}

pub fn port(address: &str) -> u64 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address has a port")
}

/// How long a stop may take before it is cut short, by this configuration.
pub fn stop_time(config: &Config) -> Duration {
    config.shutdown.delay + config.shutdown.drain_timeout + MARGIN
}

/// Asserts that the program accepts a command line; without a configuration it does nothing else.
#[track_caller]
pub fn assert_accepted(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(Exit::Usage as i32), "{arguments:?}: {said}");
}

pub fn words(value: &Json) -> Vec<&str> {
    list(value).iter().map(|word| word.as_str().expect("a word")).collect()
}

/// Values of a directive of the unit.
fn unit(name: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The rest of the lines of the Dockerfile that begin with this.
fn dockerfile(instruction: &str) -> Vec<&'static str> {
    DOCKERFILE.lines().filter_map(|line| line.strip_prefix(instruction)).map(str::trim).collect()
}

// --- Kubernetes ---------------------------------------------------------------------------------

/// The configuration of the ConfigMap, its secrets' files made, and the paths that it names for them.
fn of_config_map() -> (Config, Vec<String>) {
    let setup = Setup::empty();
    let map = yaml(CONFIG_MAP);
    let mut toml = text(&map, "/data/config.toml").to_owned();
    let named: Vec<String> =
        toml.split('"').filter(|part| part.starts_with("/run/secrets/")).map(str::to_owned).collect();
    for path in &named {
        let made = setup.write(&path.replace('/', "_"), SECRET);
        toml = toml.replace(path.as_str(), &made.display().to_string());
    }
    let setup = setup.toml(&toml);
    assert_eq!(setup.warnings(), Vec::<String>::new());
    (setup.config(), named)
}

#[test]
fn config_map_and_deployment_agree() {
    let (config, secrets) = of_config_map();
    let deployment = yaml(DEPLOYMENT);
    let pod = at(&deployment, "/spec/template/spec");
    let container = named(&pod["containers"], "attio-bridge");

    assert_eq!(pod["terminationGracePeriodSeconds"], stop_time(&config).as_secs());
    assert!(!config.shutdown.delay.is_zero(), "a pod serves until nothing is sent to it any more");
    let ports = &container["ports"];
    assert_eq!(named(ports, "http")["containerPort"], port(&config.http.listen));
    assert_eq!(named(ports, "admin")["containerPort"], port(&config.admin.listen));

    let arguments = words(&container["args"]);
    assert_accepted(&arguments);
    let mounted = |name: &str, path: &str| {
        let folder = text(named(&container["volumeMounts"], name), "/mountPath");
        path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned)
    };
    let file = mounted("config", arguments[2]).expect("the configuration is in its volume");
    assert!(yaml(CONFIG_MAP)["data"][&file].is_string(), "{file} is no key of the ConfigMap");
    assert_eq!(
        text(named(&pod["volumes"], "config"), "/configMap/name"),
        text(&yaml(CONFIG_MAP), "/metadata/name")
    );

    let secret = yaml(KUBERNETES_SECRET);
    assert_eq!(
        text(named(&pod["volumes"], "secrets"), "/secret/secretName"),
        text(&secret, "/metadata/name")
    );
    assert_eq!(secrets.len(), 1);
    for path in secrets {
        let key = mounted("secrets", &path).unwrap_or_else(|| panic!("{path} is in no volume"));
        let value = text(&secret, &format!("/stringData/{key}"));
        let refused = Setup::good().var("ATTIO_WEBHOOK_SECRET", value).problems();
        assert!(refused[0].contains("at least 16"), "the example must not pass for a secret: {refused:?}");
    }
}

#[tokio::test]
async fn probes_request_existing_endpoints() {
    let deployment = yaml(DEPLOYMENT);
    let container = named(at(&deployment, "/spec/template/spec/containers"), "attio-bridge");
    let bridge = Bridge::start().await;
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "admin"}));
        assert_eq!(bridge.admin(path).await.status, 200, "{path}");
    }
}

/// Asserts that a pod meets the restricted security standard, and runs as the image's user.
#[track_caller]
pub fn assert_restricted(pod: &Json) {
    let container = &pod["containers"][0];
    let uid: u64 = dockerfile("USER ")[0].split(':').next().and_then(|uid| uid.parse().ok()).unwrap();
    let expected = [
        (pod, "/enableServiceLinks", json!(false)),
        (pod, "/automountServiceAccountToken", json!(false)),
        (pod, "/securityContext/runAsNonRoot", json!(true)),
        (pod, "/securityContext/runAsUser", json!(uid)),
        (pod, "/securityContext/fsGroup", json!(uid)),
        (pod, "/securityContext/seccompProfile/type", json!("RuntimeDefault")),
        (container, "/securityContext/allowPrivilegeEscalation", json!(false)),
        (container, "/securityContext/readOnlyRootFilesystem", json!(true)),
        (container, "/securityContext/capabilities", json!({"drop": ["ALL"]})),
    ];
    for (value, pointer, expected) in expected {
        assert_eq!(at(value, pointer), &expected, "{pointer}");
    }
}

#[test]
fn pods_meet_the_restricted_security_standard() {
    for deployment in [DEPLOYMENT, WATCH] {
        assert_restricted(at(&yaml(deployment), "/spec/template/spec"));
    }
}

#[test]
fn manifests_select_the_same_pods_and_ports() {
    let deployment = yaml(DEPLOYMENT);
    let labels = at(&deployment, "/spec/template/metadata/labels");
    let (service, network) = (yaml(SERVICE), yaml(NETWORK));
    let selectors = [
        at(&deployment, "/spec/selector/matchLabels").clone(),
        at(&service, "/spec/selector").clone(),
        at(&yaml(BUDGET), "/spec/selector/matchLabels").clone(),
        at(&network, "/spec/podSelector/matchLabels").clone(),
    ];
    for selector in selectors {
        assert_eq!(&selector, labels);
    }
    let ports = at(&deployment, "/spec/template/spec/containers/0/ports");
    named(ports, text(&service, "/spec/ports/0/targetPort"));

    let (config, _) = of_config_map();
    let open = |direction: &str| -> BTreeSet<u64> {
        let rules = list(at(&network, &format!("/spec/{direction}"))).iter();
        rules.flat_map(|rule| list(&rule["ports"])).filter_map(|port| port["port"].as_u64()).collect()
    };
    assert_eq!(open("ingress"), BTreeSet::from([port(&config.http.listen), port(&config.admin.listen)]));
    let map = yaml(CONFIG_MAP);
    let toml: toml::Table = text(&map, "/data/config.toml").parse().expect("it is TOML");
    let broker = toml["kafka"]["bootstrap_servers"].as_str().expect("an address");
    assert_eq!(open("egress"), BTreeSet::from([53, port(broker)]));
}

// --- Compose ------------------------------------------------------------------------------------

/// Loads the configuration of a service, its secrets' files made.
fn of_service(service: &Json) -> Result<Config, Problems> {
    let mut setup = Setup::empty();
    for (name, value) in service["environment"].as_object().expect("variables") {
        let value = value.as_str().expect("a variable is text");
        setup = match value.strip_prefix("/run/secrets/") {
            Some(secret) => {
                assert!(words(&service["secrets"]).contains(&secret), "{secret} is not handed over");
                let path = setup.write(secret, SECRET);
                setup.var(name, path)
            }
            None => setup.var(name, value),
        };
    }
    setup.load()
}

#[test]
fn compose_runs_the_bridge_with_each_broker() {
    let compose = yaml(COMPOSE);
    for bus in ["kafka", "nats"] {
        let service = at(&compose, &format!("/services/bridge-{bus}"));
        let broker = at(&compose, &format!("/services/{bus}"));
        assert_eq!(service["environment"]["ATTIO_BRIDGE__BUS__TYPE"], bus);
        assert_eq!(at(service, &format!("/depends_on/{bus}/condition")), "service_healthy");
        assert!(broker["healthcheck"]["test"].is_array());
        for part in [service, broker] {
            assert!(words(&part["profiles"]).contains(&bus));
            for port in words(&part["ports"]) {
                assert!(port.starts_with("127.0.0.1:"), "{port} is open to the network");
            }
        }
        let config = of_service(service).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let published: Vec<u64> = words(&service["ports"]).into_iter().map(port).collect();
        assert_eq!(published, [port(&config.http.listen), port(&config.admin.listen)]);
        let grace = humantime::parse_duration(text(service, "/stop_grace_period")).expect("a duration");
        assert!(grace >= stop_time(&config), "{grace:?}");
    }
}

#[test]
fn compose_runs_three_bridges_that_share_a_store() {
    let compose = yaml(COMPOSE);
    let service = at(&compose, "/services/bridge-shared");
    assert_eq!(service["deploy"]["replicas"], 3);
    for other in ["kafka", "valkey"] {
        assert_eq!(at(service, &format!("/depends_on/{other}/condition")), "service_healthy");
        let other = at(&compose, &format!("/services/{other}"));
        assert!(words(&other["profiles"]).contains(&"shared"));
        assert!(other["healthcheck"]["test"].is_array());
    }
    let config = of_service(service).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.store.map(|store| store.kind.name()), Some("redis"));
    for port in words(&service["ports"]) {
        let range = port.strip_prefix("127.0.0.1:").and_then(|port| port.split_once(':')).expect("a range");
        let (first, last) = range.0.split_once('-').expect("first and last");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        assert_eq!(number(last) - number(first) + 1, 3, "one for each");
    }
    assert!(words(&compose["services"]["valkey"]["command"]).contains(&"noeviction"));
}

#[test]
fn kubernetes_example_of_a_store_serves_what_its_comment_says() {
    let documents = serde_yaml_ng::Deserializer::from_str(SHARED_DEDUP);
    let documents: Vec<Json> =
        documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML")).collect();
    let [service, set] = &documents[..] else { panic!("a Service and a StatefulSet") };
    let (selector, labels) = (at(service, "/spec/selector"), at(set, "/spec/template/metadata/labels"));
    assert_eq!(selector, labels);
    let args = words(at(set, "/spec/template/spec/containers/0/args"));
    assert!(args.contains(&"noeviction"), "{args:?}");
    let (name, port) = (text(service, "/metadata/name"), at(service, "/spec/ports/0/port"));
    assert!(SHARED_DEDUP.contains(&format!("@{name}:{port}")));
}

#[test]
fn compose_uses_the_broker_versions_of_the_tests() {
    let compose = yaml(COMPOSE);
    for (broker, variable) in [("kafka", "KAFKA="), ("nats", "NATS="), ("valkey", "VALKEY=")] {
        let tried = include_str!("../install.sh").lines().find_map(|line| line.strip_prefix(variable));
        let tried = tried.expect("a version");
        let image = text(&compose, &format!("/services/{broker}/image"));
        let (_, tag) = image.split_once(':').expect("a tag");
        assert!(tried.starts_with(tag.trim_end_matches("-alpine")), "{image}, not {tried}");
    }
}

#[test]
fn compose_configures_the_broker_address() {
    let compose = yaml(COMPOSE);
    let address = text(&compose, "/services/bridge-kafka/environment/ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS");
    let advertised = text(&compose, "/services/kafka/environment/KAFKA_ADVERTISED_LISTENERS");
    assert!(advertised.split(',').any(|listener| listener == format!("BRIDGE://{address}")), "{advertised}");
    assert_eq!(
        compose["services"]["bridge-nats"]["environment"]["ATTIO_BRIDGE__NATS__SERVERS"],
        "nats://nats:4222"
    );
}

// --- systemd ------------------------------------------------------------------------------------

#[test]
fn systemd_unit_matches_the_start_and_stop_of_the_bridge() {
    let start: Vec<&str> = unit("ExecStart")[0].split_whitespace().collect();
    assert_eq!(start[0], "/usr/local/bin/attio-bridge");
    assert_accepted(&start[1..]);

    let never_again: Vec<i32> = unit("RestartPreventExitStatus")[0]
        .split_whitespace()
        .map(|code| code.parse().expect("a code is a number"))
        .collect();
    assert_eq!(never_again, [Exit::Usage as i32, Exit::Configuration as i32]);

    let grace = humantime::parse_duration(unit("TimeoutStopSec")[0]).expect("a duration");
    assert!(grace >= stop_time(&Setup::good().config()), "{grace:?}");

    let (credential, _) = unit("LoadCredential")[0].split_once(':').expect("a name and a path");
    let (variable, path) = unit("Environment")[0].split_once('=').expect("a name and a value");
    assert_eq!(path, format!("%d/{credential}"));
    let setup = Setup::empty().var("ATTIO_BRIDGE__BUS__TYPE", "stdout");
    let made = setup.write(credential, SECRET);
    setup.var(variable, made).config();
}

// --- The image ----------------------------------------------------------------------------------

#[test]
fn dockerfile_commands_ports_and_version_are_current() {
    let default = Setup::good().config();
    let expected = format!("{} {}", port(&default.http.listen), port(&default.admin.listen));
    assert_eq!(dockerfile("EXPOSE "), [expected]);

    let command = |instruction: &str, line: &'static str| -> Vec<String> {
        let (_, json) = line.split_once('[').unwrap_or_else(|| panic!("{instruction} is no list"));
        serde_json::from_str(&format!("[{json}")).expect("a list of words")
    };
    let entry = command("ENTRYPOINT", dockerfile("ENTRYPOINT ")[0]);
    let copied = dockerfile("COPY --from=build ")[0].split_whitespace().last().expect("a target");
    assert_eq!(entry, [copied]);
    let check = command("HEALTHCHECK", dockerfile("HEALTHCHECK ")[0]);
    assert_eq!(check[0], entry[0]);
    for words in [&check[1..], &command("CMD", dockerfile("CMD ")[0])[..]] {
        assert_accepted(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(dockerfile("ARG VERSION="), [env!("CARGO_PKG_VERSION")]);
}

/// One replica, whose command, configuration and port are those of the bridge beside it.
#[test]
fn watch_deployment_has_one_replica_and_valid_arguments() {
    let (watch, bridge) = (yaml(WATCH), yaml(DEPLOYMENT));
    assert_eq!(watch["spec"]["replicas"], 1);
    let container = |manifest: &Json| manifest["spec"]["template"]["spec"]["containers"][0].clone();
    let (watch, bridge) = (container(&watch), container(&bridge));
    assert_eq!(watch["image"], bridge["image"]);
    assert_accepted(&words(&watch["args"]));
    let port = format!("0.0.0.0:{}", watch["ports"][0]["containerPort"]);
    assert!(words(&watch["args"]).contains(&&*port));
    assert_eq!(watch["volumeMounts"][0], bridge["volumeMounts"][0]);
}

/// cargo requires every target of the manifest to exist, built or not.
#[test]
fn dockerfile_has_every_cargo_target_and_a_recent_rust() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().expect("it is TOML");
    assert!(manifest["features"].get("vendored").is_some());
    let tables = ["bin", "test", "bench", "example"].into_iter().filter_map(|kind| manifest.get(kind));
    for target in tables.flat_map(|table| table.as_array().expect("targets")) {
        let path = target["path"].as_str().expect("a target has a path");
        assert!(DOCKERFILE.contains(path), "the layer of the dependencies not_ready_reason {path}");
    }
    let needed = env!("CARGO_PKG_RUST_VERSION").split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let image = dockerfile("FROM rust:1.")[0].split('.').next().and_then(|minor| minor.parse().ok());
    assert!(image >= needed, "{image:?} is older than {needed:?}");
}
