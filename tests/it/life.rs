//! Life of a bridge: timeouts of connections, in-flight limits, probes, drain, supervision.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::app::{App, Error};
use attio_bridge::pipeline::publish::BusState;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::answers::{refused, waiting_client};
use crate::support::bridge::{Bridge, config};
use crate::support::buses::Silent;
use crate::support::client::Client;
use crate::support::descriptors;
use crate::support::logs::Logs;
use crate::support::memory::{Answer, Memory};
use crate::support::request::Request;
use crate::support::wait::{PATIENCE, eventually};

/// A delivery of one event that is not like the others.
fn event(at: usize) -> Request {
    Request::keyed(&at.to_string(), format!(r#"{{"event_type":"x.y","at":{at}}}"#))
}

/// Longer than any deadline of a test that must not strike.
const LONG: Duration = Duration::from_secs(60);

/// Long enough for a deadline of [`SHORT`] to strike, were it set.
const SEVERAL_SHORT: Duration = Duration::from_millis(500);

const SHORT: Duration = Duration::from_millis(120);

async fn with_timeouts(header: Duration, body: Duration, idle: Duration) -> Bridge {
    Bridge::with(|config| {
        config.http.header_timeout = header;
        config.http.body_timeout = body;
        config.http.idle_timeout = idle;
        config.http.answer_timeout = LONG;
    })
    .await
}

/// Sends byte after byte, slowly, until the bridge has had enough of it or everything is sent.
async fn trickle(client: &mut Client, bytes: &[u8]) {
    for byte in bytes {
        if !client.write(&[*byte]).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

#[tokio::test]
async fn header_timeout_closes_the_connection() {
    let bridge = with_timeouts(SHORT, LONG, LONG).await;
    let request = event(1).header("X-Filler", vec![b'x'; 100]);
    let head = request.head();
    for cut in [1, 20, head.len() - 2] {
        let mut client = bridge.connect().await;
        client.write(&head[..cut]).await;
        assert!(client.try_receive().await.is_none(), "{cut} bytes of a head");
    }
    let mut client = bridge.connect().await;
    trickle(&mut client, &request.bytes()).await;
    assert!(client.try_receive().await.is_none(), "the deadline is for the whole head");

    let mut client = bridge.connect().await;
    assert_eq!(client.ask(&event(2)).await.status, 200);
    client.write(&head[..20]).await;
    assert!(client.try_receive().await.is_none(), "a second head has the same deadline");
}

#[tokio::test]
async fn body_timeout_answers_408_and_closes_the_connection() {
    let bridge = with_timeouts(LONG, SHORT, LONG).await;
    let mut request = event(1);
    request.body.extend([b' '; 150]);
    let request = Request::signed(request.body);
    for slow in [false, true] {
        for chunked in [false, true] {
            let request = if chunked { request.clone().chunked(50) } else { request.clone() };
            let mut client = bridge.connect().await;
            client.write(&request.head()).await;
            if slow {
                trickle(&mut client, &request.framed_body()).await;
            } else {
                client.write(&request.framed_body()[..30]).await;
            }
            let answer = client.receive().await;
            assert_eq!(
                answer.status_and_reason(),
                (408, "body_timeout".into()),
                "slow: {slow}, chunked: {chunked}"
            );
            assert!(answer.closes());
            client.closed().await;
        }
    }
    assert_eq!(bridge.bus.attempts(), 0);
    let labels = [("source", "attio"), ("reason", "body_timeout")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, 4.0);
}

#[tokio::test]
async fn idle_timeout_is_longer_than_header_timeout() {
    let bridge = with_timeouts(SHORT, SHORT, LONG).await;
    let mut client = bridge.connect().await;
    for at in 0..2 {
        assert_eq!(client.ask(&event(at)).await.status, 200);
        tokio::time::sleep(SEVERAL_SHORT).await;
    }
    assert_eq!(client.ask(&event(2)).await.status, 200);
}

#[tokio::test]
async fn idle_timeout_closes_the_connection() {
    let bridge = with_timeouts(LONG, LONG, SHORT).await;
    let mut client = bridge.connect().await;
    assert_eq!(client.ask(&event(1)).await.status, 200);
    client.closed().await;
    bridge.connect().await.closed().await;
}

#[tokio::test]
async fn a_connection_opened_ahead_of_use_is_idle_and_not_a_slow_head() {
    let bridge = with_timeouts(SHORT, LONG, LONG).await;
    let mut ahead = bridge.connect().await;
    tokio::time::sleep(SEVERAL_SHORT).await;
    assert_eq!(ahead.ask(&event(1)).await.status, 200);
}

#[tokio::test]
async fn no_connection_timeout_fires_while_a_delivery_is_processed() {
    let bridge = with_timeouts(SHORT, SHORT, SHORT).await;
    bridge.bus.answer(Answer::Late);
    let mut client = bridge.connect().await;
    client.send(&event(1)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    tokio::time::sleep(SEVERAL_SHORT).await;
    bridge.bus.release();
    assert_eq!(client.receive().await.status, 200);
}

#[tokio::test]
async fn max_in_flight_limits_deliveries() {
    let bridge = Bridge::with(|config| {
        config.http.max_in_flight = 3;
        config.http.answer_timeout = LONG;
    })
    .await;
    bridge.bus.answer(Answer::Late);
    let mut hanging = Vec::new();
    for at in 0..3 {
        let mut client = bridge.connect().await;
        client.send(&event(at)).await;
        hanging.push(client);
    }
    eventually("three hang", || async { bridge.bus.waiting() == 3 }).await;
    for at in 3..8 {
        let answer = bridge.ask(&event(at)).await;
        assert_eq!(answer.status_and_reason(), (503, "overloaded".into()));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(bridge.bus.attempts(), 3, "what is refused reaches no bus");
    // A request that needs no permit is answered as usual.
    assert_eq!(bridge.ask(&event(9).method("PUT")).await.status, 405);
    bridge.bus.release();
    for mut client in hanging {
        assert_eq!(client.receive().await.status, 200);
    }
    bridge.bus.answer(Answer::Acknowledge);
    for at in 3..8 {
        assert_eq!(bridge.ask(&event(at)).await.status_and_reason(), (200, "accepted".into()));
    }
}

#[tokio::test]
async fn a_publish_holds_its_permit_after_the_answer() {
    let bridge = Bridge::with(|config| {
        config.http.max_in_flight = 1;
        config.http.answer_timeout = SHORT;
    })
    .await;
    bridge.bus.script([Answer::Late]);
    assert_eq!(bridge.ask(&event(1)).await.reason(), "broker_timeout");
    assert_eq!(bridge.ask(&event(2)).await.reason(), "overloaded", "the budget bounds the flights");
    bridge.bus.release();
    assert_eq!(bridge.ask(&event(2)).await.reason(), "accepted");
}

#[tokio::test]
async fn every_outcome_releases_its_permit() {
    let bridge = Bridge::with(|config| {
        config.http.max_in_flight = 1;
        config.http.max_body_bytes = 100;
        config.http.max_in_flight_bytes = 100;
        config.http.body_timeout = SHORT;
    })
    .await;
    let stalled = event(1);
    let mut client = bridge.connect().await;
    client.write(&stalled.head()).await;
    assert_eq!(client.receive().await.status, 408);
    let too_large = Request::signed([b' '; 101]).chunked(10);
    for (request, status) in [
        (Request::unsigned("{}"), 401),
        (Request::signed("no JSON"), 200),
        (Request::signed("{}").header("Content-Type", "text/plain"), 415),
        (too_large, 413),
        (event(1), 200),
        (event(1), 200),
    ] {
        assert_eq!(bridge.ask(&request).await.status, status);
    }
    let mut client = bridge.connect().await;
    client.write(&stalled.head()).await;
    client.write(&stalled.body[..5]).await;
    drop(client);
    eventually("a client that left gives it back too", || async {
        bridge.ask(&event(2)).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn max_in_flight_bytes_limits_bodies() {
    let bridge = Bridge::with(|config| {
        config.http.max_body_bytes = 600;
        config.http.max_in_flight_bytes = 1000;
        config.http.answer_timeout = LONG;
    })
    .await;
    let sized = |at: usize, bytes: usize| {
        let mut body = event(at).body;
        body.resize(bytes, b' ');
        Request::keyed(&at.to_string(), body)
    };
    bridge.bus.answer(Answer::Late);
    let mut client = bridge.connect().await;
    client.send(&sized(1, 600)).await;
    eventually("600 bytes hang", || async { bridge.bus.waiting() == 1 }).await;
    assert_eq!(bridge.ask(&sized(2, 401)).await.status_and_reason(), (503, "overloaded".into()));
    // A body of unknown length may become as large as any.
    assert_eq!(bridge.ask(&sized(2, 50).chunked(10)).await.status_and_reason(), (503, "overloaded".into()));
    let mut second = bridge.connect().await;
    second.send(&sized(3, 400)).await;
    eventually("1000 bytes hang", || async { bridge.bus.waiting() == 2 }).await;
    bridge.bus.release();
    assert_eq!((client.receive().await.status, second.receive().await.status), (200, 200));

    // Once it is here, only its own size counts.
    client.send(&sized(4, 50).chunked(10)).await;
    eventually("50 bytes hang", || async { bridge.bus.waiting() == 1 }).await;
    second.send(&sized(5, 600)).await;
    eventually("650 bytes hang", || async { bridge.bus.waiting() == 2 }).await;
    bridge.bus.release();
    assert_eq!((client.receive().await.status, second.receive().await.status), (200, 200));
}

#[tokio::test]
async fn max_connections_limits_connections() {
    let bridge = Bridge::with(|config| config.http.max_connections = 2).await;
    let mut first = bridge.connect().await;
    let mut second = bridge.connect().await;
    assert_eq!(first.ask(&event(1)).await.status, 200);
    assert_eq!(second.ask(&event(2)).await.status, 200);
    let mut third = bridge.connect().await;
    third.send(&event(3)).await;
    assert_eq!(first.ask(&event(4)).await.status, 200);
    assert_eq!(bridge.bus.attempts(), 3, "the third waits");
    drop(second);
    assert_eq!(third.receive().await.status, 200);
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let logs = Logs::capture();
    let bridge = Bridge::with(|config| {
        config.http.max_connections = 4;
        config.http.header_timeout = SHORT;
        config.http.idle_timeout = 10 * LONG;
        config.http.answer_timeout = LONG;
    })
    .await;
    bridge.bus.script([Answer::Late]);
    let mut busy = bridge.connect().await;
    busy.send(&event(0)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    let mut used = bridge.connect().await;
    assert_eq!(used.ask(&event(1)).await.status, 200);
    tokio::time::sleep(SEVERAL_SHORT).await;
    // One that never sent a byte, and one that was used again after the others.
    let mut silent = bridge.connect().await;
    tokio::time::sleep(SEVERAL_SHORT).await;
    let mut last = bridge.connect().await;
    assert_eq!(last.ask(&event(2)).await.status, 200);
    tokio::time::sleep(SEVERAL_SHORT).await;
    assert_eq!(last.ask(&event(3)).await.status, 200, "nothing is closed while there is room");

    assert_eq!(bridge.ask(&event(4)).await.status, 200);
    used.closed().await;
    // The place of the fifth is free again.
    let mut sixth = bridge.connect().await;
    assert_eq!(sixth.ask(&event(5)).await.status, 200);
    assert_eq!(bridge.ask(&event(6)).await.status, 200);
    silent.closed().await;
    for (at, client) in [(7, &mut last), (8, &mut sixth)] {
        assert_eq!(client.ask(&event(at)).await.status, 200, "it was idle for less time");
    }
    bridge.bus.release();
    assert_eq!(busy.receive().await.status, 200);
    let said = "every connection is in use (4): new ones wait; raise http.max_connections";
    assert_eq!(logs.lines().iter().filter(|line| line["message"] == said).count(), 1, "{}", logs.text());
}

#[tokio::test]
async fn clients_that_keep_connections_idle_do_not_delay_new_ones_one_after_the_other() {
    let bridge = Bridge::with(|config| {
        config.http.max_connections = 50;
        config.http.header_timeout = SHORT;
        config.http.idle_timeout = 10 * LONG;
    })
    .await;
    let mut idle = Vec::new();
    for at in 0..200 {
        idle.push(bridge.connect().await);
        if at >= 60 {
            let mut client = bridge.connect().await;
            assert_eq!(client.ask(&event(at)).await.status_and_reason(), (200, "accepted".into()));
            idle.push(client);
        }
    }
}

#[tokio::test]
async fn client_that_leaves_its_answers_unread_makes_room() {
    let bridge = Bridge::with(|config| {
        config.http.max_connections = 1;
        config.http.header_timeout = SHORT;
        config.http.idle_timeout = 10 * LONG;
    })
    .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(bridge.http).await.unwrap();
    let requests = Request::unsigned("{}").path("/nowhere").bytes().repeat(100);
    let flood = tokio::spawn(async move { while stream.write_all(&requests).await.is_ok() {} });
    assert_eq!(bridge.ask(&event(1)).await.status, 200);
    flood.await.unwrap();
}

#[tokio::test]
async fn probes_that_keep_their_connections_do_not_delay_each_other() {
    let bridge = Bridge::start().await;
    descriptors::raise(2000);
    let mut probe = Request::unsigned("").method("GET").path("/livez");
    probe.headers.retain(|(name, _)| name == "Host");
    let all = async {
        let mut kept = Vec::new();
        // If each of the 64 connections lasted 5 s, this would take longer.
        for _ in 0..1200 {
            let mut client = Client::connect(bridge.admin).await;
            assert_eq!(client.ask(&probe).await.status, 200);
            kept.push(client);
        }
    };
    timeout(PATIENCE, all).await.expect("each is answered at once");
}

#[tokio::test]
async fn drain_serves_the_connections_that_the_system_has_established() {
    descriptors::raise(2000);
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&event(0)).await.status, 200);
    // Nothing else runs on this thread meanwhile.
    let connect = |at: usize| {
        let mut stream = std::net::TcpStream::connect(bridge.http).unwrap();
        stream.write_all(&event(at).bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Client::from(TcpStream::from_std(stream).unwrap())
    };
    let clients: Vec<_> = (1..600).map(connect).collect();
    bridge.begin_stop();
    for mut client in clients {
        let answer = client.receive().await;
        assert!([200, 503].contains(&answer.status) && answer.closes(), "{answer:?}");
    }
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn probes() {
    let bridge = Bridge::start().await;
    let table = [(BusState::Starting, 503), (BusState::Up, 200), (BusState::Down, 200)];
    for (state, ready) in table {
        bridge.bus.set_state(state);
        assert_eq!(bridge.admin("/readyz").await.status, ready, "{state:?}");
        assert_eq!(bridge.admin("/livez").await.status, 200, "{state:?}");
    }
    let metrics = bridge.admin("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for path in ["/webhooks/attio", "/config"] {
        assert_eq!(bridge.admin(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn drain_finishes_accepted_deliveries_and_refuses_new_ones() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Late);
    let mut idle = bridge.connect().await;
    assert_eq!(idle.ask(&Request::unsigned("")).await.status, 401);
    let mut busy = bridge.connect().await;
    busy.send(&event(1)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    let mut open = waiting_client(&bridge).await;
    assert_eq!(bridge.admin("/readyz").await.status, 200);

    bridge.begin_stop();
    refused(&bridge).await;
    assert_eq!(bridge.admin("/readyz").await.status, 503);
    assert_eq!(bridge.admin("/livez").await.status, 200);
    idle.closed().await;
    let answer = open.ask(&event(2)).await;
    assert_eq!(answer.status_and_reason(), (503, "draining".into()));
    assert!(answer.closes());
    open.closed().await;
    let scrape = bridge.metrics().await;
    assert_eq!(scrape.get("deliveries_total", &[("source", "attio"), ("reason", "draining")]), 1.0);
    assert_eq!(scrape.get("events_in_flight", &[]), 1.0);

    bridge.bus.release();
    let answer = busy.receive().await;
    assert_eq!(answer.status_and_reason(), (200, "accepted".into()));
    assert!(answer.closes());
    busy.closed().await;
    assert_eq!(bridge.bus.stored().len(), 1);
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn drain_waits_for_a_delivery_whose_client_disconnected() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Late);
    let mut client = bridge.connect().await;
    client.send(&event(1)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    drop(client);
    bridge.begin_stop();
    refused(&bridge).await;
    assert_eq!(bridge.admin("/livez").await.status, 200, "it is not over");
    bridge.bus.release();
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn shutdown_delay_keeps_serving_while_unready() {
    let bridge = Bridge::with(|config| config.shutdown.delay = Duration::from_secs(1)).await;
    bridge.begin_stop();
    eventually("it is unready", || async { bridge.admin("/readyz").await.status == 503 }).await;
    assert_eq!(bridge.ask(&event(1)).await.status_and_reason(), (200, "accepted".into()));
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn drain_of_an_idle_bridge_ends_at_once() {
    let bridge = Bridge::with(|config| config.shutdown.drain_timeout = LONG).await;
    let mut client = bridge.connect().await;
    client.ask(&event(1)).await;
    bridge.stop().await.unwrap();
    client.closed().await;
}

#[tokio::test]
async fn drain_timeout_ends_a_connection_without_a_request() {
    let bridge = Bridge::with(|config| {
        config.http.header_timeout = LONG;
        config.shutdown.drain_timeout = SHORT;
    })
    .await;
    let mut client = waiting_client(&bridge).await;
    client.write(b"POST /web").await;
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn a_publish_that_hangs_past_the_drain_is_reported_as_abandoned() {
    // While its delivery waits, and when only the message is left of it.
    for (answer_timeout, expected) in [(LONG, (1, 1)), (SHORT, (0, 1))] {
        let bridge = Bridge::with(|config| {
            config.http.answer_timeout = answer_timeout;
            config.shutdown.drain_timeout = SEVERAL_SHORT;
        })
        .await;
        bridge.bus.answer(Answer::Hang);
        let mut client = bridge.connect().await;
        client.send(&event(1)).await;
        eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
        let error = bridge.stop().await.unwrap_err();
        let Error::Abandoned { deliveries, messages } = error else { panic!("{error}") };
        assert_eq!((deliveries, messages), expected);
    }
}

#[tokio::test]
async fn an_unanswered_delivery_is_abandoned_even_if_the_bus_has_no_message() {
    let mut config = config(&[]);
    config.http.answer_timeout = LONG;
    config.shutdown.drain_timeout = SHORT;
    let bridge = Bridge::over(Arc::new(Silent::default()), config).await;
    let mut client = bridge.connect().await;
    client.send(&event(1)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    let error = bridge.stop().await.unwrap_err();
    assert!(matches!(error, Error::Abandoned { deliveries: 1, messages: 0 }), "{error}");
}

#[tokio::test]
async fn message_abandoned_by_the_drain_was_never_answered_200() {
    let bridge = Bridge::with(|config| {
        config.http.answer_timeout = SEVERAL_SHORT;
        config.shutdown.drain_timeout = SHORT;
    })
    .await;
    bridge.bus.answer(Answer::Hang);
    let mut client = bridge.connect().await;
    client.send(&event(1)).await;
    eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    assert!(bridge.stop().await.is_err());
    let answer = client.try_receive().await;
    assert!(answer.is_none_or(|answer| answer.status == 503));
}

#[tokio::test]
async fn panic_of_a_task_ends_the_bridge_and_is_logged_by_name() {
    let logs = Logs::capture();
    let app = App::bind_to(config(&[]), "memory", |_, _, supervisor| {
        supervisor.spawn("part under test", async { panic!("as the test asked") });
        Ok(Memory::new())
    });
    let error = app.await.unwrap().run(std::future::pending()).await.unwrap_err();
    let message = "part under test ended unexpectedly: as the test asked";
    assert_eq!(error.to_string(), message);
    assert!(logs.text().contains(message), "{}", logs.text());
}

#[tokio::test]
async fn a_part_that_ends_during_shutdown_delay_ends_the_delay_with_an_error() {
    let config = config(&[("ATTIO_BRIDGE__SHUTDOWN__DELAY", "1h")]);
    let app = App::bind_to(config, "memory", |_, _, supervisor| {
        // The stop is requested at once, so this part ends during the delay.
        supervisor.spawn("part under test", async { tokio::time::sleep(Duration::from_millis(300)).await });
        Ok(Memory::new())
    });
    let running = app.await.unwrap().run(std::future::ready(()));
    let result = tokio::time::timeout(LONG, running).await.expect("the delay is cut short");
    assert_eq!(result.unwrap_err().to_string(), "part under test ended unexpectedly: returned");
}
