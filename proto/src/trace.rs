//! Which trace a thing belongs to, as data that is passed on: from the request that asked for a run to the undo of its
//! last fault. Engines copy it and never look inside. Drivers open spans under it ([`TraceContext::child`]) and pass on
//! what is done within one ([`TraceContext::within`]). Who exports spans is installed once by the process
//! ([`install`]); where nobody is, both do nothing and the context is still passed on.

use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize};
use tracing::Span;

/// The annotation on a Run object that names the trace it is to belong to, as a W3C traceparent.
pub const TRACE_ANNOTATION: &str = "faultline.dev/traceparent";

/// A W3C traceparent, or none. Two of them are always equal: a trace says who watches, not what is wanted, so it is no
/// part of what generations, records and messages are compared by. Anything that is not a traceparent reads as none.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct TraceContext(Option<String>);

impl PartialEq for TraceContext {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TraceContext {}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = serde_json::Value::deserialize(from)?;
        Ok(text.as_str().map(Self::parse).unwrap_or_default())
    }
}

impl TraceContext {
    /// No trace.
    pub const NONE: Self = Self(None);

    /// Reads a traceparent of version 00, or what a later version has in common with it.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        };
        let known = |part: &str| part.bytes().any(|c| c != b'0');
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next(), parts.next(), parts.next(), parts.next().unwrap_or_default());
        let (Some(version), Some(trace), Some(span)) = (version, trace, span) else {
            return Self::NONE;
        };
        let whole = if version == "00" { parts.next().is_none() } else { version != "ff" };
        let valid = whole
            && text.len() <= 512
            && hex(version, 2)
            && hex(trace, 32)
            && hex(span, 16)
            && hex(flags, 2)
            && known(trace)
            && known(span);
        // Of the flags only `sampled` means the same in every version.
        let sampled = flags.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']);
        if valid { Self(Some(format!("00-{trace}-{span}-0{}", u8::from(sampled)))) } else { Self::NONE }
    }

    /// A new sampled trace, from random numbers.
    pub fn new(trace: u128, span: u64) -> Self {
        Self::parse(&format!("00-{trace:032x}-{span:016x}-01"))
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The traceparent; empty where there is none.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// `span`, as a child of this. Without a trace it stays what it was: a child of the span around it, or a root.
    pub fn child(&self, span: Span) -> Span {
        if let (Some(exporter), Some(parent)) = (EXPORTER.get(), &self.0) {
            exporter.set_parent(&span, parent);
        }
        span
    }

    /// What is caused from within `span`: a child of it, or of this where nobody exports spans.
    #[must_use]
    pub fn within(&self, span: &Span) -> Self {
        let of_span = EXPORTER.get().and_then(|exporter| exporter.traceparent(span));
        of_span.map_or_else(|| self.clone(), |text| Self::parse(&text))
    }
}

/// Who turns spans into traces.
pub trait Exporter: Send + Sync {
    /// Makes a span that was not entered yet a child of a traceparent.
    fn set_parent(&self, span: &Span, traceparent: &str);
    /// The traceparent of a span; `None` where it is not exported.
    fn traceparent(&self, span: &Span) -> Option<String>;
}

static EXPORTER: OnceLock<Box<dyn Exporter>> = OnceLock::new();

/// Called once by the process, beside its subscriber; a second time does nothing.
pub fn install(exporter: Box<dyn Exporter>) {
    let _ = EXPORTER.set(exporter);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_all_else_is_none() {
        assert_eq!(TraceContext::parse(GIVEN).as_str(), GIVEN);
        assert_eq!(TraceContext::parse(&format!(" {GIVEN}\n")).as_str(), GIVEN);
        assert!(TraceContext::parse(&GIVEN.replace("-01", "-02")).as_str().ends_with("-00"));
        let later = format!("cc{}-what-comes-later", &GIVEN[2..]);
        assert_eq!(TraceContext::parse(&later).as_str(), GIVEN, "what a later version has in common");
        let ids = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("{GIVEN}-more"),
            format!("ff{}", &GIVEN[2..]),
            GIVEN.to_uppercase(),
            format!("00-{}-{}", ids.0, ids.1),
            format!("00-{:032}-{}-01", 0, ids.1),
            format!("00-{}-{:016}-01", ids.0, 0),
            format!("00-{}-{}-01", &ids.0[1..], ids.1),
            format!("00-{}-{}-0g", ids.0, ids.1),
            "\u{e9}".repeat(55),
        ] {
            assert!(TraceContext::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn documents_without_one_or_with_junk_have_none() {
        #[derive(Serialize, Deserialize)]
        struct Document {
            #[serde(default, rename = "traceparent", skip_serializing_if = "TraceContext::is_none")]
            trace: TraceContext,
        }
        for (text, wanted) in [
            ("{}".to_owned(), ""),
            (r#"{"traceparent":null}"#.to_owned(), ""),
            (r#"{"traceparent":7}"#.to_owned(), ""),
            (r#"{"traceparent":"x"}"#.to_owned(), ""),
            (format!(r#"{{"traceparent":"{GIVEN}"}}"#), GIVEN),
        ] {
            let read: Document = serde_json::from_str(&text).expect("tolerant");
            assert_eq!(read.trace.as_str(), wanted);
            let again = serde_json::to_string(&read).expect("JSON");
            assert_eq!(again.contains("traceparent"), !wanted.is_empty());
        }
    }

    #[test]
    fn it_is_no_part_of_what_is_compared() {
        assert_eq!(TraceContext::parse(GIVEN), TraceContext::NONE);
        assert_eq!(
            TraceContext::new(5, 6).as_str(),
            "00-00000000000000000000000000000005-0000000000000006-01"
        );
    }
}
