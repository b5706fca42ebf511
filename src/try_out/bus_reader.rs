//! The reading port for `dev`: what its session compares with what was sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bus::read::{Begin, Item, Plan, Position, Reader};
use crate::bus::{self, Kind, ReadError};
use crate::pipeline::publish::Destination;
use crate::try_out::cloud::{Cloud, Received};
use crate::try_out::readback::{QUEUE, Readback, Request};

/// How far each place has been read.
type Places = BTreeMap<(String, i32), i64>;

/// Reads a bus for a session, from `begin` on.
pub async fn open(
    kind: Kind,
    destinations: Vec<Arc<Destination>>,
    begin: Begin,
) -> Result<Readback, ReadError> {
    let plan = Plan { destinations, begin, follow: true };
    let reader = bus::read(&kind, plan.clone()).await?;
    let (sink, messages) = mpsc::channel(QUEUE);
    let (requests, asked) = mpsc::channel(1);
    tokio::spawn(async move {
        follow(reader, sink, asked, &kind, plan).await;
    });
    Ok(Readback::new(messages, requests, || {}))
}

async fn follow(
    mut reader: Reader,
    sink: mpsc::Sender<Received>,
    mut asked: mpsc::Receiver<Request>,
    kind: &Kind,
    plan: Plan,
) {
    let mut read = Places::new();
    let mut waiting: Option<(Request, Places)> = None;
    loop {
        if let Some((request, _)) = waiting.take_if(|(_, ends)| has_read(&read, ends)) {
            // Nobody waits any more: nobody needs to know.
            let _ = request.send(());
        }
        tokio::select! {
            item = reader.next() => match item {
                Some(Ok(item)) => {
                    let (place, at) = place(&item);
                    read.insert(place, at);
                    if sink.send(received(&item)).await.is_err() {
                        break;
                    }
                }
                Some(Err(error)) => tracing::warn!("reading back: {error}"),
                None => break,
            },
            request = asked.recv(), if waiting.is_none() => match request {
                Some(request) => match ends(kind, &plan).await {
                    Ok(ends) => waiting = Some((request, ends)),
                    Err(error) => tracing::warn!("asking what there is to read: {error}"),
                },
                None => break,
            },
        }
    }
    reader.end().await;
}

/// How far each place can be read now. A run that began with the next message need not have read
/// what lay there before it.
async fn ends(kind: &Kind, plan: &Plan) -> Result<Places, ReadError> {
    let begin = if plan.begin == Begin::Now { return Ok(Places::new()) } else { plan.begin };
    let mut reader = bus::read(kind, Plan { begin, follow: false, ..plan.clone() }).await?;
    let mut ends = Places::new();
    while let Some(item) = reader.next().await {
        let (place, at) = place(&item?);
        ends.insert(place, at);
    }
    reader.end().await;
    Ok(ends)
}

fn has_read(read: &Places, ends: &Places) -> bool {
    ends.iter().all(|(place, end)| read.get(place).is_some_and(|at| at >= end))
}

fn place(item: &Item) -> ((String, i32), i64) {
    match item.position {
        Position::Kafka { partition, offset } => ((item.address.clone(), partition), offset),
        Position::Nats { sequence } => ((String::new(), 0), i64::try_from(sequence).unwrap_or(i64::MAX)),
    }
}

fn received(item: &Item) -> Received {
    let headers = item.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let headers = headers.map(|(_, value)| ("content-type", Some(value.as_ref())));
    let event = Cloud::read(headers, &item.payload);
    let ((_, partition), offset) = place(item);
    let (topic, key) = match item.position {
        Position::Kafka { .. } => (item.address.clone(), item.key.clone()),
        // A subject is the address and the action; the key is in the event alone.
        Position::Nats { .. } => {
            let address = item.address.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
            let key = event.as_ref().ok().and_then(|event| event.attributes.get("partitionkey"));
            (address, key.map(|key| key.clone().into()))
        }
    };
    Received { topic, partition, offset, key, event }
}
