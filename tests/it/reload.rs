//! Reload of secrets: no valid delivery is refused, none under a removed secret is accepted, an invalid
//! configuration changes nothing, and a failed reload is retried.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::setup::Setup;
use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::logs::Logs;
use crate::support::memory::Memory;
use crate::support::program::{run, run_bare, variables};
use crate::support::request::{Request, sign};
use crate::support::scrape::Scrape;
use crate::support::served::Served;
use crate::support::wait::eventually;
use crate::support::{fifo, full_tier};

const OLD: &str = "the-old-secret-which-is-long-enough-0123456789";
const NEW: &str = "the-new-secret-which-is-long-enough-0123456789";

const USUAL: &str =
    "[http]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[bus]\ntype = \"stdout\"\n";

/// A delivery of one event, signed with a secret.
fn signed(secret: &str, at: usize) -> Request {
    let body = format!(r#"{{"event_type":"x.y","at":{at}}}"#);
    let signature = sign(secret, &[body.as_bytes()]);
    Request::unsigned(body).header("Attio-Signature", signature).header("Idempotency-Key", at.to_string())
}

/// A configuration whose source has these secrets, and something more.
fn configuration(secrets: &[(&str, &str)], more: &str) -> String {
    let entry = |(label, value): &(&str, &str)| format!("{{ label = \"{label}\", value = \"{value}\" }}");
    let secrets: Vec<String> = secrets.iter().map(entry).collect();
    format!("{USUAL}[sources.attio]\nsecrets = [{}]\n{more}", secrets.join(", "))
}

async fn serve(setup: &Setup) -> Bridge {
    Bridge::over(Memory::new(), setup.config()).await
}

/// Waits for so many automatic reloads.
async fn reloads(bridge: &Bridge, result: &str, count: f64) {
    bridge.until("config_reloads_total", &[("result", result)], count).await;
}

/// Asks for a reload and waits for it.
async fn reload(bridge: &Bridge, result: &str) {
    let labels = [("result", result)];
    let before = bridge.metric("config_reloads_total", &labels).await;
    bridge.begin_reload();
    eventually("it is reloaded", || async { bridge.metric("config_reloads_total", &labels).await > before })
        .await;
}

/// The status of a delivery signed with a secret.
async fn status(bridge: &Bridge, secret: &str) -> u16 {
    bridge.ask(&signed(secret, 0)).await.status
}

/// Senders that send all the time, all with one secret at a time.
struct Traffic {
    new: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    sent: Vec<Arc<AtomicUsize>>,
    senders: JoinSet<()>,
}

impl Traffic {
    fn start(address: SocketAddr) -> Self {
        let (new, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let sent: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
        let mut senders = JoinSet::new();
        for (which, sent) in sent.iter().cloned().enumerate() {
            let (new, over) = (Arc::clone(&new), Arc::clone(&over));
            senders.spawn(async move {
                let mut client = Client::connect(address).await;
                while !over.load(Ordering::SeqCst) {
                    let secret = if new.load(Ordering::SeqCst) { NEW } else { OLD };
                    let at = sent.load(Ordering::SeqCst) * 4 + which;
                    let answer = client.ask(&signed(secret, at)).await;
                    assert_eq!(answer.status_and_reason(), (200, "accepted".into()), "valid delivery {at}");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { new, over, sent, senders }
    }

    fn total(&self) -> usize {
        self.sent.iter().map(|sent| sent.load(Ordering::SeqCst)).sum()
    }

    /// Signs with the other secret from now on, and waits until every delivery with the first is answered.
    async fn turn(&self, new: bool) {
        self.new.store(new, Ordering::SeqCst);
        let before: Vec<usize> = self.sent.iter().map(|sent| sent.load(Ordering::SeqCst)).collect();
        eventually("every sender uses the other secret", || async {
            self.sent.iter().zip(&before).all(|(sent, before)| sent.load(Ordering::SeqCst) > before + 1)
        })
        .await;
    }

    async fn stop(mut self) {
        self.over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.senders.join_next().await {
            ended.unwrap();
        }
    }
}

async fn scrape(admin: SocketAddr) -> Scrape {
    let mut request = Request::unsigned("").method("GET").path("/metrics");
    request.headers.retain(|(name, _)| name == "Host");
    Scrape::parse(std::str::from_utf8(&Client::connect(admin).await.ask(&request).await.body).unwrap())
}

/// Rotates the secret back and forth under traffic; `reload` requests a reload.
async fn rotate(setup: &Setup, http: SocketAddr, admin: SocketAddr, reload: impl Fn()) {
    let traffic = Traffic::start(http);
    let enough = if full_tier() { 100_000 } else { 3_000 };
    // Tested by deliveries, because the bridge may also reload on its own.
    let put = async |secrets: &[(&str, &str)]| {
        let draft = setup.write("draft", configuration(secrets, ""));
        std::fs::rename(draft, setup.folder().join("config.toml")).unwrap();
        reload();
        eventually("exactly these secrets are in force", || async {
            let mut client = Client::connect(http).await;
            for secret in [OLD, NEW] {
                let good = secrets.iter().any(|(_, given)| *given == secret);
                if client.ask(&signed(secret, usize::MAX)).await.status != if good { 200 } else { 401 } {
                    return false;
                }
            }
            true
        })
        .await;
    };
    let mut round = 0;
    while round < 2 || traffic.total() < enough {
        let (from, to) =
            if round % 2 == 0 { (("old", OLD), ("new", NEW)) } else { (("new", NEW), ("old", OLD)) };
        put(&[to, from]).await;
        traffic.turn(round % 2 == 0).await;
        put(&[to]).await;
        round += 1;
    }
    let total = traffic.total();
    traffic.stop().await;
    let scrape = scrape(admin).await;
    let verified = |secret: &str| {
        let labels = [("source", "attio"), ("secret", secret), ("result", "ok")];
        scrape.get("signature_verifications_total", &labels)
    };
    assert!(verified("old") > 0.0 && verified("new") > 0.0);
    assert!(verified("old") + verified("new") >= total as f64);
    assert_eq!(scrape.get("config_reloads_total", &[("result", "failed")]), 0.0);
    println!("{total} deliveries, {round} rotations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_valid_delivery_is_refused_while_secrets_are_rotated() {
    let setup = Setup::empty().toml(&configuration(&[("old", OLD)], ""));
    let bridge = serve(&setup).await;
    rotate(&setup, bridge.http, bridge.admin, || bridge.begin_reload()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_and_no_valid_delivery_is_refused() {
    let setup = Setup::empty().toml(&configuration(&[("old", OLD)], ""));
    let config = setup.folder().join("config.toml");
    let mut served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    rotate(&setup, served.http, served.admin, || served.signal("HUP")).await;
    assert!(!served.logged("secrets reloaded").is_empty());
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
}

/// Puts a version of a mounted secret in force as the kubelet does: by renaming a link.
fn mount(folder: &Path, version: &str, secret: &str) {
    std::fs::create_dir(folder.join(version)).unwrap();
    std::fs::write(folder.join(version).join("secret"), secret).unwrap();
    symlink(version, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn a_secret_whose_symlink_is_swapped_is_reloaded() {
    let setup = Setup::empty().var("ATTIO_BRIDGE__BUS__TYPE", "stdout");
    let folder = setup.folder().to_owned();
    mount(&folder, "..1", OLD);
    symlink("..data/secret", folder.join("secret")).unwrap();
    let setup = setup
        .var("ATTIO_WEBHOOK_SECRET_FILE", folder.join("secret"))
        .var("ATTIO_BRIDGE__HTTP__LISTEN", "127.0.0.1:0")
        .var("ATTIO_BRIDGE__ADMIN__LISTEN", "127.0.0.1:0");
    let bridge = serve(&setup).await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (200, 401));
    mount(&folder, "..2", NEW);
    reloads(&bridge, "ok", 1.0).await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (401, 200));

    // Written in place.
    std::fs::write(folder.join("secret"), format!("{OLD}\n")).unwrap();
    reloads(&bridge, "ok", 2.0).await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (200, 401));
}

#[tokio::test]
async fn a_changed_configuration_file_is_reloaded() {
    let setup = Setup::empty().toml(&configuration(&[("a", OLD)], ""));
    let bridge = serve(&setup).await;
    assert_eq!(status(&bridge, NEW).await, 401);
    setup.write("config.toml", configuration(&[("a", OLD), ("b", NEW)], ""));
    reloads(&bridge, "ok", 1.0).await;
    let labels = [("source", "attio"), ("secret", "b"), ("result", "ok")];
    assert_eq!(bridge.metric("signature_verifications_total", &labels).await, 0.0, "there from the start");
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (200, 200));
    assert_eq!(bridge.metric("signature_verifications_total", &labels).await, 1.0);
}

#[tokio::test]
async fn an_invalid_reload_changes_nothing_and_reports_the_problem() {
    let logs = Logs::capture();
    let setup = Setup::empty().toml(&configuration(&[("a", OLD)], ""));
    let bridge = serve(&setup).await;
    let bad = [
        (configuration(&[("a", "short")], ""), "the secret `a` has 5 bytes and needs at least 16"),
        (configuration(&[], ""), "the source has no secret"),
        (configuration(&[("a", NEW)], "schema = \"auto\"\n"), "sources.attio.schema"),
        ("[sources".into(), "configuration file"),
    ];
    for (text, problem) in &bad {
        setup.write("config.toml", text);
        reload(&bridge, "failed").await;
        assert!(logs.text().contains(problem), "{problem}: {}", logs.text());
        assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (200, 401), "{problem}");
    }
    std::fs::remove_file(setup.folder().join("config.toml")).unwrap();
    reload(&bridge, "failed").await;
    assert!(logs.text().contains("cannot be read"));
    assert_eq!(status(&bridge, OLD).await, 200);
    // Valid again.
    setup.write("config.toml", configuration(&[("a", NEW)], ""));
    reload(&bridge, "ok").await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (401, 200));
    for secret in [OLD, NEW] {
        assert!(!logs.text().contains(secret), "no secret is ever logged");
    }
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_secrets_are_reloaded() {
    let logs = Logs::capture();
    let setup = Setup::empty().toml(&configuration(&[("a", OLD)], ""));
    let bridge = serve(&setup).await;
    let more = format!(
        "scheme = \"timestamped\"\n[sources.other]\nsecrets = [{{ label = \"x\", value = \"{NEW}\" }}]\n\
         [attio]\napi_key = \"canary-password\"\n[shutdown]\ndelay = \"1s\"\n"
    );
    setup.write("config.toml", configuration(&[("b", NEW)], &more));
    reload(&bridge, "ok").await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (401, 200), "the scheme stays");
    assert_eq!(bridge.ask(&signed(NEW, 1).path("/webhooks/other")).await.status, 404);
    let text = logs.text();
    let line = |message: &str| text.lines().find(|line| line.contains(message)).unwrap().to_owned();
    let reloaded = line("secrets reloaded");
    assert!(reloaded.contains("sources.attio.secrets.a, sources.attio.secrets.b"), "{reloaded}");
    let restart = line("changed, and needs a restart");
    for key in ["sources.attio.scheme", "sources.other.secrets.x", "attio.api_key", "shutdown.delay"] {
        assert!(restart.contains(key), "{key}: {restart}");
    }
    assert!(!restart.contains("sources.attio.secrets"), "{restart}");
    assert!(!text.contains("canary"));
}

#[tokio::test]
async fn a_failed_reload_is_retried_when_the_ca_file_is_back() {
    // Not even root can read a directory as a file.
    failed_reload_of_a_ca_file(|ca| {
        std::fs::create_dir(ca).unwrap();
        None
    })
    .await;
}

#[tokio::test]
async fn a_reload_does_not_wait_for_a_ca_file_that_is_a_pipe() {
    failed_reload_of_a_ca_file(|ca| Some(fifo(ca))).await;
}

#[tokio::test]
async fn a_reload_does_not_read_a_ca_file_without_an_end() {
    failed_reload_of_a_ca_file(|ca| {
        symlink("/dev/zero", ca).unwrap();
        None
    })
    .await;
}

/// Reloads while `bad` is in the place of the CA file, and again when the file is back.
async fn failed_reload_of_a_ca_file(bad: impl Fn(&Path) -> Option<std::fs::File>) {
    let setup = Setup::empty();
    let ca = setup.write("ca.pem", "a certificate");
    let with_ca = |secret| {
        let ca = ca.display();
        let more = format!(
            "[kafka]\nbootstrap_servers = \"localhost:1\"\nsecurity_protocol = \"ssl\"\nca_file = \"{ca}\"\n"
        );
        configuration(&[("a", secret)], &more).replace("stdout", "kafka")
    };
    let setup = setup.toml(&with_ca(OLD));
    let bridge = serve(&setup).await;
    std::fs::remove_file(&ca).unwrap();
    let kept = bad(&ca);
    setup.write("config.toml", with_ca(NEW));
    eventually("a reload fails", || async {
        bridge.metric("config_reloads_total", &[("result", "failed")]).await > 0.0
    })
    .await;
    assert_eq!((status(&bridge, OLD).await, status(&bridge, NEW).await), (200, 401));
    drop(kept);
    std::fs::remove_dir(&ca).or_else(|_| std::fs::remove_file(&ca)).unwrap();
    setup.write("ca.pem", "a certificate");
    eventually("the new secret is in force", || async { status(&bridge, NEW).await == 200 }).await;
    assert_eq!(status(&bridge, OLD).await, 401);
}

#[tokio::test]
async fn a_failed_reload_is_retried_when_a_file_appears_that_was_never_read() {
    let setup = Setup::empty().toml(&configuration(&[("a", OLD)], ""));
    let bridge = serve(&setup).await;
    let secret = setup.folder().join("new-secret");
    let entry = format!("{{ label = \"b\", file = \"{}\" }}", secret.display());
    setup.write("config.toml", format!("{USUAL}[sources.attio]\nsecrets = [{entry}]\n"));
    eventually("a reload fails", || async {
        bridge.metric("config_reloads_total", &[("result", "failed")]).await > 0.0
    })
    .await;
    std::fs::write(&secret, NEW).unwrap();
    eventually("the new secret is in force", || async { status(&bridge, NEW).await == 200 }).await;
}

#[tokio::test]
async fn reload_from_an_unreadable_pipe_fails_and_is_retried() {
    let setup = Setup::empty();
    let secret = setup.write("secret", OLD);
    let entry = format!("{{ label = \"a\", file = \"{}\" }}", secret.display());
    let setup = setup.toml(&format!("{USUAL}[sources.attio]\nsecrets = [{entry}]\n"));
    let bridge = serve(&setup).await;
    let pipe = setup.folder().join("pipe");
    let writer = fifo(&pipe);
    std::fs::rename(&pipe, &secret).unwrap();
    reload(&bridge, "failed").await;
    drop(writer);
    reload(&bridge, "failed").await;
    assert_eq!(status(&bridge, OLD).await, 200);
    let renewed = setup.write("renewed", NEW);
    std::fs::rename(renewed, &secret).unwrap();
    eventually("the new secret is in force", || async { status(&bridge, NEW).await == 200 }).await;
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn a_slugs_file_that_blocks_or_never_ends_fails_the_reload_and_is_retried() {
    for endless in [false, true] {
        let setup = Setup::empty();
        let slugs = setup.write("slugs.json", r#"{"version":1,"workspace_id":"w","objects":{},"lists":{}}"#);
        let more = format!("[route]\nslugs_file = \"{}\"\n", slugs.display());
        let setup = setup.toml(&configuration(&[("a", OLD)], &more));
        let bridge = serve(&setup).await;
        let bad = setup.folder().join("bad");
        let _writer =
            if endless { symlink("/dev/zero", &bad).map(|()| None).unwrap() } else { Some(fifo(&bad)) };
        std::fs::rename(&bad, &slugs).unwrap();
        // The secrets do not wait for the slugs.
        setup.write("config.toml", configuration(&[("a", NEW)], &more));
        reload(&bridge, "failed").await;
        eventually("the new secret is in force", || async { status(&bridge, NEW).await == 200 }).await;
        let mended =
            setup.write("mended", r#"{"version":1,"workspace_id":"w","objects":{"1":"x"},"lists":{}}"#);
        std::fs::rename(mended, &slugs).unwrap();
        eventually("a reload succeeds", || async {
            bridge.metric("config_reloads_total", &[("result", "ok")]).await > 0.0
        })
        .await;
        bridge.stop().await.unwrap();
    }
}

#[test]
fn a_file_that_blocks_or_never_ends_is_refused_with_its_key_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let _writer = fifo(Path::new(&path("pipe")));
    std::fs::File::create(path("sparse")).unwrap().set_len(1 << 30).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    std::fs::write(path("some.pem"), "not read").unwrap();
    let kafka = [
        ("BUS__TYPE", "kafka"),
        ("KAFKA__BOOTSTRAP_SERVERS", "localhost:1"),
        ("KAFKA__SECURITY_PROTOCOL", "ssl"),
    ];
    let nats = [("BUS__TYPE", "nats"), ("NATS__SERVERS", "tls://localhost:1")];
    let stdout = [("BUS__TYPE", "stdout")];
    let table: [(&str, &[(&str, &str)], Option<&str>); 11] = [
        ("kafka.ca_file", &kafka, None),
        ("kafka.cert_file", &kafka, Some("KAFKA__KEY_FILE")),
        ("kafka.key_file", &kafka, Some("KAFKA__CERT_FILE")),
        ("nats.ca_file", &nats, None),
        ("nats.cert_file", &nats, Some("NATS__KEY_FILE")),
        ("nats.key_file", &nats, Some("NATS__CERT_FILE")),
        ("nats.creds_file", &nats, None),
        ("nats.nkey_file", &nats, None),
        ("nats.token", &nats, None),
        ("attio.api_key", &stdout, None),
        ("sources.attio.secrets.x", &stdout, None),
    ];
    for (bad, causes) in [
        ("pipe", &["pipe", "within 2 s"][..]),
        ("/dev/zero", &["device", "larger than"]),
        ("sparse", &["larger than"]),
        ("folder", &["directory"]),
    ] {
        let bad = if bad.starts_with('/') { bad.to_owned() } else { path(bad) };
        for (key, bus, other) in table {
            let mut name = key.to_uppercase().replace('.', "__");
            if !name.ends_with("_FILE") {
                name += "_FILE";
            }
            let mut given = variables(bus);
            given.extend(variables(&[(&name, &bad)]));
            given.extend(other.into_iter().flat_map(|other| variables(&[(other, &path("some.pem"))])));
            let output = run(&["check"], &given);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{key} = {bad}: {said}");
            let told = said.to_lowercase();
            assert!(
                told.contains(key.trim_end_matches(".x")) && causes.iter().any(|cause| told.contains(cause)),
                "{key} = {bad}: {said}"
            );
        }
        let output = run_bare(&["check", "--config", &bad], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{bad}: {said}");
        assert!(causes.iter().any(|cause| said.to_lowercase().contains(cause)), "{bad}: {said}");
    }
}

#[tokio::test]
async fn a_reload_without_a_change_logs_no_empty_field() {
    let logs = Logs::capture();
    let setup = Setup::empty().toml(&configuration(&[("a", OLD)], ""));
    let bridge = serve(&setup).await;
    reload(&bridge, "ok").await;
    let lines = logs.lines();
    let line = lines.iter().find(|line| line["message"] == "secrets reloaded").unwrap();
    assert!(line.get("changed").is_none(), "{line}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_reload() {
    let setup = Setup::empty();
    let secret = setup.write("secret", OLD);
    let entry = format!("{{ label = \"a\", file = \"{}\" }}", secret.display());
    let setup = setup.toml(&format!("{USUAL}[sources.attio]\nsecrets = [{entry}]\n"));
    let bridge = serve(&setup).await;
    let pipe = setup.folder().join("pipe");
    let _writer = fifo(&pipe);
    std::fs::rename(&pipe, &secret).unwrap();
    bridge.begin_reload();
    bridge.stop().await.unwrap();
}
