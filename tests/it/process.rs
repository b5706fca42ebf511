//! The built binary as an operator runs it: output, stop, exit code.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::consumer::Found;
use crate::support::kafka::shared;
use crate::support::mix::{Mix, Planned};
use crate::support::request::{Request, SECRET};
use crate::support::served::Served;
use crate::support::wait::{PATIENCE, eventually, eventually_blocking, eventually_some};
use crate::support::{fifo, unique};

const STDOUT: (&str, &str) = ("ATTIO_BRIDGE__BUS__TYPE", "stdout");

fn task_created(task: &str) -> String {
    format!(
        "{{\n \"event_type\":\"task.created\",\r\n \"id\":{{\"workspace_id\":\"w\",\"task_id\":\"{task}\"}} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_bus_writes_each_event_before_the_answer() {
    for signal in ["TERM", "INT"] {
        let mut served = Served::start(&[STDOUT]);
        let mut out = served.stdout();
        let answer = Client::connect(served.http).await.ask(&Request::keyed("k", task_created("t"))).await;
        assert_eq!(answer.status_and_reason(), (200, "accepted".into()));
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], "com.attio.task.created");
        assert_eq!(event["data"]["id"]["task_id"], "t");
        assert!(!line.trim_end_matches('\n').contains(['\r', '\n']));
        served.signal(signal);
        assert_eq!(served.ended().code(), Some(0), "{signal}");
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "logs go to standard error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_pipe_is_broker_unavailable() {
    let mut served = Served::start(&[STDOUT]);
    drop(served.stdout());
    // A program that another test starts at this moment holds a copy of the reading end until it runs.
    let address = served.http;
    eventually("the pipe is closed", || async move {
        let request = Request::keyed(&unique("k"), task_created(&unique("t")));
        let answer = Client::connect(address).await.ask(&request).await;
        answer.status_and_reason() == (503, "broker_unavailable".into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_one_log_line_say_why_stdout_cannot_be_written() {
    let full = "exec \"$0\" \"$@\" >/dev/full";
    // In a pipe it is the shell's child, which has to end with it.
    let closed = "exec setpriv --pdeathsig KILL \"$0\" \"$@\" | true";
    for (script, cause) in [(full, "No space left on device"), (closed, "Broken pipe")] {
        let served = Served::after(script, &[STDOUT]);
        let served = &served;
        eventually("it cannot be written", || async move {
            let request = Request::keyed(&unique("k"), task_created(&unique("t")));
            served.ask(&request).await.status_and_reason() == (503, "broker_unavailable".into())
        })
        .await;
        for _ in 0..5 {
            let request = Request::keyed(&unique("k"), task_created(&unique("t")));
            assert_eq!(served.ask(&request).await.status, 503);
        }
        let ready = served.admin("/readyz").await;
        let reason = String::from_utf8(ready.body).unwrap();
        assert_eq!(ready.status, 503, "{reason}");
        assert!(reason.contains("standard output") && reason.contains(cause), "{reason}");
        eventually("it is logged", || async {
            served.log().iter().any(|line| line.contains("ERROR") && line.contains(cause))
        })
        .await;
        let errors = served.log().into_iter().filter(|line| line.contains("ERROR")).count();
        assert_eq!(errors, 1, "{:?}", served.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_1_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        // Accepts and never answers: the delivery hangs until its answer is due.
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &address),
        ("ATTIO_BRIDGE__SHUTDOWN__DELAY", "1h"),
    ]);
    let mut client = Client::connect(served.http).await;
    client.send(&Request::keyed("k", task_created("t"))).await;
    served.signal("TERM");
    eventually("readiness falls", || async {
        let mut request = Request::unsigned("").method("GET").path("/readyz");
        request.headers.retain(|(name, _)| name == "Host");
        Client::connect(served.admin).await.ask(&request).await.body == b"draining\n"
    })
    .await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_that_was_answered_200() {
    let (broker, prefix) = (shared(), unique("sigterm"));
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
    ]);
    let mut mix = Mix::new(&prefix, 11);
    let planned: Arc<[Planned]> = (0..50_000).map(|_| mix.single()).collect();
    let (next, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (planned, next, accepted) = (Arc::clone(&planned), Arc::clone(&next), Arc::clone(&accepted));
        let address = served.http;
        workers.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut stored = Vec::new();
            while let Some(delivery) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                client.send(&delivery.request).await;
                match client.try_receive().await {
                    Some(answer) if answer.status == 200 => {
                        accepted.fetch_add(1, Ordering::Relaxed);
                        stored.extend(delivery.ids.iter().cloned());
                    }
                    // Not ready yet, or draining: the sender would retry.
                    Some(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                    None => break,
                }
            }
            stored
        });
    }
    eventually("deliveries are accepted", || async { accepted.load(Ordering::Relaxed) > 500 }).await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
    let acknowledged: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() < planned.len(), "it was stopped under load");
    let found = Found::on(&broker, &prefix);
    for id in acknowledged {
        assert_eq!(found.copies(&id), 1, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_broker_is_reported_with_advice() {
    // A port that no test is ever given.
    let address = "127.0.0.1:1";
    let table = [
        ("kafka", "KAFKA__BOOTSTRAP_SERVERS", "kafka.bootstrap_servers, and that the broker runs"),
        ("nats", "NATS__SERVERS", "nats.servers, and that the server runs"),
    ];
    for (bus, key, advice) in table {
        let key = format!("ATTIO_BRIDGE__{key}");
        let served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", bus), (&key, address)]);
        eventually("the log has advice", || async {
            let advised = |line: &String| line.contains("onnection refused") && line.contains(advice);
            served.log().iter().any(advised)
        })
        .await;
        eventually("readiness reports it too", || async {
            let answer = served.admin("/readyz").await;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            answer.status == 503 && body.contains("onnection refused") && body.contains(advice)
        })
        .await;
    }
}

/// Starts `serve` from a shell.
fn spawn_serve(shell: &str, program: &str, variables: &[(&str, &str)]) -> Child {
    Command::new("sh")
        .args(["-c", shell, program, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn sighup_while_the_configuration_is_read_does_not_end_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("secret");
    let _writer = fifo(&pipe);
    let variables = [STDOUT, ("ATTIO_WEBHOOK_SECRET_FILE", pipe.to_str().unwrap())];
    let program = env!("CARGO_BIN_EXE_attio-bridge");
    let mut child = spawn_serve("exec \"$0\" \"$@\"", program, &variables);
    let descriptors = format!("/proc/{}/fd", child.id());
    eventually_blocking("it reads the secret", || {
        let open = std::fs::read_dir(&descriptors).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|path| path == pipe)
    });
    assert!(Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status().unwrap().success());
    // Nothing is written to the pipe, so that the configuration is bad in the end.
    let status = eventually_some("it ends", || child.try_wait().unwrap());
    assert_eq!((status.code(), status.signal()), (Some(78), None));
}

#[test]
fn too_few_threads_at_the_start_is_an_error_and_exit_1() {
    let folder = tempfile::tempdir().unwrap();
    // The limit does not hold for root, so this runs as somebody else, who must be able to run it.
    let program = folder.path().join("attio-bridge");
    std::fs::copy(env!("CARGO_BIN_EXE_attio-bridge"), &program).unwrap();
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for threads in [1, 2, 3, 4, 7] {
        let shell = format!(
            "if [ \"$(id -u)\" = 0 ]; then exec prlimit --nproc={threads} setpriv --reuid=54321 --clear-groups \"$0\" \"$@\"; \
             else exec prlimit --nproc={threads} \"$0\" \"$@\"; fi"
        );
        let variables = [STDOUT, ("ATTIO_WEBHOOK_SECRET", SECRET), ("ATTIO_BRIDGE__RUNTIME__WORKERS", "4")];
        let mut child = spawn_serve(&shell, program.to_str().unwrap(), &variables);
        let status = eventually_some("it ends", || child.try_wait().unwrap());
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.code(), Some(1), "{threads}: {log}");
        assert!(log.contains("thread") && !log.contains("panicked"), "{threads}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_file_size_of_stdout_is_broker_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let shell = format!("ulimit -f 8; exec \"$0\" \"$@\" > '{}'", out.display());
    let mut served = Served::after(&shell, &[STDOUT]);
    let mut accepted = 0;
    let refused = loop {
        let answer = served.ask(&Request::keyed(&accepted.to_string(), task_created("t"))).await;
        if answer.status != 200 {
            break answer;
        }
        accepted += 1;
    };
    assert_eq!(refused.status_and_reason(), (503, "broker_unavailable".into()));
    assert!(accepted > 0);
    eventually("the cause is logged", || async {
        served.log().iter().any(|line| line.contains("File too large"))
    })
    .await;
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.lines().filter(|line| line.ends_with('}')).count() >= accepted, "{text}");
    assert!(served.metrics().await.balances());
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
}

/// A name server that receives queries and never answers, and a `resolv.conf` that names it.
fn silent_name_server() -> (UdpSocket, tempfile::NamedTempFile) {
    // Another loopback address for each process, because `resolv.conf` cannot name a port.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
    let socket = UdpSocket::bind((address, 53)).expect("this test may bind port 53");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "nameserver {address}\noptions timeout:30 attempts:5").unwrap();
    (socket, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_exits_0_while_name_resolution_hangs() {
    let (socket, resolv_conf) = silent_name_server();
    for (bus, key) in [("kafka", "KAFKA__BOOTSTRAP_SERVERS"), ("nats", "NATS__SERVERS")] {
        let key = format!("ATTIO_BRIDGE__{key}");
        let variables = [
            ("ATTIO_BRIDGE__BUS__TYPE", bus),
            (&key, "broker.example:4222"),
            ("ATTIO_BRIDGE__SHUTDOWN__DRAIN_TIMEOUT", "2s"),
        ];
        let mut served = Served::with_mounted(resolv_conf.path(), "/etc/resolv.conf", &variables);
        let mut query = [0; 512];
        socket.recv(&mut query).expect("the name is looked up");
        served.signal("TERM");
        // The resolver would give up after 150 s, which is longer than the patience of this test.
        assert_eq!(served.ended().code(), Some(0), "{bus}: {:?}", served.log());
        eventually("the last log line is read", || async {
            !served.logged("drained: no requests in flight").is_empty()
        })
        .await;
        // Whatever the process still asked before it ended.
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut query).is_ok() {}
        socket.set_nonblocking(false).unwrap();
    }
}
