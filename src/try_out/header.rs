//! What is said at the start: where everything is, and how to join in.

use super::SOURCE;
use super::output::{Options, Target};
use crate::paint::Paint;
use crate::version::VERSION;

/// The head of the screen.
pub fn header(target: &Target, options: Options, paint: Paint) -> String {
    let Target { http, admin, bus, address, embedded, attio, key, .. } = target;
    let broker = if *embedded { "in this process, and gone with it" } else { "not ours; it stays" };
    let end = match options.once {
        true => "one round, then the result",
        false => "until Ctrl-C",
    };
    let title = paint.strong(&format!("attio-bridge dev {VERSION}"));
    let place = match *bus {
        "stdout" => "standard output; all else is on standard error".to_owned(),
        _ => format!("{address} ({broker})"),
    };
    // Whoever only wants the result has no time to join in.
    let hints = if options.once { String::new() } else { hints(target, paint) };
    format!(
        "{title}, {end}

  webhooks  http://{http}/webhooks/{SOURCE}
  metrics   http://{admin}/metrics
  {bus:<9} {place}
  attio     {attio} (a fake of its API; key: {key})

{hints}{}
{}
",
        paint.dim("time (UTC)    sent                                answer                took"),
        paint.dim("  -> topic                    key       type (com.attio.)           id"),
    )
}

/// How to join in.
fn hints(target: &Target, paint: Paint) -> String {
    let Target { http, bus, address, secret, attio, key, .. } = target;
    let read = match *bus {
        "kafka" => format!(
            "{}\n  kcat -b {address} -X auto.offset.reset=earliest -G me '^attio\\..*'\n\n",
            paint.strong("Read along with any Kafka client:")
        ),
        "nats" => format!(
            "{}\n  nats --server {address} sub 'attio.>'\n\n",
            paint.strong("Read along with any NATS client:")
        ),
        _ => String::new(),
    };
    let send = paint.strong("Send one of your own:");
    let ask = paint.strong("Ask the fake Attio what it knows, and let something happen there:");
    format!(
        "{read}{send}
  secret={secret}
  body='{{\"event_type\":\"task.created\",\"id\":{{\"task_id\":\"mine\"}}}}'
  sign=$(printf %s \"$body\" | openssl dgst -sha256 -hmac \"$secret\" -r)
  curl --json \"$body\" -H \"Attio-Signature: ${{sign%% *}}\" \\
    http://{http}/webhooks/{SOURCE}

{ask}
  export ATTIO_API_KEY={key} \\
    ATTIO_BRIDGE__ATTIO__API_URL={attio}
  attio-bridge webhooks list
  curl -H \"Authorization: Bearer {key}\" --json '{{\"data\":{{\"values\":{{}}}}}}' \\
    {attio}/v2/objects/people/records

"
    )
}
