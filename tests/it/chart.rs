//! The Helm chart: what it renders with each file of `deploy/chart/ci` fits together and is accepted by the program,
//! wrong values are refused, and its README lists every value.
//!
//! `.ci/lint-chart` checks the rendered objects with the schemas of Kubernetes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use crate::deploy::{assert_accepted, assert_restricted, at, list, named, port, stop_time, text, words};
use crate::setup::{SECRET, Setup};
use crate::state::scene::Scene;
use crate::support::attio::KEY;
use crate::support::certificates::Certificates;
use crate::support::program::{command, lent, run_bare};
use crate::support::snapshot;
use crate::support::watched::kit;

const VALUES: &str = include_str!("../../deploy/chart/values.yaml");
const README: &str = include_str!("../../deploy/chart/README.md");

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/chart")
}

fn helm(arguments: &[&str]) -> Output {
    let mut command = Command::new(kit("helm-4/helm").join("helm-4/helm"));
    command.args(["template", "hooks"]).arg(chart()).args(arguments).output().expect("Helm runs")
}

/// The files of values, by name.
fn files() -> BTreeMap<String, String> {
    let files = fs::read_dir(chart().join("ci")).expect("the folder is there");
    let files = files.map(|file| file.expect("it can be read").path());
    files.map(|path| (path.file_stem().unwrap().display().to_string(), path.display().to_string())).collect()
}

fn rendered(file: &str) -> Vec<Json> {
    rendered_with(file, "")
}

/// With values set as `helm --set` does.
fn rendered_with(file: &str, set: &str) -> Vec<Json> {
    let output = helm(&["--values", file, "--set", set]);
    assert!(output.status.success(), "{output:?}");
    let documents = serde_yaml_ng::Deserializer::from_slice(&output.stdout);
    let documents = documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML"));
    documents.filter(|document: &Json| !document.is_null()).collect()
}

fn of_kind<'a>(objects: &'a [Json], kind: &str) -> impl Iterator<Item = &'a Json> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn toml(objects: &[Json]) -> &str {
    of_kind(objects, "ConfigMap")
        .find_map(|map| map["data"]["config.toml"].as_str())
        .expect("a configuration")
}

/// The pods' specifications, by component.
fn pods(objects: &[Json]) -> BTreeMap<&str, &Json> {
    let pods = of_kind(objects, "Deployment").map(|it| at(it, "/spec/template/spec"));
    let pods = pods.chain(of_kind(objects, "Pod").map(|it| &it["spec"]));
    pods.map(|pod| (text(pod, "/containers/0/name"), pod)).collect()
}

/// Where the pods have their configuration.
const CONFIG: &str = "/etc/attio-bridge/config.toml";

/// The mounted files that a text names, made; what a pod would see, for a program that runs here.
struct Mounted {
    setup: Setup,
    certificates: Certificates,
}

impl Mounted {
    fn new() -> Self {
        Self { setup: Setup::empty(), certificates: Certificates::make() }
    }

    /// The text with the paths of those files; each must be below a volume of the pod.
    fn here(&self, text: &str, container: &Json) -> String {
        let mounts: Vec<_> = list(&container["volumeMounts"]).iter().map(|it| &it["mountPath"]).collect();
        let mut text = text.to_owned();
        while let Some(start) = text.find("/run/secrets/") {
            let length = text[start..].find('"').unwrap_or(text.len() - start);
            let path = &text[start..start + length];
            let (folder, file) = path.rsplit_once('/').expect("a path has a folder");
            assert!(mounts.contains(&&json!(folder)), "{path} is in no volume");
            let made = match file {
                "ca.crt" => self.certificates.path("ca.pem"),
                "tls.crt" => self.certificates.path("client.pem"),
                "tls.key" => self.certificates.path("client.key"),
                secret => self.setup.write(secret, SECRET),
            };
            text.replace_range(start..start + length, &made.display().to_string());
        }
        text
    }

    /// The variables of a container of these objects, its configuration among them.
    fn variables(&self, objects: &[Json], container: &Json) -> Vec<(String, String)> {
        let config = self.setup.write("config.toml", self.here(toml(objects), container));
        let value = |it: &Json| match text(it, "/value") {
            CONFIG => {
                assert_eq!(named(&container["volumeMounts"], "config")["mountPath"], "/etc/attio-bridge");
                config.display().to_string()
            }
            value => self.here(value, container),
        };
        list(&container["env"]).iter().map(|it| (text(it, "/name").to_owned(), value(it))).collect()
    }
}

#[test]
fn every_pod_has_a_configuration_that_the_program_accepts() {
    let mounted = Mounted::new();
    for (name, file) in files() {
        let objects = rendered(&file);
        for (component, pod) in pods(&objects) {
            let container = &pod["containers"][0];
            let arguments = words(&container["args"]);
            assert_accepted(&arguments);
            assert_eq!(named(&container["env"], "ATTIO_BRIDGE_CONFIG")["value"], CONFIG);
            let variables = mounted.variables(&objects, container);
            let output = run_bare(&["check", "--strict"], &lent(&variables));
            assert_eq!(output.status.code(), Some(0), "{name}, {component}: {output:?}");
        }
    }
}

#[test]
fn pods_match_their_configuration_and_the_objects_beside_them() {
    let mounted = Mounted::new();
    for (name, file) in files() {
        let objects = rendered(&file);
        let pods = pods(&objects);
        let bridge = pods["bridge"];
        let variables = mounted.variables(&objects, &bridge["containers"][0]);
        let variables = variables.into_iter().filter(|(name, _)| name != "ATTIO_BRIDGE_CONFIG");
        let setup = variables.fold(Setup::empty(), |setup, (name, value)| setup.var(&name, value));
        let config = setup.toml(&mounted.here(toml(&objects), &bridge["containers"][0])).config();
        let ports = &bridge["containers"][0]["ports"];
        assert_eq!(named(ports, "http")["containerPort"], port(&config.http.listen), "{name}");
        assert_eq!(named(ports, "admin")["containerPort"], port(&config.admin.listen), "{name}");
        let grace = stop_time(&config).as_millis().div_ceil(1000) as u64;
        for (component, pod) in &pods {
            assert_restricted(pod);
            assert_eq!(pod["terminationGracePeriodSeconds"], grace, "{name}, {component}");
        }

        let labels: Vec<_> =
            of_kind(&objects, "Deployment").map(|it| at(it, "/spec/template/metadata/labels")).collect();
        let selectors = objects.iter().flat_map(|object| {
            let spec = &object["spec"];
            let plain = spec["selector"].as_object().filter(|_| object["kind"] == "Service");
            let found =
                [spec["selector"]["matchLabels"].as_object(), spec["podSelector"]["matchLabels"].as_object()];
            let found = found.into_iter().chain([plain]).flatten();
            found.map(move |selector| (text(object, "/kind"), selector))
        });
        for (kind, selector) in selectors.filter(|(kind, _)| *kind != "ServiceMonitor") {
            let chosen =
                labels.iter().filter(|labels| selector.iter().all(|(key, value)| &labels[key] == value));
            assert_eq!(chosen.count(), 1, "{name}: {kind} selects by {selector:?}");
        }
    }
}

/// Whole numbers from a million up are read as floating point by Helm, which would print them as 6.7108864e+07.
#[test]
fn values_reach_the_configuration_unchanged() {
    let objects = rendered(&files()["nats-values"]);
    let toml: toml::Table = toml(&objects).parse().expect("it is TOML");
    let values: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(include_str!("../../deploy/chart/ci/nats-values.yaml")).unwrap();
    let given: Json = serde_json::to_value(&values["config"]).unwrap();
    let written = serde_json::to_value(toml).unwrap();
    assert_eq!(written["http"]["max_in_flight_bytes"], json!(67108864));
    assert_contains(&written, &given);
}

/// Every member of `part` is in `whole`.
#[track_caller]
fn assert_contains(whole: &Json, part: &Json) {
    match part {
        Json::Object(members) => members.iter().for_each(|(key, value)| assert_contains(&whole[key], value)),
        other => assert_eq!(whole, other),
    }
}

#[test]
fn alerts_of_a_workload_are_there_where_it_runs() {
    for (file, watch, state) in
        [("tokens-values", true, false), ("scaled-values", false, true), ("nats-values", true, true)]
    {
        let objects = rendered(&files()[file]);
        let rule = of_kind(&objects, "PrometheusRule").next().expect("a rule");
        let groups: Vec<_> =
            list(at(rule, "/spec/groups")).iter().map(|group| text(group, "/name")).collect();
        assert!(groups.contains(&"attio-bridge"), "{file}");
        assert_eq!(groups.contains(&"attio-bridge-watch"), watch, "{file}");
        assert_eq!(groups.contains(&"attio-bridge-state"), state, "{file}");
    }
}

/// The ports, beside those of DNS, to which a NetworkPolicy lets each workload connect.
#[test]
fn network_policies_allow_what_the_configuration_names() {
    const DNS: [u64; 2] = [53, 53];
    let open = |file: &str, set: &str| -> BTreeMap<String, Vec<u64>> {
        let objects = rendered_with(&files()[file], set);
        let ports = |policy: &Json| {
            let rules = list(at(policy, "/spec/egress")).iter().flat_map(|rule| list(&rule["ports"]));
            let mut ports: Vec<_> = rules.map(|port| port["port"].as_u64().expect("a number")).collect();
            assert_eq!(ports.drain(..2).collect::<Vec<_>>(), DNS);
            ports.sort_unstable();
            ports
        };
        let workload =
            |policy: &Json| text(policy, "/metadata/labels/app.kubernetes.io~1component").to_owned();
        of_kind(&objects, "NetworkPolicy").map(|policy| (workload(policy), ports(policy))).collect()
    };
    let expected = |ports: &[(&str, &[u64])]| -> BTreeMap<String, Vec<u64>> {
        ports.iter().map(|(workload, ports)| ((*workload).to_owned(), ports.to_vec())).collect()
    };
    // Kafka, the token server, the dedup store, the collector; Attio.
    let tokens = expected(&[("bridge", &[443, 4222, 4318, 9093]), ("watch", &[443])]);
    assert_eq!(open("tokens-values", ""), tokens);
    // NATS once, the collector at the port of https, and a rule of the values.
    let nats = [("bridge", &[443, 4222, 6379][..]), ("state", &[443, 4222, 6379]), ("watch", &[443, 6379])];
    assert_eq!(open("nats-values", ""), expected(&nats));
    let msk = "networkPolicy.enabled=true,config.kafka.sasl_mechanism=OAUTHBEARER,\
               config.kafka.oauth.provider=aws-msk-iam,config.traces.endpoint=http://collector/otlp";
    assert_eq!(open("kafka-values", msk), expected(&[("bridge", &[80, 443, 9092])]));
    let bare =
        "networkPolicy.enabled=true,state.enabled=true,config.attio.api_url=https://a.example.com:8443/x";
    let bare = open("kafka-values", bare);
    assert_eq!(bare, expected(&[("bridge", &[9092]), ("state", &[8443, 9092])]));
}

/// With the variables of the pod, and its working folder, which is the only one that it can write to.
#[test]
fn backfill_runs_in_the_pod_of_state_as_the_readme_says() {
    let (_, typed) =
        README.split_once("kubectl exec deploy/hooks-attio-bridge-state -- attio-bridge ").unwrap();
    let typed: Vec<_> = typed.split('`').next().unwrap().split_whitespace().collect();
    assert_eq!(typed, ["state", "backfill"]);
    // One server, without TLS.
    let here = "tls.secretName=,tls.clientCertificate=false,config.nats.stream.replicas=1,\
                config.bus.content_mode=structured";
    let objects = rendered_with(&files()["nats-values"], here);
    let pod = pods(&objects)["state"];
    let container = &pod["containers"][0];
    let mut mounts = list(&container["volumeMounts"]).iter().filter(|mount| mount["readOnly"] != true);
    let work = mounts.next().expect("a folder that can be written to");
    assert_eq!((&work["mountPath"], mounts.next()), (&container["workingDir"], None));
    assert_eq!(named(&pod["volumes"], text(work, "/name"))["emptyDir"], json!({}));

    let (scene, mounted) = (Scene::nats(), Mounted::new());
    let variables = mounted.variables(&objects, container);
    mounted.setup.write("attio-api-key", KEY);
    let people: Vec<_> = (0..3).map(|number| scene.person(&format!("person {number}"))).collect();
    // Broker and Attio are elsewhere here, and the stream is to be made.
    let here = scene.variables.iter().filter(|(name, _)| name != "ATTIO_API_KEY").cloned();
    let all: Vec<_> = variables.into_iter().chain(here).collect();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("attio-bridge-backfill.json");
    let mut backfill = command(&typed, &lent(&all));
    backfill.current_dir(folder.path());
    fs::create_dir(&journal).unwrap();
    let refused = backfill.output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot write the journal"), "{refused:?}");
    fs::remove_dir(&journal).unwrap();
    let output = backfill.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(scene.kept().len(), people.len());
    assert!(!journal.exists());
}

/// See `deploy/docs/state.md`, "Known limits".
#[test]
fn whoever_reads_kafka_is_kept_from_crashing() {
    let tuned = |file: &str, component: &str| {
        let objects = rendered(&files()[file]);
        let environment = pods(&objects)[component]["containers"][0]["env"].to_string();
        environment.contains(r#"{"name":"GLIBC_TUNABLES","value":"glibc.malloc.perturb=255"}"#)
    };
    assert!(tuned("scaled-values", "state"));
    assert!(!tuned("scaled-values", "bridge"));
}

#[test]
fn wrong_values_are_refused_with_the_value_at_fault() {
    let kafka = files()["kafka-values"].clone();
    for (set, said) in [
        ("config.http.max_body_bytes=many", "at '/config/http/max_body_bytes': got string, want integer"),
        ("config.htp.listen=x", "at '/config': additional properties 'htp' not allowed"),
        ("config.bus.type=rabbit", "at '/config/bus/type'"),
        ("config.bus.type=nats", "config.nats.servers: name the servers"),
        ("config.kafka.bootstrap_servers=", "config.kafka.bootstrap_servers"),
        ("config.shutdown.delay=1day", "config.shutdown: the chart cannot add up a duration in \"day\""),
        ("config.dedup.capacity=8640000", "resources.limits.memory: 256Mi is too little for 8640000 ids"),
        ("image.tagg=1", "at '/image': additional properties 'tagg' not allowed"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("autoscaling.enabled=true,autoscaling.minReplicas=20", "autoscaling.minReplicas: 20 is more than"),
        (
            "autoscaling.enabled=true,resources.requests.cpu=null",
            "resources.requests.cpu: autoscaling needs it",
        ),
        ("ingress.enabled=true", "ingress.host: name the host"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs: name a Gateway"),
        ("externalSecrets.enabled=true", "externalSecrets.storeName: name the store"),
        ("tls.clientCertificate=true", "tls.secretName: name the Secret"),
        ("watch.enabled=true", "config.webhooks: watch needs at least one"),
        (
            "state.enabled=true,config.kafka.sasl_mechanism=oauthbearer",
            "state.enabled: state cannot log in with OAUTHBEARER",
        ),
        ("env.NUMBER=1", "at '/env/NUMBER': got number, want string"),
    ] {
        let output = helm(&["--values", &kafka, "--set", set]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(said), "{set}: {errors}");
    }
    let output = helm(&[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("config.bus.type: set it to kafka or nats"),
        "{errors}"
    );
}

/// The values with a comment, each with its default and the comment. What is below one of them has no row.
fn documented() -> Vec<(String, String, String)> {
    let values: Json = serde_yaml_ng::from_str(VALUES).expect("it is YAML");
    let (mut rows, mut comment): (Vec<(String, String, String)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut path: Vec<&str> = Vec::new();
    // The indentation of the last row, which lines below it exceed.
    let mut covered = usize::MAX;
    for line in VALUES.lines().skip_while(|line| !line.is_empty()) {
        let indentation = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("# "), line.trim_start().split_once(':')) {
            _ if line.is_empty() || indentation > covered => {}
            (Some(part), _) => comment.push(part),
            (None, Some((key, _))) => {
                covered = usize::MAX;
                path.truncate(indentation / 2);
                path.push(key);
                let name = path.join(".");
                let default = at(&values, &format!("/{}", path.join("/")));
                if comment.is_empty() {
                    assert!(default.as_object().is_some_and(|it| !it.is_empty()), "{name} has no comment");
                    continue;
                }
                covered = indentation;
                let shown = default.to_string();
                let shown =
                    if shown.len() > 80 { "[values.yaml](values.yaml)".into() } else { format!("`{shown}`") };
                rows.push((name, shown, comment.join(" ")));
                comment.clear();
            }
            (None, None) => panic!("neither comment nor value: {line}"),
        }
    }
    rows
}

#[test]
fn readme_lists_every_value() {
    let head = README.find("|---|---|---|\n").expect("the table's head") + "|---|---|---|\n".len();
    let row = |(name, default, comment)| format!("| `{name}` | {default} | {comment} |\n");
    let table: String = documented().into_iter().map(row).collect();
    let expected = format!("{}{table}", &README[..head]);
    assert_eq!(snapshot::compare(&chart().join("README.md"), &expected), None);
}
