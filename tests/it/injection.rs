//! Hostile names in bodies, on a real NATS and over all of Unicode: they reach no subject outside the route
//! table, no protocol header, and no other stream.

use attio_bridge::pipeline::parse::{self, Element, Parsed};
use attio_bridge::pipeline::route::{Options, Routes};
use bytes::Bytes;

use crate::support::load::ready;
use crate::support::nats::shared;
use crate::support::nats::target::NatsTarget;
use crate::support::request::Request;
use crate::support::stress;

#[test]
fn no_unicode_character_escapes_the_route_table() {
    let routes = Routes::new(&Options { prefix: "attio".into(), categories: Default::default() });
    let (addresses, step) = (routes.addresses(), 1_114_112 / stress(20_000, 1_114_112));
    let fits = |subject: &str| subject.bytes().all(|b| b.is_ascii_lowercase() || b".-".contains(&b));
    let mut seen = 0;
    // All of those that a protocol could mean something by, and of the others every so many.
    for character in ('\0'..='\u{2fff}').chain(('\u{3000}'..=char::MAX).step_by(step)) {
        for name in [format!("{character}"), format!("record.{character}"), format!("{character}.created")] {
            let body = Bytes::from(serde_json::json!({ "event_type": name }).to_string());
            let Parsed::Events { elements, .. } = parse::parse(&body) else { panic!("{name:?}") };
            for element in elements {
                let Element::Event(event) = element else { continue };
                let destination = routes.event(event.kind);
                assert!(addresses.contains(&destination.address) && fits(&destination.subject), "{name:?}");
                seen += 1;
            }
        }
    }
    println!("{seen} types");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_field_injects_a_nats_subject_header_or_stream() {
    const NAMES: [&str; 16] = [
        "$JS.API.STREAM.PURGE.ATTIO",
        "$JS.API.STREAM.DELETE.ATTIO",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.x",
        "*",
        ">",
        "record.*",
        "record.>",
        "a b",
        "x\r\nNats-Msg-Id: stolen",
        "x\r\n\r\nPUB other 1\r\nx",
        "\0",
        "\u{202e}",
        "..",
        "é",
        "\u{1f600}",
    ];
    for mode in ["structured", "binary"] {
        let (server, target) = (shared(), NatsTarget::new("injection"));
        let bridge = target.bridge(&server, &[("ATTIO_BRIDGE__BUS__CONTENT_MODE", mode)]).await;
        ready(&bridge).await;
        let mut sent = 0;
        for (at, name) in NAMES.iter().map(|name| (*name).to_owned()).chain(["x".repeat(16_384)]).enumerate()
        {
            let id = serde_json::json!({ "record_id": name, "workspace_id": name, "object_id": name });
            let event = |event_type: &str| serde_json::json!({ "event_type": event_type, "id": id, "actor": { "type": name, "id": name }, "created_at": name });
            let body = serde_json::json!({ "webhook_id": name, "events": [event(&name), event("record.created"), event(&format!("record.{name}"))] });
            let key: String = name.chars().filter(char::is_ascii_graphic).take(200).collect();
            let answer = bridge.ask(&Request::keyed(&format!("{at}{key}"), body.to_string())).await;
            assert_eq!(answer.status, 200, "{name:?}: {answer:?}");
            sent += 3;
        }
        let stored = target.stored(&server);
        assert_eq!(stored.len(), sent, "every event is in the stream, and the stream is whole");
        let allowed = [".unknown", ".quarantine", ".record.unknown", ".record.created"]
            .map(|end| format!("{}{end}", target.prefix));
        for message in &stored {
            assert!(allowed.contains(&message.subject), "{}", message.subject);
            let id = message.header("Nats-Msg-Id").unwrap();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
