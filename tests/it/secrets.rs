//! Secrets: sources, checks, and that no output shows one.

use secrecy::ExposeSecret;

use crate::setup::{SECRET, Setup};

const CANARY: &str = "canary-5f3c-do-not-print-canary-5f3c-do-not-print";

fn stdout() -> Setup {
    Setup::empty().var("ATTIO_BRIDGE__BUS__TYPE", "stdout")
}

/// Label and value of every secret of the only source.
fn secrets(setup: &Setup) -> Vec<(String, String)> {
    let config = setup.config();
    assert_eq!(config.sources.len(), 1);
    let secrets = config.sources[0].verify.secrets.iter();
    secrets.map(|secret| (secret.label.to_string(), secret.value.expose_secret().to_owned())).collect()
}

#[test]
fn secret_must_be_text() {
    for tail in ["00123", "true", "1e5", "[x]", "\"q\"", "a,b"] {
        let secret = format!("{tail:0>20}");
        let setup = stdout().var("ATTIO_WEBHOOK_SECRET", &secret);
        assert_eq!(secrets(&setup), [("default".to_owned(), secret)]);
    }
    let setup = Setup::good().var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD", "00123");
    let setup = setup.flag("--bus", "bus.type", "stdout");
    assert_eq!(setup.effective("kafka.sasl_password").0, "\"***\"");
    let setup = Setup::good().var("ATTIO_API_KEY", "00123");
    assert_eq!(setup.attio().options.api_key.expect("a key").expose_secret(), "00123");
}

#[test]
fn one_trailing_line_end_of_a_secret_file_is_trimmed() {
    for (end, kept) in [("", ""), ("\n", ""), ("\r\n", ""), ("\n\n", "\n"), (" \n", " "), ("\r", "\r")] {
        let setup = stdout();
        let path = setup.write("secret", format!("{SECRET}{end}"));
        let setup = setup.var("ATTIO_WEBHOOK_SECRET_FILE", path);
        assert_eq!(secrets(&setup)[0].1, format!("{SECRET}{kept}"), "{end:?}");
    }
}

#[test]
fn a_secret_that_an_editor_or_a_shell_has_changed_is_refused_with_the_cause() {
    let marked = format!("\u{feff}{SECRET}");
    let utf16: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16_big: Vec<u8> = marked.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let without_mark = utf16[2..].to_vec();
    let table: [(Vec<u8>, &str); 9] = [
        (marked.clone().into(), "byte order mark"),
        (format!("{marked}\r\n").into(), "byte order mark"),
        (utf16, "UTF-16"),
        (utf16_big, "UTF-16"),
        (without_mark, "UTF-16"),
        (format!("\"{SECRET}\"").into(), "in quotes"),
        (format!("'{SECRET}'\n").into(), "in quotes"),
        (format!("{SECRET}\n{SECRET}").into(), "more than one line"),
        (format!("{SECRET}\r\n{SECRET}\r\n").into(), "more than one line"),
    ];
    for (bytes, cause) in table {
        let entry = |from: &str| format!("[sources.attio]\nsecrets = [{{ label = \"a\", {from} }}]\n");
        let setup = stdout();
        let path = setup.write("secret", &bytes);
        let mut setups = vec![stdout().toml(&entry(&format!("file = {path:?}")))];
        // A variable cannot hold a NUL.
        if let Ok(text) = String::from_utf8(bytes).map(|text| text.trim_end().to_owned())
            && !text.contains('\0')
        {
            let value = serde_json::Value::from(text.as_str());
            setups.push(stdout().toml(&entry(&format!("value = {value}"))));
            setups.push(stdout().toml(&entry("env = \"ITS_SECRET\"")).var("ITS_SECRET", &text));
            setups.push(stdout().var("ATTIO_WEBHOOK_SECRET", text));
        }
        setups.push(setup.var("ATTIO_WEBHOOK_SECRET_FILE", &path));
        for setup in setups {
            let problems = setup.problems();
            assert!(problems.iter().any(|problem| problem.contains(cause)), "{cause}: {problems:?}");
            assert!(!problems.concat().contains(SECRET), "{problems:?}");
        }
    }
    for variable in ["ATTIO_BRIDGE__KAFKA__SASL_PASSWORD", "ATTIO_BRIDGE__NATS__TOKEN", "ATTIO_API_KEY"] {
        let problems = Setup::good().var(variable, &marked).problems();
        assert!(
            problems.iter().any(|problem| problem.contains("byte order mark")),
            "{variable}: {problems:?}"
        );
    }
}

#[test]
fn a_configuration_file_may_begin_with_a_byte_order_mark() {
    let text = format!("\u{feff}[sources.attio]\nsecrets = [{{ label = \"a\", value = \"{SECRET}\" }}]\n");
    assert_eq!(secrets(&stdout().toml(&text)), [("a".to_owned(), SECRET.to_owned())]);
}

#[test]
fn shorthand_variables_are_secrets_of_the_source_attio() {
    let setup = stdout().var("ATTIO_WEBHOOK_SECRET", SECRET).var("ATTIO_WEBHOOK_SECRET_PREVIOUS", CANARY);
    let both = [("default".to_owned(), SECRET.to_owned()), ("previous".to_owned(), CANARY.to_owned())];
    assert_eq!(secrets(&setup), both);
    let file = format!("[sources.attio]\nsecrets = [{{ label = \"default\", value = \"{CANARY}\" }}]\n");
    let setup = stdout().toml(&file).var("ATTIO_WEBHOOK_SECRET", SECRET);
    assert_eq!(secrets(&setup), both[..1], "a variable outranks the file");
    assert_eq!(setup.effective("sources.attio.secrets.default").1, "environment ATTIO_WEBHOOK_SECRET");
}

#[test]
fn a_secret_file_larger_than_64_kib_is_refused() {
    let setup = stdout();
    let path = setup.write("secret", "x".repeat(64 * 1024 + 1));
    let setup = setup.var("ATTIO_WEBHOOK_SECRET_FILE", &path);
    let problems = setup.problems();
    assert!(problems.iter().any(|problem| problem.contains("larger than 64 KiB")), "{problems:#?}");
    // Endless, and neither a reload nor the start reads all of it.
    let setup = setup.var("ATTIO_WEBHOOK_SECRET_FILE", "/dev/zero");
    let problems = setup.problems();
    assert!(problems.iter().any(|problem| problem.contains("larger than 64 KiB")), "{problems:#?}");
}

#[test]
fn a_secret_is_given_by_value_file_or_env() {
    let setup = stdout();
    let path = setup.write("secret", SECRET);
    let text = format!(
        "[sources.attio]\nsecrets = [{{ label = \"a\", value = \"{SECRET}\" }}, \
         {{ label = \"b\", file = {path:?} }}, {{ label = \"c\", env = \"MY_SECRET\" }}]\n"
    );
    let setup = setup.toml(&text).var("MY_SECRET", SECRET);
    let expected = ["a", "b", "c"].map(|label| (label.to_owned(), SECRET.to_owned()));
    assert_eq!(secrets(&setup), expected);
}

#[test]
fn an_invalid_secret_is_refused() {
    let of = |secrets: &str| stdout().toml(&format!("[sources.attio]\nsecrets = {secrets}\n"));
    let good = format!("value = \"{SECRET}\"");
    let table = [
        (of("[]"), "the source has no secret"),
        (of("[{ label = \"a\" }]"), "has no value; give exactly one of"),
        (of(&format!("[{{ label = \"a\", {good}, env = \"X\" }}]")), "has both `env` and `value`"),
        (of("[{ label = \"a\", env = \"X\" }]"), "the variable X is not set"),
        (of("[{ label = \"a\", file = \"/no/such\" }]"), "the file /no/such cannot be read"),
        (of("[{ label = \"a\", value = 1234567890123456789 }]"), "expects text in quotes"),
        (of("[{ label = \"a\", value = \"\" }]"), "secrets[0].value: is empty"),
        (of("[{ label = \"a\", value = \"fifteen-bytes-x\" }]"), "has 15 bytes and needs at least 16"),
        (of(&format!("[{{ {good} }}]")), "label: required, as in label = \"default\""),
        (of(&format!("[{{ label = \"none\", {good} }}]")), "other than `none`"),
        (of(&format!("[{{ label = \"A\", {good} }}]")), "expects 1 to 32 characters"),
        (
            of(&format!("[{{ label = \"a\", {good} }}, {{ label = \"a\", {good} }}]")),
            "secrets[1].label: another secret of this source is called \"a\"",
        ),
        (of("[\"text\"]"), "expects a table, not text"),
        (of("5"), "expects a list of tables"),
        (stdout().var("ATTIO_WEBHOOK_SECRET", ""), "is empty"),
        (stdout(), "set ATTIO_WEBHOOK_SECRET"),
        (Setup::good().var("ATTIO_WEBHOOK_SECRET_FILE", "/x"), "also set by ATTIO_WEBHOOK_SECRET;"),
        (
            Setup::good().var("ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__DEFAULT", SECRET),
            "; unset one of the two",
        ),
        (
            Setup::good()
                .var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD", "a")
                .var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD_FILE", "b"),
            "kafka.sasl_password: also set by ATTIO_BRIDGE__KAFKA__SASL_PASSWORD;",
        ),
        (
            Setup::good().var("ATTIO_API_KEY_FILE", "/no/such"),
            "attio.api_key: the file /no/such cannot be read",
        ),
        (Setup::good().var("ATTIO_BRIDGE__HTTP__LISTEN_FILE", "/x"), "unknown variable"),
    ];
    for (setup, message) in table {
        let problems = setup.problems();
        assert!(problems.iter().any(|problem| problem.contains(message)), "{message}: {problems:#?}");
    }
}

#[test]
fn a_short_secret_is_a_warning() {
    let setup = stdout().var("ATTIO_WEBHOOK_SECRET", "sixteen-bytes-xx");
    let warnings = setup.warnings();
    assert!(warnings[0].contains("`default` has only 16 bytes"), "{warnings:#?}");
}

#[test]
fn secrets_of_the_other_sections_may_be_files() {
    let setup = Setup::good().flag("--bus", "bus.type", "stdout");
    let path = setup.write("secret", format!("{CANARY}\n"));
    let setup = setup.var("ATTIO_API_KEY_FILE", &path).var("ATTIO_BRIDGE__NATS__TOKEN_FILE", &path);
    let setup = setup.var("ATTIO_BRIDGE__KAFKA__PROPERTIES__SSL_KEY_PASSWORD_FILE", &path);
    assert_eq!(setup.attio().options.api_key.expect("a key").expose_secret(), CANARY);
    let (value, origin) = setup.effective("kafka.properties.ssl.key.password");
    assert_eq!(value, "\"***\"");
    assert_eq!(origin, "environment ATTIO_BRIDGE__KAFKA__PROPERTIES__SSL_KEY_PASSWORD_FILE");
}

/// A configuration with the canary in every secret.
fn canaries(more: &str) -> Setup {
    stdout()
        .toml(&format!(
            "[sources.attio]\nsecrets = [{{ label = \"a\", value = \"{CANARY}\" }}]\n\
             [kafka]\nsasl_password = \"{CANARY}\"\nproperties.\"ssl.key.password\" = \"{CANARY}\"\n\
             properties.\"ssl.keystore.password\" = \"{CANARY}\"\n\
             [nats]\ntoken = \"{CANARY}\"\npassword = \"{CANARY}\"\nusername = \"u\"\n\
             [attio]\napi_key = \"{CANARY}\"\n{more}"
        ))
        .var("ATTIO_WEBHOOK_SECRET", CANARY)
        .var("ATTIO_WEBHOOK_SECRET_PREVIOUS", CANARY)
        .flag("--bus", "bus.type", "stdout")
}

#[test]
fn effective_configuration_hides_secrets() {
    let config = canaries("").config();
    let shown =
        [config.to_text(), config.to_json().to_string(), format!("{config:?}"), format!("{config:#?}")];
    for text in shown {
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("***"));
    }
    let nats = Setup::good().var("ATTIO_BRIDGE__NATS__SERVERS", "n").var("ATTIO_BRIDGE__NATS__TOKEN", CANARY);
    let nats = nats.var("ATTIO_BRIDGE__BUS__TYPE", "nats").config().bus;
    let attio = canaries("").attio().options;
    let parts = [format!("{:?}", config.sources), format!("{nats:?}"), format!("{attio:?}")];
    assert!(parts.iter().all(|text| !text.contains("canary")), "{parts:#?}");
}

#[test]
fn problems_hide_secrets() {
    let cut = &CANARY[..12];
    let kafka = Setup::good().var("ATTIO_BRIDGE__BUS__TYPE", "kafka");
    let table = [
        canaries("[http]\nlisten = 5\nzebra = 1\n"),
        canaries("[sources.attio]\nscheme = \"twice\"\n"),
        canaries(&format!("broken = {CANARY}\n")),
        canaries(&format!("api_kye = \"{CANARY}\"\n")),
        stdout().var("ATTIO_WEBHOOK_SECRET", cut),
        stdout()
            .var("ATTIO_WEBHOOK_SECRET", CANARY)
            .var("ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__DEFAULT", CANARY),
        Setup::good().var("ATTIO_BRIDGE__KAFKA__SASL_PASSWRD", CANARY),
        kafka.var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD", CANARY),
        Setup::good().var("ATTIO_BRIDGE__KAFKA__PROPERTIES__SASL_OAUTHBEARER_CLIENT_SECRET", CANARY),
        stdout().toml(&format!("[sources.attio]\nsecrets = [\"{CANARY}\"]\n")),
        stdout().toml(&format!("[sources.attio]\nsecrets = [{{ label = \"a\", value = [\"{CANARY}\"] }}]\n")),
    ];
    for setup in table {
        let Err(problems) = setup.load() else { panic!("taken") };
        let text = format!("{problems} {problems:?}");
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn a_reload_reads_the_files_again() {
    let setup = stdout();
    let path = setup.write("secret", SECRET);
    let setup = setup.var("ATTIO_WEBHOOK_SECRET_FILE", path);
    let config = setup.config();
    setup.write("secret", CANARY);
    let again = config.reload().expect("a good configuration");
    assert_eq!(again.sources[0].verify.secrets[0].value.expose_secret(), CANARY);
    setup.write("secret", "short");
    assert!(config.reload().is_err());
}
