//! The verb `sign`, run as a program.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::setup::Setup;
use crate::support::fixtures;
use crate::support::program::run_bare;
use crate::support::request::SECRET;
use crate::support::served::Served;

/// The time of the vectors.
const AT: &str = "2026-11-23T12:00:00Z";

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    run_bare(&[&["sign"], arguments].concat(), variables)
}

fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(arguments, variables);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn signatures_match_the_vectors() {
    let setup = Setup::empty();
    let mut signed = 0;
    for vector in fixtures::json("signing-vectors.json")["vectors"].as_array().unwrap() {
        // The others were changed after signing.
        if vector["valid"] != true {
            continue;
        }
        let body = setup.write("body", vector["body"].as_str().unwrap()).display().to_string();
        let timestamped = vector["scheme"] == "timestamped";
        let scheme = if timestamped { "timestamped" } else { "attio" };
        let expected = vector["headers"].as_object().unwrap();
        let mut arguments =
            vec![body.as_str(), "--json", "--at", AT, "--scheme", scheme, "--secret-env", "SECRET"];
        if let Some(key) = expected.get("Idempotency-Key") {
            arguments.extend(["--key", key.as_str().unwrap()]);
        }
        let made: Value = serde_json::from_str(&printed(&arguments, &[("SECRET", SECRET)])).unwrap();
        let lower = |headers: &Value| {
            let headers = headers.as_object().unwrap().iter();
            let mut headers: Vec<_> =
                headers.map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
            headers.sort_by(|one, other| one.0.cmp(&other.0));
            headers
        };
        assert_eq!(lower(&made["headers"]), lower(&vector["headers"]), "{}", vector["name"]);
        signed += 1;
    }
    assert!(signed > 6, "only {signed} vectors were signed");
}

#[test]
fn curl_command_delivers_files_of_any_name_and_content() {
    let bridge = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let setup = Setup::empty();
    // Line ends and quotes that curl or the shell would change if they could.
    let text =
        "{\"event_type\":\"task.created\",\r\n\"id\":{\"task_id\":\"t1\"},\"n\":\"it's $HOME `x`\"}\n\n";
    let body = setup.write("it's a $body; `x`.json", text).display().to_string();
    let url = format!("http://{}/webhooks/attio?it's[1]={{a,b}}", bridge.http);
    for scheme in ["attio", "timestamped"] {
        let variables = [("ATTIO_WEBHOOK_SECRET", SECRET), ("ATTIO_BRIDGE__BUS__TYPE", "stdout")];
        let line = printed(&[&body, "--scheme", scheme, "--curl", &url], &variables);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains(SECRET), "{line}");
        let output = Command::new("sh").args(["-c", line.trim_end()]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.stderr.is_empty(), "no progress meter: {output:?}");
        assert!(answer.ends_with("\n200\n"), "{answer}");
        assert!(answer.contains(r#""reason":"accepted""#), "{scheme}: {line}{answer}{output:?}");
    }
}

#[test]
fn secret_is_chosen_by_flags_and_variables() {
    let setup = Setup::empty();
    let body = setup.write("body", "{}").display().to_string();
    let secret = |name: &str| format!("the secret that is called {name}");
    let config = format!(
        "[sources.a]\nsecrets = [{{ label = \"one\", value = \"{}\" }}, {{ label = \"two\", value = \"{}\" }}]\n\
         [sources.b]\nscheme = \"timestamped\"\nsecrets = [{{ label = \"one\", value = \"{}\" }}]\n\
         [bus]\ntype = \"stdout\"\n",
        secret("one"),
        secret("two"),
        secret("three")
    );
    let config = setup.write("config.toml", &config).display().to_string();
    let usual = ["--at", AT, "--key", "k", "--scheme", "attio", body.as_str()];
    let of_config = |more: &[&str]| printed(&[&["--config", &config], more, &usual].concat(), &[]);
    let of_file = |name: &str| {
        // One line end is removed.
        let file = setup.write("secret", format!("{}\n", secret(name))).display().to_string();
        printed(&[&["--secret-file", &file], &usual[..]].concat(), &[])
    };
    assert_eq!(of_config(&["--source", "a"]), of_file("one"));
    assert_eq!(of_config(&["--source", "a", "--label", "two"]), of_file("two"));
    assert_eq!(of_config(&["--source", "b"]), of_file("three"));
    // The scheme is that of the source by default.
    let own = printed(&["--config", &config, "--source", "b", &body], &[]);
    assert!(own.contains("X-Attio-Timestamp: "), "{own}");
    for (arguments, said) in [
        (vec!["--config", &config, &body], "--source with one of: a, b"),
        (vec!["--config", &config, "--source", "c", &body], "configured: a, b"),
        (vec!["--config", &config, "--source", "a", "--label", "x", &body], "there is: one, two"),
        (vec!["--secret-env", "NOT_SET", &body], "NOT_SET is not set"),
        (vec!["--config", &config, "--source", "a", "/no/such/file"], "/no/such/file cannot be read"),
    ] {
        let output = run(&arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{arguments:?}: {output:?}");
    }
    let output = run(&[&body], &[]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{message}");
    for way in ["ATTIO_WEBHOOK_SECRET", "--secret-file", "--secret-env", "--config"] {
        assert!(message.contains(way) && !message.contains("bus.type"), "{way}: {message}");
    }
    let output = run(&["--secret-env", "S", "--key", "a\r\nX-Other: b", &body], &[("S", SECRET)]);
    assert_eq!(output.status.code(), Some(2), "a key cannot bring a header of its own: {output:?}");
}

#[test]
fn each_call_generates_a_new_idempotency_key() {
    let setup = Setup::empty();
    let file = setup.write("body", "{}");
    let body = file.display().to_string();
    let call = || printed(&["--secret-env", "S", &body], &[("S", SECRET)]);
    assert_ne!(call(), call());
    assert!(call().lines().any(|line| line.starts_with("Idempotency-Key: ")));
    // From standard input the same bytes are signed.
    let piped = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
        .args(["sign", "--key", "k", "--secret-env", "S"])
        .env_clear()
        .env("S", SECRET)
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    let named = printed(&["--key", "k", "--secret-env", "S", &body], &[("S", SECRET)]);
    assert_eq!(String::from_utf8_lossy(&piped.stdout), named);
}
