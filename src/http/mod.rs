//! The HTTP edge.

use std::time::Duration;

/// The limits of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `host:port` of the public listener.
    pub listen: String,
    /// The largest body, in bytes.
    pub max_body_bytes: usize,
    /// The largest request head, in bytes.
    pub max_header_bytes: usize,
    /// From the first byte of a request (or the connection's start) to the end of its head.
    pub header_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// How long a connection may stay open between two requests.
    pub idle_timeout: Duration,
    /// From the end of the head to the answer.
    pub answer_timeout: Duration,
    /// Connections open at once.
    pub max_connections: usize,
    /// Deliveries in flight at once.
    pub max_in_flight: usize,
    /// Bytes of the bodies of deliveries in flight.
    pub max_in_flight_bytes: usize,
}
