//! What `deploy/docs/consume-nats.md` says about JetStream's consumers: what keeps the order, and what breaks it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{self, OrderedConfig};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message};
use futures_util::{Stream as Messages, StreamExt};

use crate::support::nats::bench::stream_name;
use crate::support::nats::{Server, shared};
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually, eventually_some};

/// A stream with three messages on one subject: `1`, `2`, `3`.
async fn three(window: Duration) -> (Arc<Server>, Stream, String) {
    let (server, name, subject) = (shared(), stream_name("consumed"), unique("consumed"));
    server.create_stream(&name, &[&subject], |config| config.duplicate_window = window);
    for number in ["1", "2", "3"] {
        server.publish(&subject, &[("Nats-Msg-Id", number)], number);
    }
    let stream = server.admin().await.get_stream(name).await.unwrap();
    (server, stream, subject)
}

async fn consumer(stream: &Stream, change: impl FnOnce(&mut pull::Config)) -> PullConsumer {
    let mut config = pull::Config { ack_policy: AckPolicy::Explicit, ..pull::Config::default() };
    change(&mut config);
    stream.create_consumer(config).await.unwrap()
}

async fn next<E: std::fmt::Debug>(
    messages: &mut (impl Messages<Item = Result<Message, E>> + Unpin),
) -> Message {
    let next = tokio::time::timeout(PATIENCE, messages.next()).await;
    next.expect("a message comes").expect("the consumer goes on").unwrap()
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.payload).unwrap()
}

const WINDOW: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn message_that_is_delivered_again_comes_after_newer_ones() {
    // A negative ack, and no ack within `ack_wait`.
    for refused in [true, false] {
        let (_server, stream, _) = three(WINDOW).await;
        let wait = if refused { Duration::from_secs(30) } else { Duration::from_secs(5) };
        let consumer = consumer(&stream, |config| config.ack_wait = wait).await;
        let mut messages = consumer.messages().await.unwrap();
        let first = next(&mut messages).await;
        eventually("all three are in flight", || async {
            consumer.get_info().await.is_ok_and(|info| info.num_ack_pending == 3)
        })
        .await;
        if refused {
            first.ack_with(AckKind::Nak(None)).await.unwrap();
        }
        let mut handled = Vec::new();
        while handled.len() < 3 {
            let message = next(&mut messages).await;
            message.double_ack().await.unwrap();
            handled.push(text(&message).to_owned());
        }
        assert_eq!(text(&first), "1");
        assert_eq!(handled[0], "2", "{handled:?}");
        handled.sort();
        assert_eq!(handled, ["1", "2", "3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_in_flight_keeps_the_order_for_all_workers_of_a_consumer() {
    let (_server, stream, _) = three(WINDOW).await;
    let consumer = consumer(&stream, |config| config.max_ack_pending = 1).await;
    let workers = [consumer.messages().await.unwrap(), consumer.messages().await.unwrap()];
    let mut messages = futures_util::stream::select_all(workers);
    let mut handled = Vec::new();
    let mut refused = false;
    while handled.len() < 3 {
        let message = next(&mut messages).await;
        if text(&message) == "1" && !refused {
            refused = true;
            message.ack_with(AckKind::Nak(None)).await.unwrap();
            continue;
        }
        handled.push(text(&message).to_owned());
        message.double_ack().await.unwrap();
    }
    assert_eq!(handled, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_consumer_continues_where_it_was_and_keeps_its_place_to_itself() {
    let (server, stream, subject) = three(WINDOW).await;
    let ordered = || async {
        let consumer = stream.create_consumer(OrderedConfig::default()).await.unwrap();
        consumer.messages().await.unwrap()
    };
    let mut messages = ordered().await;
    assert_eq!([text(&next(&mut messages).await), text(&next(&mut messages).await)], ["1", "2"]);
    // The server loses it, as at a restart.
    for name in server.consumers(&stream.cached_info().config.name) {
        stream.delete_consumer(&name).await.unwrap();
    }
    server.publish(&subject, &[("Nats-Msg-Id", "4")], "4");
    assert_eq!([text(&next(&mut messages).await), text(&next(&mut messages).await)], ["3", "4"]);
    drop(messages);
    // Nothing on the server says how far it was: a program that starts again begins at the beginning.
    assert_eq!(text(&next(&mut ordered().await).await), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeat_is_stored_again_once_the_window_has_passed() {
    let (server, _stream, subject) = three(Duration::from_millis(500)).await;
    let again = || server.publish(&subject, &[("Nats-Msg-Id", "1")], "1");
    let sequence = eventually_some("the window passes", || match again() {
        (_, true) => None,
        (sequence, false) => Some(sequence),
    });
    assert_eq!(sequence, 4);
}
