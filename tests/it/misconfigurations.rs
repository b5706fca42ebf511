//! Mistakes that operators make, each with what `check` says: what is wrong, where, and what to do. One mistake is
//! one message.

use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use crate::setup::SECRET;
use crate::support::program::run_bare;

const STDOUT: &str = "[bus]\ntype = \"stdout\"\n";
const KAFKA: &str = "[bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_servers = \"k:9092\"\n";
const SASL: &str =
    "security_protocol = \"sasl_plaintext\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"\n";

/// The output of `check` for a file and variables: its exit code, and its messages without the folder. `FOLDER` in
/// both is the folder that the files are in.
fn check(folder: &Path, name: &str, file: &str, variables: &[(&str, &str)]) -> (i32, Vec<String>) {
    let here = folder.display().to_string();
    let path = folder.join(name);
    std::fs::write(&path, file.replace("FOLDER", &here)).expect("a written file");
    let values: Vec<_> =
        variables.iter().map(|(name, value)| (*name, value.replace("FOLDER", &here))).collect();
    let mut all: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if !variables.iter().any(|(name, _)| ["ATTIO_WEBHOOK_SECRET", "ATTIO_WEBHOOK_SECRET_FILE"].contains(name))
    {
        all.push(("ATTIO_WEBHOOK_SECRET", SECRET));
    }
    let output = run_bare(&["check", "--config", path.to_str().expect("UTF-8")], &all);
    let text = String::from_utf8(output.stderr).expect("UTF-8").replace(&format!("{here}/"), "");
    let messages =
        text.lines().filter(|line| !line.starts_with("error: ")).map(|line| line.trim().to_owned());
    (output.status.code().expect("an exit code"), messages.collect())
}

/// Asserts that the one message has all of these parts, and names its place.
#[track_caller]
fn assert_told(mistake: &str, messages: &[String], parts: &[&str]) {
    assert_eq!(messages.len(), 1, "{mistake}: {messages:#?}");
    let message = &messages[0];
    for part in parts {
        assert!(message.contains(part), "{mistake}: {part:?} is not in {message:?}");
    }
    let places = ["(file ", "(environment ", "(flag ", "(not set)"];
    assert!(places.iter().any(|place| message.contains(place)), "{mistake}: no place in {message:?}");
    assert!(!message.contains("os error") && !message.contains("(syntax)"), "{mistake}: {message:?}");
}

#[test]
fn each_mistake_in_the_file_is_one_message_with_place_and_remedy() {
    let line = |text: &str| format!("{STDOUT}{text}\n");
    let kafka = |text: &str| format!("{KAFKA}{text}\n");
    let secrets = |text: &str| line(&format!("[sources.crm]\nsecrets = [{text}]"));
    let good = format!("{{ label = \"a\", value = \"{SECRET}\" }}");
    let webhook = |source: &str, url: &str| {
        line(&format!(
            "[[webhooks]]\nname = \"w\"\nsource = \"{source}\"\ntarget_url = \"{url}\"\n\
             subscriptions = [{{ event_type = \"note.created\" }}]"
        ))
    };
    let table: Vec<(&str, String, &[&str])> = vec![
        (
            "typo in a key",
            "[bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_server = \"k:9092\"\n".into(),
            &["kafka.bootstrap_server: unknown key; did you mean `kafka.bootstrap_servers`?", "config.toml:4"],
        ),
        (
            "typo in a section",
            "[bus]\ntype = \"kafka\"\n[kafak]\nbootstrap_servers = \"k:9092\"\n".into(),
            &["kafak: unknown key; did you mean `kafka`?", "config.toml:3"],
        ),
        (
            "key at the top level",
            "bootstrap_servers = \"k:9092\"\n[bus]\ntype = \"kafka\"\n".into(),
            &["bootstrap_servers: unknown key; did you mean `kafka.bootstrap_servers`?", "config.toml:1"],
        ),
        ("typo in `type`", "[bus]\ntipe = \"stdout\"\n".into(), &["bus.tipe: ", "`bus.type`", "config.toml:2"]),
        ("typo in [bus]", "[buss]\ntype = \"stdout\"\n".into(), &["buss: unknown key; did you mean `bus`?"]),
        (
            "typo in a list of tables",
            webhook("attio", "https://a/b").replace("source =", "sorce ="),
            &["webhooks[0].sorce: unknown key; did you mean `webhooks[0].source`?", "config.toml:5"],
        ),
        (
            "typo in a secret",
            secrets("{ label = \"a\", fil = \"x\" }"),
            &["secrets[0].fil: unknown key; did you mean `sources.crm.secrets[0].file`?"],
        ),
        (
            "number for a duration",
            line("[http]\nidle_timeout = 75"),
            &["http.idle_timeout: expects a duration with its unit, such as \"250ms\"", "not 75", ":4"],
        ),
        ("number in quotes", line("[dedup]\ncapacity = \"42\""), &["dedup.capacity: ", "write 42", ":4"]),
        (
            "size with a unit",
            line("[http]\nmax_body_bytes = \"512KB\""),
            &["http.max_body_bytes: expects a whole number, not text; 512 KiB are 524288"],
        ),
        (
            "unquoted size with a unit",
            line("[http]\nmax_body_bytes = 512KB"),
            &["not valid TOML at `max_body_bytes`", "a size is a number of bytes without a unit", ":4"],
        ),
        ("boolean in quotes", webhook("attio", "https://a/b") + "recreate = \"true\"", &["remove the quotes"]),
        (
            "secret file is missing",
            secrets("{ label = \"a\", file = \"FOLDER/nope\" }"),
            &["sources.crm.secrets[0].file: ", "cannot be read: No such file or directory (file", ":4"],
        ),
        ("secret file is a folder", secrets("{ label = \"a\", file = \"FOLDER\" }"), &["secrets[0].file: ", "directory"]),
        (
            "secret file is empty",
            secrets("{ label = \"a\", file = \"FOLDER/empty\" }"),
            &["secrets[0].file: the secret `a` is empty"],
        ),
        (
            "secret of 5 bytes",
            secrets("{ label = \"a\", file = \"FOLDER/short\" }"),
            &["the secret `a` has 5 bytes and needs at least 16"],
        ),
        (
            "secret = \"x\"",
            line("[sources.crm]\nsecret = \"x\""),
            &["sources.crm.secret: unknown key; did you mean `sources.crm.secrets`?"],
        ),
        ("secrets = [\"x\"]", secrets("\"x\""), &["sources.crm.secrets[0]: expects a table, not text", ":4"]),
        (
            "label twice",
            secrets(&format!("{good}, {good}")),
            &["secrets[1].label: another secret of this source is called \"a\"; rename one", ":4"],
        ),
        ("open quote", "[bus]\ntype = \"stdout\n".into(), &["not valid TOML at `type`", "quote that closes", ":2"]),
        ("missing quotes", "[bus]\ntype = stdout\n".into(), &["at `type`", "put the value in quotes", ":2"]),
        ("missing comma", secrets("{ label = \"a\" file = \"x\" }"), &["at `secrets`", "missing comma", ":4"]),
        ("open bracket", "[bus\ntype = \"stdout\"\n".into(), &["at `bus`", "unclosed table", ":1"]),
        ("key without a value", line("[http]\nlisten"), &["at `listen`", "write `key = value`", ":4"]),
        ("table twice", line("[bus]\ntype = \"kafka\""), &["at `bus`: duplicate key", "merge them", ":3"]),
        ("key twice", line("[http]\nlisten = \"a:1\"\nlisten = \"b:1\""), &["at `listen`", "there twice", ":5"]),
        ("YAML", "bus:\n  type: stdout\nhttp:\n  listen: a:1\n".into(), &["is YAML, and should be TOML", "`[http]`"]),
        ("JSON", "{\"bus\": {\"type\": \"stdout\"}}\n".into(), &["is JSON, and should be TOML"]),
        ("unknown bus", "[bus]\ntype = \"rabbitmq\"\n".into(), &["bus.type: expects one of \"kafka\", \"nats\"", ":2"]),
        ("listen without host", line("[http]\nlisten = \"8080\""), &["http.listen: expects host:port, such as"]),
        (
            "both listeners equal",
            line("[admin]\nlisten = \"0.0.0.0:8080\""),
            &["admin.listen: 0.0.0.0:8080 is also http.listen; give each listener its own address"],
        ),
        (
            "scheme in bootstrap_servers",
            KAFKA.replace("k:9092", "kafka://k:9092"),
            &["kafka.bootstrap_servers: expects host:port without a scheme: write \"k:9092\"", ":4"],
        ),
        ("acks", kafka("properties.acks = 1"), &["kafka.properties.acks: the bridge owns this property: ", ":5"]),
        ("unknown property", kafka("properties.zebra = 1"), &["kafka.properties.zebra: ", "No such", ":5"]),
        (
            "SASL without protocol",
            kafka("sasl_username = \"u\""),
            &["kafka.sasl_username: has no effect with security_protocol plaintext; set kafka.security_protocol"],
        ),
        ("SASL without password", kafka(SASL), &["kafka.sasl_password: required with sasl_mechanism PLAIN"]),
        (
            "[nats] with kafka",
            kafka("[nats]\nservers = \"nats://n:4222\"\nusername = \"u\"\npassword = \"p\""),
            &["nats.servers: has no effect with bus.type \"kafka\"", "set bus.type to \"nats\", or remove [nats]", ":6"],
        ),
        ("[nats.stream] with kafka", kafka("[nats.stream]\nname = \"S\""), &["nats.stream.name: has no effect", ":6"]),
        (
            "[kafka] with nats",
            "[bus]\ntype = \"nats\"\n[nats]\nservers = \"n:4222\"\n[kafka.properties]\n\"client.rack\" = \"r\"\n".into(),
            &["kafka.properties.client.rack: has no effect with bus.type \"nats\"", "or remove [kafka]", ":6"],
        ),
        ("[kafka] with stdout", line("[kafka]\nlinger = \"5ms\""), &["kafka.linger: has no effect", "\"stdout\"", ":4"]),
        (
            "webhook of an unknown source",
            webhook("crm", "https://a/b"),
            &["webhooks[0].source: there is no source \"crm\"; add [sources.crm]", ":5"],
        ),
        ("http target", webhook("attio", "http://a/b"), &["target_url: expects an address that begins with https://"]),
        (
            "pattern as a subscription",
            webhook("attio", "https://a/b").replace("note.created", "note.*"),
            &["webhooks[0].subscriptions[0].event_type: ", "\"note.*\" is a pattern", "note.created, note.deleted, note.updated", ":7"],
        ),
        ("unknown category", line("[route.categories]\nrecords = \"x\""), &["no such category", "did you mean \"record\"?"]),
    ];
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("empty"), "").expect("a written file");
    std::fs::write(folder.path().join("short"), "12345\n").expect("a written file");
    for (mistake, file, parts) in table {
        let (code, messages) = check(folder.path(), "config.toml", &file, &[]);
        assert_eq!(code, 78, "{mistake}: {messages:#?}");
        assert_told(mistake, &messages, parts);
    }
    let (code, messages) = check(folder.path(), "bridge.yaml", "a = [\n", &[]);
    assert_eq!(code, 78);
    assert_told("named as YAML", &messages, &["configuration file: is YAML", "bridge.yaml:1"]);
}

#[test]
fn each_mistake_in_a_variable_is_one_message_with_place_and_remedy() {
    let table: [(&str, &str, &[(&str, &str)], &[&str]); 10] = [
        (
            "typo in the variable",
            "[bus]\ntype = \"kafka\"\n",
            &[("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVER", "k:9092")],
            &["unknown variable; did you mean `ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS`?"],
        ),
        (
            "typo in its section",
            "[bus]\ntype = \"kafka\"\n",
            &[("ATTIO_BRIDGE__KAFAK__BOOTSTRAP_SERVERS", "k:9092")],
            &["unknown variable; did you mean `ATTIO_BRIDGE__KAFKA`?"],
        ),
        (
            "size with a unit",
            STDOUT,
            &[("ATTIO_BRIDGE__HTTP__MAX_BODY_BYTES", "512KB")],
            &["http.max_body_bytes: ", "not \"512KB\"; 512 KiB are 524288", "__MAX_BODY_BYTES)"],
        ),
        (
            "separators",
            STDOUT,
            &[("ATTIO_BRIDGE__DEDUP__CAPACITY", "1_000")],
            &["dedup.capacity: ", "; write 1000 ("],
        ),
        (
            "words",
            STDOUT,
            &[("ATTIO_BRIDGE__DEDUP__CAPACITY", "lots")],
            &["a whole number of digits only", "\"lots\""],
        ),
        (
            "no unit",
            STDOUT,
            &[("ATTIO_BRIDGE__HTTP__IDLE_TIMEOUT", "75")],
            &["duration with its unit", "not \"75\""],
        ),
        (
            "secret file is missing",
            STDOUT,
            &[("ATTIO_WEBHOOK_SECRET_FILE", "FOLDER/nope")],
            &["cannot be read: No such file or directory (environment ATTIO_WEBHOOK_SECRET_FILE)"],
        ),
        (
            "password file is missing",
            "[bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_servers = \"k:1\"\nsecurity_protocol = \"sasl_plaintext\"\n\
             sasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"\n",
            &[("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD_FILE", "FOLDER/nope")],
            &["kafka.sasl_password: the file nope cannot be read: No such file or directory (environment"],
        ),
        (
            "[nats] with kafka",
            KAFKA,
            &[("ATTIO_BRIDGE__NATS__SERVERS", "nats://n:4222")],
            &[
                "nats.servers: has no effect with bus.type \"kafka\"",
                "(environment ATTIO_BRIDGE__NATS__SERVERS)",
            ],
        ),
        (
            "secret by number",
            STDOUT,
            &[("ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__0__VALUE", SECRET)],
            &["a secret is named by its label"],
        ),
    ];
    let folder = TempDir::new().expect("a folder");
    for (mistake, file, variables, parts) in table {
        let (code, messages) = check(folder.path(), "config.toml", file, variables);
        assert_eq!(code, 78, "{mistake}: {messages:#?}");
        assert_told(mistake, &messages, parts);
    }
}

#[test]
fn suspicious_settings_are_one_warning_each() {
    let webhook = "[[webhooks]]\nname = \"w\"\nsource = \"attio\"\ntarget_url = \"https://a/b\"\n\
                   subscriptions = [{ event_type = \"note.created\" }]\nsecret_file = \"FOLDER/other\"\n";
    let hex = SECRET.repeat(3);
    let (env_line, exported) = (format!("ATTIO_WEBHOOK_SECRET={hex}"), format!("export S='{hex}'"));
    let (invisible, escape) = (format!("{hex}\u{200b}"), format!("{}\u{1b}{}", &hex[..9], &hex[9..]));
    let secret = "ATTIO_WEBHOOK_SECRET";
    let table: [(&str, &str, &[(&str, &str)], &[&str]); 21] = [
        (
            "line of an env file",
            "",
            &[(secret, &env_line)],
            &["`default` looks like the line NAME=value", "only what follows the ="],
        ),
        ("exported line", "", &[(secret, &exported)], &["`default` looks like the line NAME=value"]),
        ("zero-width space", "", &[(secret, &invisible)], &["an invisible character, U+200B"]),
        ("control character", "", &[(secret, &escape)], &["an invisible character, U+001B"]),
        (
            "placeholder",
            "",
            &[(secret, "${ATTIO_SECRET_OF_PRODUCTION}")],
            &["`default` looks like a placeholder"],
        ),
        ("template", "", &[(secret, "{{ .Values.attioWebhookSecret }}")], &["looks like a placeholder"]),
        (
            "reference",
            "",
            &[(secret, "vault:secret/data/attio#webhook")],
            &["looks like a reference", "vault"],
        ),
        (
            "include of an unknown type",
            "[sources.attio.filter.include]\ntypes = [\"record.update\"]\n",
            &[],
            &[
                "\"record.update\" is no event type",
                "every event is dropped; did you mean \"record.updated\"?",
                ":4",
            ],
        ),
        (
            "include of an unknown and a known type",
            "[sources.attio.filter.include]\ntypes = [\"record.update\", \"note.created\"]\n",
            &[],
            &["\"record.update\" is no event type", "sends today; did you mean"],
        ),
        (
            "exclude of an unknown type",
            "[sources.attio.filter.exclude]\ntypes = [\"records.*\"]\n",
            &[],
            &["\"records.*\" is no event type", "no event is dropped"],
        ),
        (
            "unknown actor type",
            "[sources.attio.filter.include]\nactor_types = [\"workspace_member\"]\n",
            &[],
            &["no actor type", "every event is dropped; did you mean \"workspace-member\"?", ":4"],
        ),
        (
            "secret_file that is no secret of the source",
            webhook,
            &[],
            &["webhooks[0].secret_file: is no secret of source attio", "401", "file = \"other\"", ":8"],
        ),
        (
            "one underscore",
            "",
            &[("ATTIO_BRIDGE_KAFKA_BOOTSTRAP_SERVERS", "k:1")],
            &["has no effect; did you mean `ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS`?"],
        ),
        ("plural", "", &[("ATTIO_WEBHOOK_SECRETS", SECRET)], &["did you mean `ATTIO_WEBHOOK_SECRET`?"]),
        ("short name", "", &[("ATTIO_BRIDGE_CONF", "x")], &["did you mean `ATTIO_BRIDGE_CONFIG`?"]),
        (
            "no section",
            "",
            &[("ATTIO_BRIDGE_BOOTSTRAP_SERVERS", "x")],
            &["`ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS`"],
        ),
        ("no BRIDGE", "", &[("ATTIO_LOG_LEVEL", "x")], &["did you mean `ATTIO_BRIDGE__LOG__LEVEL`?"]),
        ("one word", "", &[("ATTIO_SECRET", SECRET)], &["did you mean `ATTIO_WEBHOOK_SECRET`?"]),
        (
            "file of a secret",
            "",
            &[("ATTIO_BRIDGE_KAFKA_SASL_PASSWORD_FILE", "x")],
            &["`ATTIO_BRIDGE__KAFKA__SASL_PASSWORD_FILE`"],
        ),
        (
            "lower case",
            "",
            &[("attio_bridge__http__listen", "x")],
            &["did you mean `ATTIO_BRIDGE__HTTP__LISTEN`?"],
        ),
        (
            "unlike any",
            "",
            &[("ATTIO_ZEBRA", "x")],
            &["ATTIO_ZEBRA: has no effect; ", "(environment ATTIO_ZEBRA)"],
        ),
    ];
    let folder = TempDir::new().expect("a folder");
    for (mistake, file, variables, parts) in table {
        let (code, messages) = check(folder.path(), "config.toml", &format!("{STDOUT}{file}"), variables);
        assert_eq!(code, 0, "{mistake}: {messages:#?}");
        assert_told(mistake, &messages, parts);
        assert!(messages[0].starts_with("warning: "), "{mistake}: {messages:#?}");
    }
}

#[test]
fn variables_of_others_and_of_the_configuration_are_no_warnings() {
    let file =
        format!("{STDOUT}[sources.crm]\nsecrets = [{{ label = \"a\", env = \"ATTIO_CRM_SECRET\" }}]\n");
    let variables = [
        ("ATTIO_CRM_SECRET", SECRET),
        ("ATTIO_API_KEY", "k"),
        ("ATTIO_ACCESS_TOKEN", "t"),
        ("ATTIO_BRIDGE_CONFIG", "unused"),
        ("ATTIO_BRIDGE_TEST_TIER", "full"),
        // Kubernetes, for a Service called attio-bridge.
        ("ATTIO_BRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("ATTIO_BRIDGE_SERVICE_PORT_HTTP", "80"),
        ("ATTIO_BRIDGE_PORT", "tcp://10.0.0.1:80"),
        ("ATTIO_BRIDGE_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let folder = TempDir::new().expect("a folder");
    assert_eq!(check(folder.path(), "config.toml", &file, &variables), (0, vec![]));
    let secret = "[[webhooks]]\nname = \"w\"\nsource = \"attio\"\ntarget_url = \"https://a/b\"\n\
                  subscriptions = [{ event_type = \"note.created\" }]\nsecret_file = \"FOLDER/../short\"\n\
                  [sources.attio]\nsecrets = [{ label = \"a\", file = \"FOLDER/good\" }]\n";
    std::fs::write(folder.path().join("good"), SECRET).expect("a written file");
    let same = secret.replace("../short", "./good");
    assert_eq!(check(folder.path(), "config.toml", &format!("{STDOUT}{same}"), &[]), (0, vec![]));
}

#[test]
fn nothing_configured_names_what_is_needed() {
    let output = run_bare(&["check"], &[]);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(78), "{text}");
    for part in
        ["2 problems", "set ATTIO_WEBHOOK_SECRET", "bus.type: required: \"kafka\", \"nats\" or \"stdout\""]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = run_bare(&["check", "--config", "/no/such.toml"], &[]);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let told = "configuration file: the file /no/such.toml cannot be read: No such file or directory (flag --config)";
    assert!(output.status.code() == Some(78) && text.contains(told), "{text}");
}

#[test]
fn other_bus_by_flag_or_variable_is_a_warning_about_the_section_in_the_file() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, KAFKA).expect("a written file");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let arguments =
        ["serve", "--bus", "stdout", "--listen", &address, "--config", file.to_str().expect("UTF-8")];
    let output = run_bare(&arguments, &[("ATTIO_WEBHOOK_SECRET", SECRET)]);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.contains("kafka.bootstrap_servers: has no effect with bus.type"), "{text}");
    let variables = [("ATTIO_WEBHOOK_SECRET", SECRET), ("ATTIO_BRIDGE__BUS__TYPE", "stdout")];
    let checked = run_bare(&["check", "--config", file.to_str().expect("UTF-8")], &variables);
    let told = String::from_utf8([checked.stdout, checked.stderr].concat()).expect("UTF-8");
    assert_eq!(checked.status.code(), Some(0), "{told}");
    assert!(told.contains("kafka.bootstrap_servers: has no effect with bus.type"), "{told}");
    // And a port in use is told with its key.
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("http.listen") && text.contains(&address), "{text}");
}
