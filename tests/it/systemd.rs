//! Notifications to systemd.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::fifo;
use crate::support::request::SECRET;
use crate::support::served::Served;
use crate::support::wait::{PATIENCE, eventually};

/// The next notification that is not of the watchdog.
fn next_state(socket: &UnixDatagram) -> String {
    loop {
        let text = receive(socket);
        if text != "WATCHDOG=1\n" {
            return text;
        }
    }
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).expect("a notification");
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

#[test]
fn systemd_is_notified_of_start_reload_stop_and_watchdog() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "100000"),
    ]);
    assert_eq!(next_state(&socket), "READY=1\n");
    let mut alive = 0;
    while alive < 5 {
        alive += usize::from(receive(&socket) == "WATCHDOG=1\n");
    }

    served.signal("HUP");
    let reloading = next_state(&socket);
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the form that systemd wants");
    assert!(since.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
    assert_eq!(next_state(&socket), "READY=1\n");

    served.signal("TERM");
    assert_eq!(next_state(&socket), "STOPPING=1\n");
    assert_eq!(served.ended().code(), Some(0));
}

#[test]
fn ready_never_follows_stopping() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_WEBHOOK_SECRET_PREVIOUS_FILE", secret.to_str().unwrap()),
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
    ]);
    assert_eq!(next_state(&socket), "READY=1\n");
    // A reload that takes a while: a pipe without data.
    let writer = fifo(&folder.path().join("fifo"));
    std::fs::rename(folder.path().join("fifo"), &secret).unwrap();
    served.signal("HUP");
    assert!(next_state(&socket).starts_with("RELOADING=1\n"));
    served.signal("TERM");
    assert_eq!(next_state(&socket), "STOPPING=1\n");
    assert_eq!(served.ended().code(), Some(0));
    drop(writer);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    let more = socket.recv(&mut buffer).map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned());
    assert!(more.is_err(), "{more:?}");
}

#[test]
fn an_unreachable_notify_socket_is_ignored() {
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("NOTIFY_SOCKET", "/no/such/socket"),
        ("WATCHDOG_USEC", "1000000"),
    ]);
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_every_worker_is_blocked_is_forced_with_exit_code_1() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let _unread = UnixDatagram::bind(&path).unwrap();
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_BRIDGE__RUNTIME__WORKERS", "1"),
        ("ATTIO_BRIDGE__SHUTDOWN__DELAY", "0s"),
        ("ATTIO_BRIDGE__SHUTDOWN__DRAIN_TIMEOUT", "1s"),
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "100000"),
    ]);
    // Nobody reads the socket: once it is full, the watchdog's next notification blocks the only worker.
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"X=1", &path).is_ok() {}
    eventually("the worker is blocked", || async {
        tokio::time::timeout(Duration::from_secs(1), served.admin("/livez")).await.is_err()
    })
    .await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(1), "{:?}", served.log());
    eventually("the last log line is read", || async {
        !served.logged("the stop took longer than 5 s: exiting now").is_empty()
    })
    .await;
}
