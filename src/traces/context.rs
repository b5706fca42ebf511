//! What a request says about its trace.
//!
//! Source: W3C Trace Context, sections 3.2 (`traceparent`) and 3.3 (`tracestate`).

use std::fmt;
use std::sync::Arc;

/// Characters of a `tracestate` that are passed on, the least that W3C asks for; members that do not fit are left out.
const STATE: usize = 512;

/// Most members, and most characters of a key and of a value.
const MEMBERS: usize = 32;
const LENGTH: usize = 256;

/// The position of a span in its trace: what `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace_id: u128,
    pub(super) span_id: u64,
    /// Whether the trace is recorded.
    pub(super) sampled: bool,
}

impl TraceContext {
    /// A trace of its own.
    pub(super) fn root() -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), sampled: true }
    }

    /// A span below this one.
    pub fn child(self) -> Self {
        Self { span_id: fastrand::u64(1..), ..self }
    }

    /// The value of a `traceparent` header; none if it is malformed.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (version, rest) = (header.get(..2)?, header.get(55..)?);
        let known = version == b"00" && rest.is_empty();
        // A later version may have more fields.
        let later = version != b"00" && version != b"ff" && matches!(rest.first(), None | Some(b'-'));
        let dashes = [2, 35, 52].iter().all(|at| header[*at] == b'-');
        if !(known || later) || !dashes {
            return None;
        }
        let hex = |range: std::ops::Range<usize>| {
            let digits = &header[range];
            let lower = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| lower)?, 16).ok()
        };
        hex(0..2)?;
        let (trace_id, span_id, flags) = (hex(3..35)?, u64::try_from(hex(36..52)?).ok()?, hex(53..55)?);
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// The value of a `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// The members of all `tracestate` headers as one; none if there are none or one is malformed.
pub(super) fn state<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<Arc<str>> {
    let (mut state, mut keys) = (String::new(), Vec::new());
    for header in headers {
        for member in std::str::from_utf8(header).ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, _) = member.split_once('=').filter(|(key, value)| is_key(key) && is_value(value))?;
            if keys.len() == MEMBERS || keys.contains(&key) {
                return None;
            }
            keys.push(key);
            let comma = if state.is_empty() { "" } else { "," };
            if state.len() + comma.len() + member.len() <= STATE {
                state.extend([comma, member]);
            }
        }
    }
    (!state.is_empty()).then(|| state.into())
}

fn is_key(key: &str) -> bool {
    let starts = key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    starts && key.len() <= LENGTH && key.bytes().all(allowed) && key.matches('@').count() <= 1
}

fn is_value(value: &str) -> bool {
    let allowed = |byte| matches!(byte, b' '..=b'~') && byte != b'=';
    (1..=LENGTH).contains(&value.len()) && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(TraceContext::parse(good.as_bytes()).unwrap().to_string(), good);
        let unsampled = good.replace("-01", "-00");
        assert!(!TraceContext::parse(unsampled.as_bytes()).unwrap().sampled);
        let later = format!("01{}-more", &good[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()).unwrap().to_string(), good);
        let bad = [
            String::new(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("ff{}", &good[2..]),
            format!("0g{}", &good[2..]),
            good.to_uppercase(),
            good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            good.replace("b7ad6b7169203331", &"0".repeat(16)),
            good.replace('-', "_"),
            "é".repeat(30),
        ];
        for bad in bad {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_tracestate_is_passed_on_as_w3c_says() {
        let read = |headers: &[&str]| state(headers.iter().map(|header| header.as_bytes()));
        assert_eq!(read(&["a=1, b@c= x y ,", "", "d=~"]).as_deref(), Some("a=1,b@c= x y,d=~"));
        let long = |key, length| format!("{key}={}", "x".repeat(length));
        let (b, d) = (long("b", 256), long("d", 251));
        assert_eq!(read(&[&b, &d]), Some(format!("{b},{d}").into()));
        assert_eq!(
            read(&[&b, &long("d", 252), "e=1"]),
            Some(format!("{b},e=1").into()),
            "the second does not fit"
        );
        let many = |count| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(read(&[&many(32)]), Some(many(32).into()));
        let bad = [
            "", ",", "a", "a=", "=1", "A=1", "@a=1", "a@b@c=1", "a=1=2", "a=é", "a=\x01", "a=1,b", "a=1,a=2",
        ];
        let too_much = [many(33), long("a", 257), format!("{}=1", "k".repeat(257))];
        for nothing in bad.into_iter().chain(too_much.iter().map(String::as_str)) {
            assert_eq!(read(&[nothing]), None, "{nothing}");
        }
    }
}
