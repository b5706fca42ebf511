//! Standard output as a bus: each line goes out, and a copy of it to the session.

use std::io::{self, Write};

use tokio::sync::mpsc;

use super::PREFIX;
use super::cloud::{Cloud, Received};
use super::readback::{QUEUE, Readback, Request};
use crate::catalog::Kind;

/// Writes lines on, and gives copies away.
pub struct Tee<W> {
    out: W,
    line: Vec<u8>,
    copies: mpsc::Sender<Received>,
    lines: i64,
}

/// A tee before `out`, and where its copies are read.
pub fn tee<W: Write>(out: W) -> (Tee<W>, Readback) {
    let (copies, messages) = mpsc::channel(QUEUE * 64);
    let (requests, mut asked) = mpsc::channel::<Request>(1);
    // A line is copied before it is acknowledged: who has every ack has every copy.
    tokio::spawn(async move {
        while let Some(request) = asked.recv().await {
            // Nobody waits any more: nobody needs to know.
            let _ = request.send(());
        }
    });
    (Tee { out, line: Vec::new(), copies, lines: 0 }, Readback::new(messages, requests, || {}))
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        for byte in &bytes[..written] {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.lines += 1;
                // A session that has ended reads no more.
                let _ = self.copies.blocking_send(received(&line, self.lines));
            } else {
                self.line.push(*byte);
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn received(line: &[u8], number: i64) -> Received {
    let event = Cloud::structured(line);
    let attribute = |name: &str| event.as_ref().ok().and_then(|event| event.attributes.get(name));
    let key = attribute("partitionkey").map(|key| key.clone().into());
    let topic = match attribute("type").map(|name| name.strip_prefix("com.attio.").ok_or(())) {
        Some(Ok(name)) => {
            let category = Kind::of(name).category();
            format!("{PREFIX}.{}", category.map_or("unknown", |category| category.as_str()))
        }
        Some(Err(())) => format!("{PREFIX}.quarantine"),
        None => String::new(),
    };
    Received { topic, partition: 0, offset: number, key, event }
}
