//! `contract`: what it prints, against the catalog, against official tools, and against what the bridge publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use attio_bridge::catalog::EVENT_TYPES;
use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::kafka::shared as kafka;
use crate::support::nats::shared as nats;
use crate::support::program::{Variables, printed, run_bare, variables};
use crate::support::request::Request;
use crate::support::watched::kit;
use crate::support::{fixtures, real_bus, snapshot, unique};

const BASE_URL: &str = "https://schemas.example.com/attio";

/// A bus, without a broker.
fn configuration(bus: &str, mode: &str) -> Variables {
    let pairs = [
        ("BUS__TYPE", bus),
        ("BUS__CONTENT_MODE", mode),
        ("CONTRACT__BASE_URL", BASE_URL),
        ("ROUTE__PREFIX", "acme.crm"),
        ("ROUTE__CATEGORIES__RECORD", "records"),
    ];
    let servers = match bus {
        "kafka" => variables(&[
            ("KAFKA__BOOTSTRAP_SERVERS", "a:9092, b:9092"),
            ("KAFKA__TOPICS__PARTITIONS", "6"),
            ("KAFKA__SECURITY_PROTOCOL", "SASL_SSL"),
            ("KAFKA__SASL_MECHANISM", "SCRAM-SHA-512"),
            ("KAFKA__SASL_USERNAME", "the-user"),
            ("KAFKA__SASL_PASSWORD", "the-password"),
        ]),
        "nats" => variables(&[("NATS__SERVERS", "nats://a:4222,tls://b:4222")]),
        _ => Vec::new(),
    };
    [variables(&pairs), servers].concat()
}

fn with_base_url() -> Variables {
    variables(&[("CONTRACT__BASE_URL", &format!("{BASE_URL}/"))])
}

fn parsed(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Every schema that is written with these variables, by its file name without `.json`.
fn schemas(variables: &Variables) -> Map<String, Json> {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("schemas");
    printed(&["contract", "schema", "--to", to.to_str().unwrap()], variables);
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".json").unwrap().to_owned();
        (name, parsed(&fs::read_to_string(path).unwrap()))
    };
    fs::read_dir(to).unwrap().map(file).collect()
}

/// What a tool prints for an input.
fn tool(program: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: run tests/install.sh once", program.display()));
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract"))
}

/// Runs `check.mjs`, which finds its modules beside it.
fn node(arguments: &[&str], given: &Json) -> Vec<Json> {
    let modules = kit("contract/installed.txt").join("contract");
    let folder = TempDir::new_in(modules).unwrap();
    let script = folder.path().join("check.mjs");
    fs::copy(sources().join("check.mjs"), &script).unwrap();
    let arguments = [&[script.to_str().unwrap()], arguments].concat();
    let output = tool(&kit("node.version").join("node/bin/node"), &arguments, &given.to_string());
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn python(check: &str, given: &Json) -> Vec<Json> {
    let python = kit("contract/installed.txt").join("contract/python/bin/python");
    let script = sources().join("check.py");
    let output = tool(&python, &[script.to_str().unwrap(), check], &given.to_string());
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The envelopes of all fixtures and of one quarantined delivery, as a real Kafka stores them.
async fn published() -> Vec<Json> {
    let (broker, prefix) = (kafka(), unique("contract"));
    let variables = [real_bus::kafka(&broker, &prefix, "structured"), with_base_url()].concat();
    let bridge = real_bus::bridge(&variables).await;
    for (name, body) in fixtures::deliveries() {
        assert_eq!(bridge.ask(&Request::keyed(&name, body)).await.status, 200, "{name}");
    }
    assert_eq!(bridge.ask(&Request::keyed("quarantined", "no JSON")).await.status, 200);
    let rows = parsed(&printed(&["contract", "events", "--json"], &variables));
    let mut topics: BTreeSet<_> =
        rows.as_array().unwrap().iter().map(|row| row["topic"].as_str().unwrap().to_owned()).collect();
    topics.extend(["unknown", "quarantine"].map(|name| format!("{prefix}.{name}")));
    let records = topics.iter().flat_map(|topic| broker.read_all(topic));
    let envelopes: Vec<_> = records.map(|record| parsed(record.value())).collect();
    assert!(envelopes.len() > 70, "{}", envelopes.len());
    envelopes
}

fn document(schema: &str, value: Json) -> Json {
    json!({ "schema": schema, "value": value })
}

/// Each envelope with the schema that it must meet, and its data with the schema that it names.
fn documents(envelopes: &[Json]) -> Vec<Json> {
    let mut documents = Vec::new();
    for envelope in envelopes {
        if envelope["type"] == "dev.attio-bridge.delivery.quarantined" {
            documents.push(document("quarantine", envelope.clone()));
            continue;
        }
        documents.push(document("envelope", envelope.clone()));
        let event_type = envelope["data"]["event_type"].as_str().unwrap();
        let known = EVENT_TYPES.iter().any(|entry| entry.name == event_type);
        let url = known.then(|| format!("{BASE_URL}/{event_type}.json"));
        assert_eq!(envelope.get("dataschema"), url.map(Json::from).as_ref(), "{envelope}");
        if known {
            documents.push(document(event_type, envelope["data"].clone()));
        }
    }
    documents
}

/// The document without each member that its schema requires, and with each format violated: none of them is valid.
fn broken(documents: &[Json]) -> Vec<Json> {
    let mut broken = Vec::new();
    let fixture = fixtures::json("catalog.json");
    for listed in fixture["events"].as_array().unwrap() {
        let name = listed["event_type"].as_str().unwrap();
        let of_type = |document: &&Json| document["schema"] == name;
        for given in documents.iter().filter(of_type).map(|document| &document["value"]) {
            let mut replaced = |path: &str, by: Option<&str>| {
                let mut value = given.clone();
                let (parent, member) = path.rsplit_once('/').unwrap();
                let parent = value.pointer_mut(parent).and_then(Json::as_object_mut).unwrap();
                assert!(parent.remove(member).is_some(), "{name}: {path}");
                parent.extend(by.map(|text| (member.to_owned(), json!(text))));
                broken.push(document(name, value));
            };
            let texts = |place: &str| listed[place].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
            let ids = texts("id_fields").map(|id| format!("/id/{id}"));
            let paths: Vec<_> = match given["id"].get("event_id") {
                Some(_) => vec!["/created_at".to_owned()],
                None => ids.chain(texts("extra_fields").map(|id| format!("/{id}"))).collect(),
            };
            for path in paths {
                replaced(&path, None);
                replaced(&path, Some("neither an id nor a time"));
            }
            replaced(if given["id"].get("event_id").is_some() { "/id/event_id" } else { "/actor" }, None);
        }
    }
    for (schema, member, wrong) in [
        ("envelope", "time", "2026-11-24"),
        ("envelope", "source", "attio"),
        ("envelope", "type", "com.attio."),
        ("envelope", "partitionkey", ""),
        ("envelope", "data", "{}"),
        ("quarantine", "data_base64", "no base64"),
        ("quarantine", "type", "com.attio.record.created"),
    ] {
        let mut one = documents.iter().find(|document| document["schema"] == schema).unwrap().clone();
        one["value"][member] = json!(wrong);
        broken.push(one.clone());
        one["value"].as_object_mut().unwrap().remove(member);
        broken.push(one);
    }
    broken
}

#[test]
fn events_are_those_of_the_catalog_with_the_configured_addresses() {
    let variables = configuration("kafka", "structured");
    let rows = parsed(&printed(&["contract", "events", "--json"], &variables));
    let rows: BTreeMap<&str, &Json> =
        rows.as_array().unwrap().iter().map(|row| (row["type"].as_str().unwrap(), row)).collect();
    let listed = fixtures::json("catalog.json");
    assert_eq!(rows.len(), listed["events"].as_array().unwrap().len());
    for event in listed["events"].as_array().unwrap() {
        let row = rows[event["event_type"].as_str().unwrap()];
        let topic = match event["category"].as_str().unwrap() {
            "record" => "records".to_owned(),
            category => format!("acme.crm.{category}"),
        };
        let key = event["partition_key"].as_str().unwrap().trim_matches(['{', '}']).trim_start_matches("id.");
        let subject = format!("{topic}.{}", event["action"].as_str().unwrap());
        let expected = json!({
            "type": event["event_type"], "category": event["category"], "action": event["action"],
            "topic": topic, "subject": subject, "key": key, "ids": event["id_fields"],
        });
        assert_eq!(*row, expected);
    }
    let table = printed(&["contract", "events"], &variables);
    assert_eq!(table.lines().count(), rows.len() + 1);
    assert!(table.contains("records.updated"), "{table}");
}

#[test]
fn there_is_a_schema_for_every_type_and_all_of_them_are_committed() {
    let schemas = schemas(&with_base_url());
    let mut names: BTreeSet<&str> = EVENT_TYPES.iter().map(|entry| entry.name).collect();
    names.extend(["envelope", "quarantine"]);
    assert_eq!(schemas.keys().map(String::as_str).collect::<BTreeSet<_>>(), names);
    let folder = snapshot::folder("contract");
    let mut changed = Vec::new();
    for (name, schema) in &schemas {
        assert_eq!(schema["$id"], format!("{BASE_URL}/{name}.json"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_open(name, schema);
        let one = printed(&["contract", "schema", name], &with_base_url());
        assert_eq!(parsed(&one), *schema);
        changed.extend(snapshot::compare(&folder.join(format!("{name}.json")), &one));
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), names.len(), "a file is of no schema");
    let plain = parsed(&printed(&["contract", "schema"], &Vec::new()));
    assert_eq!((plain.get("$id"), &plain["title"]), (None, &json!("Attio event")));
}

/// Whether every object that declares members allows others, and every format has a pattern.
fn assert_open(name: &str, schema: &Json) {
    let Json::Object(members) = schema else { return };
    if members.contains_key("format") {
        assert!(members.contains_key("pattern"), "{name}: {schema}");
    }
    assert_ne!(members.get("additionalProperties"), Some(&json!(false)), "{name}: {schema}");
    if let Some(Json::Object(properties)) = members.get("properties") {
        let of_form = members.get("title").is_some_and(|title| title.as_str().unwrap().ends_with(" form"));
        assert!(of_form || members.get("additionalProperties") == Some(&json!(true)), "{name}: {schema}");
        properties.values().for_each(|schema| assert_open(name, schema));
    }
    members
        .get("anyOf")
        .into_iter()
        .flat_map(|forms| forms.as_array().unwrap())
        .for_each(|s| assert_open(name, s));
}

#[test]
fn an_unknown_type_is_refused_with_the_one_that_was_meant() {
    let output = run_bare(&["contract", "schema", "record.update"], &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), b"".as_slice()));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("did you mean \"record.updated\"?"),
        "{output:?}"
    );
    let output = run_bare(&["contract", "schema", "--to", "/dev/null/x"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = run_bare(&["contract", "asyncapi"], &[]);
    assert_eq!(output.status.code(), Some(78), "a bus is required: {output:?}");
    for url in ["ftp://a", "https://", "https://a/?b", "https://a/b c", "https://user:secret@a"] {
        let output = run_bare(&["contract", "events"], &[("ATTIO_BRIDGE__CONTRACT__BASE_URL", url)]);
        assert_eq!(output.status.code(), Some(78), "{url}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("contract.base_url"), "{url}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_published_fixture_meets_its_schema_and_types_generated_from_it() {
    let schemas = schemas(&with_base_url());
    let envelopes = published().await;
    let documents = documents(&envelopes);
    let valid = json!({ "schemas": schemas, "documents": documents });
    let broken = broken(&documents);
    assert!(broken.len() > 300, "{}", broken.len());
    let invalid = json!({ "schemas": schemas, "documents": broken });
    for (name, found) in [("ajv", node(&["validate"], &valid)), ("jsonschema", python("validate", &valid))] {
        assert_eq!(found.len(), documents.len(), "{name}");
        for (document, errors) in documents.iter().zip(found) {
            assert_eq!(errors, json!([]), "{name}: {document}");
        }
    }
    for (name, found) in
        [("ajv", node(&["validate"], &invalid)), ("jsonschema", python("validate", &invalid))]
    {
        assert_eq!(found.len(), broken.len(), "{name}");
        for (document, errors) in broken.iter().zip(found) {
            assert_ne!(errors, json!([]), "{name} accepts {document}");
        }
    }
    let of_cloudevents = node(&["cloudevents"], &json!({ "documents": envelopes }));
    assert!(of_cloudevents.iter().all(|errors| *errors == json!([])), "{of_cloudevents:?}");

    let folder = tempfile::tempdir().unwrap();
    let types = ["types", folder.path().to_str().unwrap()];
    assert_eq!(node(&types, &valid), Vec::<Json>::new(), "TypeScript");
    let mistyped =
        json!({ "schemas": schemas, "documents": [document("task.created", json!({ "event_type": 1 }))] });
    assert_eq!(node(&types, &mistyped).len(), 1, "tsc refuses another document");
    for (document, errors) in documents.iter().zip(python("types", &valid)) {
        assert_eq!(errors, json!([]), "Python: {document}");
    }
    for (document, written) in documents.iter().zip(go(&schemas, &documents)) {
        assert_eq!(written, comparable(&document["value"]), "Go: {document}");
    }
}

/// What each document is after types that a generator for Go made have read and written it.
fn go(schemas: &Map<String, Json>, documents: &[Json]) -> Vec<Json> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for file in ["go.mod", "go.sum", "main.go"] {
        fs::copy(sources().join("go").join(file), path(file)).unwrap();
    }
    let mut arguments =
        vec!["-p".to_owned(), "main".into(), "-o".into(), path("types.go").display().to_string()];
    let mut types = String::from("package main\n\nvar types = map[string]func() any{\n");
    for (name, schema) in schemas {
        let file = path(&format!("{name}.json"));
        fs::write(&file, schema.to_string()).unwrap();
        arguments.push(file.display().to_string());
        let word = |word: &str| word[..1].to_uppercase() + &word[1..];
        let words: String = name.split(['.', '-']).map(word).collect();
        types += &format!("\"{name}\": func() any {{ return new({words}Json) }},\n");
    }
    fs::write(path("names.go"), types + "}\n").unwrap();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    tool(&kit("contract/installed.txt").join("contract/go-jsonschema"), &arguments, "");
    let program = path("program");
    let built =
        Command::new("go").args(["build", "-o"]).arg(&program).current_dir(folder.path()).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let lines: String = documents.iter().map(|document| format!("{document}\n")).collect();
    let output = String::from_utf8(tool(&program, &[], &lines).stdout).unwrap();
    output.lines().map(|line| comparable(&parsed(line))).collect()
}

/// The value without nulls, with times as times (Go writes `.660Z` as `.66Z`), and with the unknown members of a Go
/// type among the others.
fn comparable(value: &Json) -> Json {
    let Json::Object(members) = value else {
        let time = value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        return time.map_or_else(|| value.clone(), |time| json!(time.unix_timestamp_nanos().to_string()));
    };
    let mut out = Map::new();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        match comparable(value) {
            Json::Object(unknown) if name == "AdditionalProperties" => out.extend(unknown),
            value => drop(out.insert(name.clone(), value)),
        }
    }
    out.into()
}

#[test]
fn asyncapi_documents_are_valid_and_each_message_has_a_valid_example() {
    let configurations: Vec<_> = ["kafka", "nats", "stdout"]
        .into_iter()
        .flat_map(|bus| ["structured", "binary"].map(|mode| (bus, mode, configuration(bus, mode))))
        .collect();
    let json =
        |(_, _, variables): &(&str, &str, Variables)| printed(&["contract", "asyncapi", "--json"], variables);
    let yaml = |(_, _, variables): &(&str, &str, Variables)| printed(&["contract", "asyncapi"], variables);
    let documents: Vec<String> = configurations.iter().map(json).collect();
    let texts: Vec<String> = configurations.iter().map(yaml).collect();
    for (of_yaml, text) in python("yaml", &json!({ "documents": texts })).iter().zip(&documents) {
        assert_eq!(*of_yaml, parsed(text), "YAML and JSON are the same document");
    }
    let mut expected: BTreeMap<&str, Json> = EVENT_TYPES.iter().map(|entry| (entry.name, json!(1))).collect();
    expected.extend([("other", json!(1)), ("quarantine", json!(1))]);
    let results = node(&["asyncapi"], &json!({ "documents": texts }));
    assert_eq!(results.len(), 6);
    for ((bus, mode, variables), (result, text)) in configurations.iter().zip(results.iter().zip(&documents))
    {
        assert_eq!(result["errors"], json!([]), "{bus} {mode}");
        assert_eq!(result["messages"], json!(expected), "{bus} {mode}");
        let member = if *bus == "nats" { "subject" } else { "topic" };
        let rows = parsed(&printed(&["contract", "events", "--json"], variables));
        for row in rows.as_array().unwrap() {
            assert!(result["addresses"].as_array().unwrap().contains(&row[member]), "{bus}: {row}");
        }
        assert!(!text.contains("the-password") && !text.contains("the-user"), "{bus}");
        let document = parsed(text);
        let merged = &document["components"]["messages"]["record.merged"];
        let example = &merged["examples"][0];
        let binary = *mode == "binary" && *bus != "stdout";
        let (payload, content_type) = match binary {
            true => (&example["payload"], "application/json"),
            false => (&example["payload"]["data"], "application/cloudevents+json; charset=utf-8"),
        };
        assert_eq!(
            (&payload["event_type"], &merged["contentType"]),
            (&json!("record.merged"), &json!(content_type))
        );
        let url = format!("{BASE_URL}/record.merged.json");
        let (header, prefix) = match *bus {
            "nats" => ("Content-Type", "ce-"),
            _ => ("content-type", "ce_"),
        };
        match binary {
            true => assert_eq!(example["headers"][format!("{prefix}dataschema")], url, "{bus}"),
            false => assert_eq!(example["payload"]["dataschema"], url, "{bus}"),
        }
        match *bus {
            "stdout" => assert_eq!(document.get("servers"), None),
            "kafka" => {
                assert_eq!(example["headers"][header], content_type);
                assert_eq!(document["servers"]["kafka-secure-2"]["host"], "b:9092");
                assert_eq!(document["components"]["securitySchemes"]["login"]["type"], "scramSha512");
                assert_eq!(document["channels"]["records"]["bindings"]["kafka"]["partitions"], 6);
            }
            _ => {
                assert_eq!(example["headers"]["Nats-Expected-Stream"], "ATTIO");
                assert_eq!(document["servers"]["nats-2"]["host"], "b:4222");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dataschema_is_a_header_in_binary_mode_on_both_buses() {
    let (broker, server, prefix) = (kafka(), nats(), unique("dataschema"));
    let stream = prefix.replace('.', "-");
    let body = fixtures::delivery("record.merged");
    let buses =
        [real_bus::kafka(&broker, &prefix, "binary"), real_bus::nats(&server, &stream, &prefix, "binary")];
    for variables in buses {
        let bridge = real_bus::bridge(&[variables, with_base_url()].concat()).await;
        for body in [body.as_slice(), &fixtures::delivery("edge/unknown-event-type")] {
            assert_eq!(bridge.ask(&Request::signed(body)).await.status, 200);
        }
    }
    let url = format!("{BASE_URL}/record.merged.json");
    let records = [("record", Some(&*url)), ("unknown", None)];
    for (category, expected) in records {
        let record = broker.read_all(&format!("{prefix}.{category}")).remove(0);
        assert_eq!(record.header("ce_dataschema"), expected);
    }
    let stored = server.read_all(&stream);
    let headers: Vec<_> = stored.iter().map(|message| message.header("ce-dataschema")).collect();
    assert_eq!(headers, [Some(&*url), None]);
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_shows_every_type() {
    for bus in ["kafka", "nats", "stdout"] {
        let page = printed(&["contract", "html"], &configuration(bus, "structured"));
        for entry in EVENT_TYPES {
            let heading = format!("<section id=\"{0}\">\n<h2>{0}</h2>", entry.name);
            assert!(page.contains(&heading), "{bus}: {}", entry.name);
            assert!(page.contains(&format!("<a href=\"{BASE_URL}/{}.json\">", entry.name)), "{bus}");
        }
        for part in
            ["<h2>Envelope</h2>", "<h2>Quarantine</h2>", "prefers-color-scheme: dark", "acme.crm.quarantine"]
        {
            assert!(page.contains(part), "{bus}: {part}");
        }
        for part in ["<script", "<link", "<img", "@import", "url(", "the-password"] {
            assert!(!page.contains(part), "{bus}: {part}");
        }
        let opened = page.matches("<details>").count();
        assert_eq!((opened, page.matches("</details>").count()), (2 * (EVENT_TYPES.len() + 2), opened));
    }
}
