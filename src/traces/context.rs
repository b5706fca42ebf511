//! What a request says about its trace.
//!
//! Source: W3C Trace Context, sections 3.2 (`traceparent`) and 3.3 (`tracestate`).

use std::fmt;
use std::sync::Arc;

/// Characters of a `tracestate` that are passed on, the least that W3C asks for; members beyond are left out.
const STATE: usize = 512;

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
    let mut state = String::new();
    for header in headers {
        let members =
            std::str::from_utf8(header).ok()?.split(',').map(|member| member.trim_matches([' ', '\t']));
        for member in members.filter(|member| !member.is_empty()) {
            let (key, value) = member.split_once('=')?;
            let of_key = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
            let of_value = |byte| matches!(byte, b' '..=b'~') && byte != b'=';
            if key.is_empty() || !key.bytes().all(of_key) || !value.bytes().all(of_value) {
                return None;
            }
            let comma = if state.is_empty() { "" } else { "," };
            if state.len() + comma.len() + member.len() > STATE {
                return Some(state.into()).filter(|state: &Arc<str>| !state.is_empty());
            }
            state.extend([comma, member]);
        }
    }
    (!state.is_empty()).then(|| state.into())
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
        let long = format!("b={}", "x".repeat(510));
        assert_eq!(read(&[&long]), Some(long.clone().into()));
        assert_eq!(read(&["a=1", &long, "c=2"]).as_deref(), Some("a=1"));
        for nothing in ["", ",", "a", "=1", "A=1", "a=1=2", "a=é", "a=\x01", "a=1,b"] {
            assert_eq!(read(&[nothing]), None, "{nothing}");
        }
    }
}
