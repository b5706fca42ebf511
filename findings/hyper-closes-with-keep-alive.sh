#!/bin/sh
# hyper answers an HTTP/1.0 keep-alive request whose handler says `Connection: close` with both tokens.
#
# Versions   hyper 1.12.0, hyper-util 0.1.21 (crates)
# Expected   A handler that sets `Connection: close` gets exactly that header on the wire, as it does for HTTP/1.1.
# Observed   For an HTTP/1.0 request with `Connection: keep-alive` the answer carries `connection: close, keep-alive`,
#            and hyper then closes. A client that looks for `keep-alive` counts on a connection that is going away.
#            A server that speaks HTTP/1.0 has to take the request's own `Connection` header out before hyper sees it.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "tokens"
version = "0.0.0"
edition = "2024"

[dependencies]
http-body-util = "=0.1.3"
hyper = { version = "=1.12.0", features = ["http1", "server"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
tokio = { version = "1", features = ["io-util", "macros", "net", "rt", "time"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn serve(listener: TcpListener, close: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |_: Request<_>| async move {
            let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
            if close {
                response.headers_mut().insert("connection", "close".parse().expect("a header value"));
            }
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The `connection` header of the answer, and whether the server closes the connection within a second.
async fn ask(close: bool, request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, close));
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await.is_ok();
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let header = answer.lines().find_map(|line| line.strip_prefix("connection: ")).unwrap_or("none");
    format!("connection: {header}; {}", if ended { "closed" } else { "stays open" })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let v10 = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let v11 = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n";
    println!("1.0, handler says nothing: {}", ask(false, v10).await);
    println!("1.0, handler says close:   {}", ask(true, v10).await);
    println!("1.1, handler says close:   {}", ask(true, v11).await);
}
RUST
observed=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo run --quiet)
printf '%s\n' "$observed"

expected="1.0, handler says nothing: connection: keep-alive; stays open
1.0, handler says close:   connection: close, keep-alive; closed
1.1, handler says close:   connection: close; closed"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
