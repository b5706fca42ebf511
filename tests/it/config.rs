//! Layers, types and checks of the configuration.

use std::time::Duration;

use attio_bridge::bus::Kind;
use attio_bridge::catalog::Category;

use crate::setup::Setup;

/// Asserts that there is exactly one problem, and that it contains all of these parts.
#[track_caller]
fn one_problem(setup: &Setup, parts: &[&str]) {
    let problems = setup.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    for part in parts {
        assert!(problems[0].contains(part), "{:?} is not in {:?}", part, problems[0]);
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[http]\nlisten = \"1.1.1.1:1\"\n";
    let variable = "ATTIO_BRIDGE__HTTP__LISTEN";
    let table = [
        (Setup::good(), "\"0.0.0.0:8080\"", "default"),
        (Setup::good().toml(file), "\"1.1.1.1:1\"", "file config.toml:2"),
        (
            Setup::good().toml(file).var(variable, "2.2.2.2:2"),
            "\"2.2.2.2:2\"",
            "environment ATTIO_BRIDGE__HTTP__LISTEN",
        ),
        (
            Setup::good().toml(file).var(variable, "2.2.2.2:2").flag("--listen", "http.listen", "3.3.3.3:3"),
            "\"3.3.3.3:3\"",
            "flag --listen",
        ),
    ];
    for (setup, value, origin) in table {
        assert_eq!(setup.effective("http.listen"), (value.into(), origin.into()));
    }
}

#[test]
fn refused_value_names_its_origin() {
    let file = "[http]\nlisten = \"nowhere\"\n";
    one_problem(&Setup::good().toml(file), &["http.listen: ", "host:port", "(file config.toml:2)"]);
    let setup = Setup::good().var("ATTIO_BRIDGE__HTTP__LISTEN", "nowhere");
    one_problem(&setup, &["http.listen: ", "(environment ATTIO_BRIDGE__HTTP__LISTEN)"]);
    let setup = Setup::good().flag("--listen", "http.listen", "nowhere");
    one_problem(&setup, &["http.listen: ", "(flag --listen)"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let setup = Setup::empty()
        .toml("[http]\nmax_body_bytes = \"many\"\nlistn = \"\"\n[dedup]\ncapacity = 0\n")
        .var("ATTIO_BRIDGE__HTTP__IDLE_TIMEOUT", "75");
    let problems = setup.problems();
    let keys =
        ["http.max_body_bytes", "http.listn", "dedup.capacity", "http.idle_timeout", "sources", "bus.type"];
    for key in keys {
        let prefix = format!("{key}: ");
        assert!(problems.iter().any(|problem| problem.starts_with(&prefix)), "{key}: {problems:#?}");
    }
    assert_eq!(problems.len(), keys.len(), "{problems:#?}");
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    let table = [
        ("[http]\nlistn = \"a:1\"\n", "http.listn: unknown key; did you mean `http.listen`?"),
        (
            "[kafka.topics]\npartition = 1\n",
            "kafka.topics.partition: unknown key; did you mean `kafka.topics.partitions`?",
        ),
        ("[htttp]\nlisten = 1\nx = 2\n", "htttp: unknown key; did you mean `http`?"),
        (
            "[http]\ndrain_timeout = \"1s\"\n",
            "http.drain_timeout: unknown key; did you mean `shutdown.drain_timeout`?",
        ),
        ("[sources.attio]\nfilter.include.typs = []\n", "`sources.attio.filter.include.types`?"),
        ("zebra = 1\n", "zebra: unknown key; remove it"),
    ];
    for (text, message) in table {
        one_problem(&Setup::good().toml(text), &[message, "file config.toml:"]);
    }
    let setup = Setup::good().var("ATTIO_BRIDGE__HTTP__LISTN", "a:1");
    one_problem(&setup, &["unknown variable; did you mean `ATTIO_BRIDGE__HTTP__LISTEN`?"]);
    let setup = Setup::good().var("ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__0__VALUE", "x");
    one_problem(&setup, &["named by its label"]);
}

#[test]
fn environment_sets_keys_of_every_section() {
    let table = [
        ("KAFKA__TOPICS__ENSURE", "create", "kafka.topics.ensure", "\"create\""),
        (
            "KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE",
            "true",
            "kafka.properties.socket.keepalive.enable",
            "\"true\"",
        ),
        ("SOURCES__ATTIO__SCHEME", "timestamped", "sources.attio.scheme", "\"timestamped\""),
        (
            "SOURCES__ATTIO__FILTER__INCLUDE__TYPES",
            "record.*, note.created",
            "sources.attio.filter.include.types",
            "[\"record.*\",\"note.created\"]",
        ),
        ("ROUTE__CATEGORIES__LIST_ENTRY", "crm.entries", "route.categories.list-entry", "\"crm.entries\""),
        ("DEDUP__CAPACITY", "7", "dedup.capacity", "7"),
        ("NATS__STREAM__NAME", "CRM", "nats.stream.name", "\"CRM\""),
        ("RUNTIME__WORKERS", "3", "runtime.workers", "3"),
        ("SHUTDOWN__DELAY", "0s", "shutdown.delay", "\"0s\""),
        ("LOG__FORMAT", "json", "log.format", "\"json\""),
    ];
    for (variable, given, key, value) in table {
        let name = format!("ATTIO_BRIDGE__{variable}");
        let setup = Setup::good().var(&name, given).flag("--bus", "bus.type", "stdout");
        assert_eq!(setup.effective(key), (value.into(), format!("environment {name}")));
    }
}

#[test]
fn environment_overrides_property_and_source_of_the_file() {
    let file =
        "[sources.big-crm]\nscheme = \"attio\"\n[kafka.properties]\n\"socket.keepalive.enable\" = false\n";
    let setup = Setup::good()
        .toml(file)
        .var("ATTIO_BRIDGE__SOURCES__BIG_CRM__SCHEME", "auto")
        .var("ATTIO_BRIDGE__SOURCES__BIG_CRM__SECRETS__DEFAULT", crate::setup::SECRET)
        .var("ATTIO_BRIDGE__KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE", "true")
        .flag("--bus", "bus.type", "stdout");
    assert_eq!(setup.effective("sources.big-crm.scheme").0, "\"auto\"");
    assert_eq!(setup.effective("kafka.properties.socket.keepalive.enable").0, "\"true\"");
    let names: Vec<_> = setup.config().sources.iter().map(|source| source.name.to_string()).collect();
    assert_eq!(names, ["attio", "big-crm"]);
}

#[test]
fn invalid_values_are_refused() {
    let table = [
        ("[bus]\ntype = \"nats\"", "nats.servers: required for NATS"),
        (
            "[bus]\ntype = \"nats\"\n[nats]\nservers = \"http://a\"",
            "nats.servers: a server address begins with nats:// or tls://, not http://",
        ),
        (
            "[bus]\ntype = \"nats\"\n[nats]\nservers = \"nats://me:secret@a\"",
            "nats.servers: a server address contains no user: set nats.username and nats.password",
        ),
        ("[http]\nmax_body_bytes = 70000000", "more than http.max_in_flight_bytes"),
        ("[http]\nmax_in_flight = 0", "http.max_in_flight: must be from 1"),
        ("[http]\nanswer_timeout = \"0s\"", "http.answer_timeout: must be from 1ms"),
        ("[http]\nlisten = \"0.0.0.0:8081\"", "admin.listen: 0.0.0.0:8081 is also http.listen"),
        ("[dedup]\nwindow = 5", "dedup.window: expects a duration with its unit"),
        ("[route]\nprefix = \"a b\"", "route.prefix: expects letters"),
        (
            "[route.categories]\nrecords = \"x\"",
            "route.categories.records: no such category; known are record, ",
        ),
        ("[route.categories]\nrecord = \"attio.unknown\"", "is where unknown events go"),
        ("[route]\nprefix = \"p\"\ncategories.note = \"p.quarantine\"", "is where quarantine events go"),
        ("[sources.attio]\nworkspace_id = \"a b\"", "sources.attio.workspace_id: expects an id"),
        (
            "[kafka]\nsecurity_protocol = \"tls\"",
            r#"expects one of "plaintext", "ssl", "sasl_plaintext", "sasl_ssl""#,
        ),
        ("[kafka]\npublish_timeout = \"10ms\"\nlinger = \"10ms\"", "kafka.linger: must be shorter"),
        (
            "[kafka.properties]\n\"linger.ms\" = 5",
            "kafka.properties.linger.ms: the bridge owns this property: set kafka.linger",
        ),
        ("[kafka.properties]\nzebra = 5", "No such configuration property"),
        (
            "[kafka.topics]\nreplication_factor = 1\nmin_insync_replicas = 2",
            "kafka.topics.min_insync_replicas: is more",
        ),
        ("[nats.stream]\nmax_age = \"1h\"", "nats.stream.duplicate_window: must not be longer"),
        (
            "[[webhooks]]\nname = \"a\"\nsource = \"b\"\ntarget_url = \"https://c\"\nsubscriptions = [{ event_type = \"note.created\" }]",
            "webhooks[0].source: there is no source \"b\"",
        ),
        ("[sources]\nattio = 5", "sources.attio: "),
        ("[log]\nlevel = \"loud\"", "log.level: expects one of \"error\""),
    ];
    for (text, message) in table {
        let setup = Setup::empty().var("ATTIO_WEBHOOK_SECRET", crate::setup::SECRET).toml(text);
        let setup = if text.contains("[bus]") { setup } else { setup.flag("--bus", "bus.type", "stdout") };
        let problems = setup.problems();
        assert!(problems.iter().any(|problem| problem.contains(message)), "{message}: {problems:#?}");
    }
}

#[test]
fn checked_configuration_contains_the_defaults() {
    let config = Setup::good().config();
    assert_eq!(config.http.max_body_bytes, 524_288);
    assert_eq!(config.http.answer_timeout, Duration::from_secs(4));
    assert_eq!(config.admin.listen, "0.0.0.0:8081");
    assert_eq!(config.dedup.window, Duration::from_secs(96 * 3600));
    assert_eq!(config.route.prefix, "attio");
    assert_eq!(config.workers, None);
    assert!(matches!(config.bus.kind, Kind::Stdout));
    assert!(config.warnings.is_empty());
}

#[test]
fn misspelled_variables_are_warnings() {
    let table = [
        ("ATTIO_BRIDGE_KAFKA_BOOTSTRAP_SERVERS", Some("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS")),
        ("ATTIO_BRIDGE_NATS_STREAM_NAME", Some("ATTIO_BRIDGE__NATS__STREAM__NAME")),
        ("ATTIO_WEBHOOK_SECRETS", Some("ATTIO_WEBHOOK_SECRET")),
        // Kubernetes sets it for a service called attio-bridge.
        ("ATTIO_BRIDGE_SERVICE_HOST", None),
    ];
    for (variable, meant) in table {
        let warnings = Setup::good().var(variable, "x").warnings();
        let expected = meant.map(|meant| {
            format!("{variable}: has no effect; did you mean `{meant}`? (environment {variable})")
        });
        assert_eq!(warnings, Vec::from_iter(expected));
    }
}

#[test]
fn categories_may_share_an_address() {
    let setup = Setup::good().toml("[route.categories]\nnote = \"crm\"\ntask = \"crm\"\n");
    let categories = setup.config().route.categories;
    assert_eq!(categories[&Category::Note], categories[&Category::Task]);
}

#[test]
fn suspicious_values_are_warnings() {
    let setup =
        Setup::good().toml("[sources.attio.filter.exclude]\ntypes = [\"note.*\", \"reccord.created\"]\n");
    let warnings = setup.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("\"reccord.created\" is no event type"));
    let setup = Setup::good().toml("[http]\nbody_timeout = \"4s\"\n");
    assert!(setup.warnings()[0].contains("leaves no time"), "{:?}", setup.warnings());
}

#[test]
fn environment_sets_webhooks_by_number() {
    let webhook =
        |setup: Setup, key: &str, value: &str| setup.var(&format!("ATTIO_BRIDGE__WEBHOOKS__0__{key}"), value);
    let setup = [
        ("NAME", "production"),
        ("SOURCE", "attio"),
        ("TARGET_URL", "https://hooks.example.com"),
        ("RECREATE", "true"),
        ("SUBSCRIPTIONS__0__EVENT_TYPE", "note.created"),
        ("SUBSCRIPTIONS__0__FILTER", "{\"$and\":[]}"),
    ]
    .into_iter()
    .fold(Setup::good(), |setup, (key, value)| webhook(setup, key, value));
    let webhooks = setup.attio().webhooks;
    assert_eq!(webhooks.len(), 1);
    assert!(webhooks[0].recreate);
    assert_eq!(webhooks[0].subscriptions[0].filter, Some(serde_json::json!({ "$and": [] })));
    let file = "[[webhooks]]\nname = \"a\"\nsource = \"attio\"\ntarget_url = \"https://a\"\n\
                subscriptions = [{ event_type = \"note.created\" }]\n";
    let setup = webhook(Setup::good().toml(file), "TARGET_URL", "https://b");
    assert_eq!(setup.attio().webhooks[0].target_url, "https://b");
}

#[cfg(unix)]
#[test]
fn variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::ffi::OsString::from_vec(vec![0xff; 40]);
    let setup = Setup::good().var("ATTIO_BRIDGE__LOG__LEVEL", bytes);
    one_problem(&setup, &["log.level: is not UTF-8 text (environment ATTIO_BRIDGE__LOG__LEVEL)"]);
}

#[test]
fn syntax_errors_of_the_file_are_the_only_problems() {
    let setup = Setup::empty().toml("[http\nlisten = 5\n");
    let problems = setup.problems();
    assert!(
        problems.iter().all(|problem| problem.starts_with("configuration file: is not valid TOML")),
        "{problems:#?}"
    );
    assert!(problems[0].contains("(file config.toml:1)"), "{problems:#?}");
}
