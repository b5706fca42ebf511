//! What is said at the start: where everything is, and how to join in.

use super::SOURCE;
use super::output::{Options, Target};
use super::paint::Paint;
use crate::version::VERSION;

/// The head of the screen.
pub fn header(target: &Target, options: Options, paint: Paint) -> String {
    let Target { http, admin, bus, address, embedded, secret } = target;
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
    format!(
        "{title}, {end}

  webhooks  http://{http}/webhooks/{SOURCE}
  metrics   http://{admin}/metrics
  {bus:<9} {place}

{read}{send}
  secret={secret}
  body='{{\"event_type\":\"task.created\",\"id\":{{\"task_id\":\"mine\"}}}}'
  sign=$(printf %s \"$body\" | openssl dgst -sha256 -hmac \"$secret\" -r)
  curl --json \"$body\" -H \"Attio-Signature: ${{sign%% *}}\" \\
    http://{http}/webhooks/{SOURCE}

{}
{}
",
        paint.dim("time (UTC)    sent                                answer                took"),
        paint.dim("  -> topic                    key       type (com.attio.)           id"),
    )
}
