//! Free ports for servers whose port is configured before they start and must stay free across restarts.
//!
//! They are outside the ephemeral range, so no outgoing connection and no listener on port 0 takes them. A test
//! process reserves a port by binding the UDP port of the same number until it ends.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below are those of well-known services.
const LOWEST: u16 = 10_000;

/// The claims of this process.
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Reserves ports that nothing listens on.
pub fn free_ports<const N: usize>() -> [u16; N] {
    [0; N].map(|_| free_port())
}

/// A loopback address that nothing listens on.
pub fn free_address() -> String {
    format!("{}:{}", Ipv4Addr::LOCALHOST, free_port())
}

fn free_port() -> u16 {
    let taken_by_itself = range_of_the_system();
    loop {
        let port = fastrand::u16(LOWEST..);
        if taken_by_itself.is_some_and(|(from, to)| (from..=to).contains(&port)) {
            continue;
        }
        if let Some(claim) = claim(port) {
            CLAIMS.lock().expect("no panic while it is locked").push(claim);
            return port;
        }
    }
}

/// None if the port is taken.
fn claim(port: u16) -> Option<UdpSocket> {
    let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(claim)
}

/// The first and last ephemeral port; none if that is unknown or leaves too few other ports.
fn range_of_the_system() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let (from, to) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (from >= LOWEST + 5_000).then_some((from, to))
}

#[test]
fn a_port_is_given_once_and_stays_the_tests_own() {
    let ports: [u16; 100] = free_ports();
    let distinct: std::collections::BTreeSet<_> = ports.into_iter().collect();
    assert_eq!(distinct.len(), ports.len());
    let taken_by_itself = range_of_the_system();
    for port in ports {
        assert!(claim(port).is_none(), "another process would get it, too");
        assert!(taken_by_itself.is_none_or(|(from, to)| !(from..=to).contains(&port)), "{port}");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("its owner can listen on it");
    }
}
