//! Secrets of new webhooks: none is lost, logged or overwritten.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::Method;

use crate::support::attio::{Attio, KEY};
use crate::support::faults::Fault;
use crate::support::wait::eventually_blocking;

const URL: &str = "https://hooks.example.com/webhooks/attio";

fn create(attio: &Attio, more: &[&str]) -> crate::support::attio::Ran {
    let arguments = [&["create", "--target-url", URL, "--event", "record.created"], more].concat();
    attio.webhooks(&arguments)
}

#[test]
fn secret_file_has_mode_0600_and_is_not_overwritten() {
    let attio = Attio::start();
    let path = attio.path("secret");
    let file = path.to_str().unwrap();
    let created = create(&attio, &["--secret-file", file]).expect(0).mentions(&[file]);
    let made = attio.only();
    assert_eq!(created.stdout, format!("{}\n", made.webhook_id));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", made.secret));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");

    attio.store().webhooks.clear();
    create(&attio, &["--secret-file", file]).expect(1).mentions(&["already exists", "--overwrite-secret"]);
    assert_eq!(attio.asked("POST"), 1, "the file is checked before anything is sent");
    create(&attio, &["--secret-file", file, "--overwrite-secret", "--json"]).expect(0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", attio.only().secret));
}

#[test]
fn unwritable_secret_file_fails_before_the_webhook_is_created() {
    let attio = Attio::start();
    let nowhere = attio.path("no-such-folder/secret");
    create(&attio, &["--secret-file", nowhere.to_str().unwrap()]).expect(1).mentions(&["cannot write"]);
    let folder = attio.path("");
    create(&attio, &["--secret-file", folder.to_str().unwrap(), "--overwrite-secret"]).expect(1);
    assert_eq!(attio.asked("POST"), 0);
}

#[test]
fn full_disk_fails_before_the_webhook_is_created() {
    let attio = Attio::start();
    let unshared = Command::new("unshare").args(["-rm", "true"]).output();
    assert!(
        unshared.is_ok_and(|output| output.status.success()),
        "this test needs mounts of its own (unshare -rm)"
    );
    std::fs::create_dir(attio.path("full")).unwrap();
    let script = "mount -t tmpfs -o size=4k tmpfs full && head -c 4096 /dev/zero > full/other && exec \"$0\" webhooks \
                  create --target-url \"$1\" --event record.created --secret-file full/secret";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_attio-bridge"), URL])
        .env("ATTIO_API_KEY", KEY)
        .env("ATTIO_BRIDGE__ATTIO__API_URL", attio.url())
        .current_dir(attio.path(""))
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write full/secret"), "{message}");
    assert_eq!(attio.asked("POST"), 0);
}

#[test]
fn manifest_is_a_kubernetes_secret() {
    let attio = Attio::start();
    let more = ["--secret-format", "kubernetes", "--secret-name", "attio-bridge"];
    let created = create(&attio, &more).expect(0);
    let manifest: serde_json::Value = serde_yaml_ng::from_str(&created.stdout).unwrap();
    let made = attio.only();
    assert_eq!(manifest["kind"], "Secret");
    assert_eq!(manifest["metadata"]["name"], "attio-bridge");
    assert_eq!(manifest["stringData"]["attio-webhook"], made.secret.as_str());
    assert_eq!(manifest["metadata"]["annotations"]["attio-bridge.dev/webhook-id"], made.webhook_id.as_str());
}

#[test]
fn secret_and_key_are_never_logged() {
    let attio = Attio::start();
    let path = attio.path("secret");
    let trace = [("RUST_LOG", "trace")];
    let kept =
        ["create", "--target-url", URL, "--event", "record.created", "--secret-file", path.to_str().unwrap()];
    let created = attio.with(&trace, &kept).expect(0);
    let secret = attio.only().secret;
    assert!(created.stderr.contains("TRACE"), "the log is on");
    assert!(!created.stderr.contains(&secret) && !created.stdout.contains(&secret));
    assert!(!created.stderr.contains(KEY) && !created.stdout.contains(KEY));
}

#[test]
fn webhook_is_deleted_again_if_its_secret_cannot_be_printed() {
    let attio = Attio::start();
    let script = "exec \"$0\" webhooks create --target-url \"$1\" --event record.created >/dev/full";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_attio-bridge"), URL])
        .env_clear()
        .env("ATTIO_API_KEY", KEY)
        .env("ATTIO_BRIDGE__ATTIO__API_URL", attio.url())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("was deleted"), "{message}");
    assert_eq!((attio.asked("POST"), attio.asked("DELETE")), (1, 1));
    assert!(attio.store().webhooks.is_empty());
}

/// Attio has created the webhook, but not answered, when Ctrl-C is pressed.
#[test]
fn ctrl_c_waits_for_the_secret_of_a_webhook_being_created() {
    let attio = Attio::start();
    let path = attio.path("secret");
    attio.faults([Fault::Of(Method::POST, Box::new(Fault::Late(Duration::from_secs(2))))]);
    let child = start_creating(&attio, &create_into(&path));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(message.contains("Finishing, to keep the secrets"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", attio.only().secret));
}

/// Another process writes the file after it was checked, and the webhook cannot be deleted: the process has
/// the only copy of the secret.
#[test]
fn secret_of_an_orphaned_webhook_is_printed() {
    let attio = Attio::start();
    let path = attio.path("secret");
    orphan(&attio);
    let child = start_creating(&attio, &create_into(&path));
    std::fs::write(&path, "another process's").unwrap();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let made = attio.only();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&made.webhook_id) && message.contains("only this once"), "{message}");
    assert!(!message.contains(&made.secret), "{message}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", made.secret));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "another process's");
}

/// The document on standard output never has a secret.
#[test]
fn secret_of_an_orphaned_webhook_is_dropped_if_stdout_is_json() {
    let attio = Attio::start();
    let path = attio.path("secret");
    let config = format!(
        "[sources.attio]\n[[webhooks]]\nname = \"a\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\n\
         secret_file = {path:?}\nsubscriptions = [{{ event_type = \"note.created\" }}]\n"
    );
    let config = attio.write("config.toml", &config);
    orphan(&attio);
    let child = start_creating(&attio, &["apply", "--yes", "--json", "--config", config.to_str().unwrap()]);
    std::fs::write(&path, "another process's").unwrap();
    let output = child.wait_with_output().unwrap();
    let (message, made) = (String::from_utf8(output.stderr).unwrap(), attio.only());
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("the secret of webhook {} is lost", made.webhook_id)), "{message}");
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(outcome["error"].as_str().unwrap().contains(&made.webhook_id), "{outcome}");
    assert!(!message.contains(&made.secret) && !outcome.to_string().contains(&made.secret));
}

fn create_into(secret_file: &Path) -> [&str; 7] {
    let path = secret_file.to_str().unwrap();
    ["create", "--target-url", URL, "--event", "record.created", "--secret-file", path]
}

/// Attio answers the POST late, and every DELETE with 503.
fn orphan(attio: &Attio) {
    attio.faults([Fault::Of(Method::POST, Box::new(Fault::Late(Duration::from_secs(2))))]);
    attio.faults((0..10).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503)))));
}

/// Starts a verb; its webhook exists, but Attio has not answered yet.
fn start_creating(attio: &Attio, arguments: &[&str]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
        .arg("webhooks")
        .args(arguments)
        .env_clear()
        .env("ATTIO_API_KEY", KEY)
        .env("ATTIO_BRIDGE__ATTIO__API_URL", attio.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually_blocking("Attio has created it", || !attio.store().webhooks.is_empty());
    child
}
