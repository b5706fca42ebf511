//! Deliveries through nginx and HAProxy, the real programs, with the configuration that
//! `deploy/docs/behind-a-proxy.md` gives for them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use attio_bridge::cloudevent::Data;
use attio_bridge::pipeline::publish::PublishError;
use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::fixtures;
use crate::support::memory::Answer;
use crate::support::ports::free_address;
use crate::support::request::Request;
use crate::support::wait::eventually;

const PAGE: &str = include_str!("../../deploy/docs/behind-a-proxy.md");

/// The block of the page in that language, for these addresses.
fn block(language: &str, listen: SocketAddr, bridge: &Bridge) -> String {
    let blocks: Vec<&str> = PAGE.split(&format!("```{language}\n")).skip(1).collect();
    assert_eq!(blocks.len(), 1, "one block of {language}");
    let mut text = blocks[0].split("```").next().unwrap().to_owned();
    let admin_port = format!("check port {}", bridge.admin.port());
    for (from, to, times) in [
        ("listen 80;", format!("listen {listen};"), usize::from(language == "nginx")),
        ("bind :80\n", format!("bind {listen}\n"), usize::from(language == "haproxy")),
        ("check port 8081", admin_port, usize::from(language == "haproxy")),
        ("127.0.0.1:8080", bridge.http.to_string(), 1),
    ] {
        assert_eq!(text.matches(from).count(), times, "{from} in the block of {language}");
        text = text.replace(from, &to);
    }
    text
}

/// A running proxy. Killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Proxy {
    /// Starts a program with a configuration in a folder of its own and waits until it accepts connections.
    async fn start(program: &str, arguments: &[&str], address: SocketAddr, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = configuration.replace("FOLDER", folder.path().to_str().unwrap());
        fs::write(folder.path().join("proxy.conf"), configuration).unwrap();
        let output = || {
            Stdio::from(
                fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap(),
            )
        };
        let child = Command::new(program)
            .args(arguments)
            .arg(folder.path().join("proxy.conf"))
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; tests/install.sh installs it"));
        let mut proxy = Self { child, address, folder };
        eventually(&format!("{program} accepts connections"), || {
            assert!(proxy.child.try_wait().unwrap().is_none(), "{program} ended: {}", proxy.log());
            async { tokio::net::TcpStream::connect(address).await.is_ok() }
        })
        .await;
        proxy
    }

    async fn nginx(bridge: &Bridge) -> Self {
        let address = free_address().parse().unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = temporary.map(|name| format!("{name}_temp_path FOLDER/{name};\n")).concat();
        let server = block("nginx", address, bridge);
        let configuration = format!(
            "daemon off; master_process off; pid FOLDER/pid; error_log stderr;\n\
             events {{}}\nhttp {{\naccess_log off;\n{paths}{server}}}\n"
        );
        // Debian puts it into a folder that is not in everybody's PATH.
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        Self::start(program, &["-e", "stderr", "-c"], address, &configuration).await
    }

    async fn haproxy(bridge: &Bridge) -> Self {
        let address = free_address().parse().unwrap();
        let configuration = block("haproxy", address, bridge);
        let program = if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
        Self::start(program, &["-db", "-f"], address, &configuration).await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every kind of answer comes through, and what is stored has the bytes that were sent.
async fn deliveries_come_through(bridge: &Bridge, proxy: &Proxy) {
    let body = r#"{ "event_type": "note.created",  "id":{"note_id":"n"}, "text":"\u00e9 é" }"#;
    let mut client = Client::connect(proxy.address).await;

    let answer = client.ask(&Request::keyed("plain", body)).await;
    assert_eq!(answer.status_and_reason(), (200, "accepted".into()), "{}", proxy.log());
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let answer = client.ask(&Request::keyed("chunked", body).chunked(7)).await;
    assert_eq!(answer.status_and_reason(), (200, "accepted".into()), "on the same connection, chunked");
    let stored = bridge.bus.stored();
    assert_eq!(stored.len(), 2);
    for message in stored {
        let Data::Json(data) = message.event.data() else { panic!("quarantined: {message:?}") };
        assert_eq!(data, body);
    }

    assert_eq!(
        client.ask(&Request::keyed("plain", body)).await.status_and_reason(),
        (200, "duplicate".into())
    );
    let forged = Request::unsigned(body).header("Attio-Signature", "0".repeat(64));
    assert_eq!(client.ask(&forged).await.status_and_reason(), (401, "unauthorized".into()));

    let too_large = Request::signed(vec![b' '; 524_289]);
    let answer = Client::connect(proxy.address).await.ask(&too_large).await;
    assert_eq!(answer.status_and_reason(), (413, "body_too_large".into()));

    bridge.bus.answer(Answer::Fail(PublishError::Unavailable { detail: "down".into() }));
    let delivery = Request::keyed("down", fixtures::delivery("record.created"));
    let answer = Client::connect(proxy.address).await.ask(&delivery).await;
    assert_eq!(answer.status_and_reason(), (503, "broker_unavailable".into()));
    let retry_after: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=30).contains(&retry_after), "{retry_after}");

    bridge.bus.answer(Answer::Acknowledge);
    let answer = Client::connect(proxy.address).await.ask(&delivery).await;
    assert_eq!(answer.status_and_reason(), (200, "accepted".into()), "the retry");
}

#[tokio::test]
async fn deliveries_come_through_nginx() {
    let bridge = Bridge::start().await;
    let proxy = Proxy::nginx(&bridge).await;
    deliveries_come_through(&bridge, &proxy).await;
}

#[tokio::test]
async fn deliveries_come_through_haproxy() {
    let bridge = Bridge::start().await;
    let proxy = Proxy::haproxy(&bridge).await;
    deliveries_come_through(&bridge, &proxy).await;
}
