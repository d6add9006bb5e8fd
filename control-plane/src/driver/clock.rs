//! The one place where the control plane reads the clock and makes ids. Handed to whoever needs
//! an instant or a name as a value; tests can stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use proto::ids::{ClusterId, HaltId, RunId};
use proto::trace::TraceContext;

/// Wall clock and source of ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Added to the system's clock, milliseconds: tests travel in time.
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Now, to the millisecond.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        let ms = now.as_millisecond().saturating_add(self.offset_ms.load(Ordering::Relaxed));
        Timestamp::from_millisecond(ms).unwrap_or(now)
    }

    /// Moves this clock and its clones; for tests.
    pub fn advance(&self, by: SignedDuration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Uniform in 0..1, for jitter.
    pub fn jitter(&self) -> f64 {
        fastrand::f64()
    }

    /// A new run's id; ids sort by time.
    pub fn new_run(&self) -> RunId {
        id(&uuid().to_string())
    }

    /// A new halt's id.
    pub fn new_halt(&self) -> HaltId {
        id(&format!("halt-{}", short()))
    }

    /// A new member's id.
    pub fn new_cluster(&self) -> ClusterId {
        id(&format!("c-{}", short()))
    }

    /// Names a session in both logs.
    pub fn new_session(&self) -> String {
        uuid().to_string()
    }

    /// The trace that was given, or a new one.
    pub fn trace_or_new(&self, given: TraceContext) -> TraceContext {
        if given.is_none() { TraceContext::new(fastrand::u128(1..), fastrand::u64(1..)) } else { given }
    }

    /// Names this process for as long as it lives.
    pub fn new_replica(&self, host: &str) -> String {
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
        format!("{}-{}", host.trim_matches('-'), short()).trim_start_matches('-').to_owned()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the driver's source of ids")]
fn uuid() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}

/// Ten characters that did not occur before.
fn short() -> String {
    let text = uuid().simple().to_string();
    // The last ten are random; the first are the time.
    text.chars().skip(22).collect()
}

/// Our own ids are made of hex digits and dashes only, which every id type takes.
fn id<T: TryFrom<String>>(text: &str) -> T
where
    T::Error: std::fmt::Debug,
{
    #[expect(clippy::unwrap_used, reason = "made of hex digits and dashes, and short")]
    T::try_from(text.to_owned()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_valid_and_new() {
        let clock = Clock::new();
        assert_ne!(clock.new_run(), clock.new_run());
        assert_ne!(clock.new_cluster(), clock.new_cluster());
        assert!(clock.new_halt().as_str().starts_with("halt-"));
        assert_eq!(clock.new_replica("my.host_1").split('-').next(), Some("myhost1"));
    }

    #[test]
    fn clones_travel_together() {
        let clock = Clock::new();
        let (before, clone) = (clock.now(), clock.clone());
        clock.advance(SignedDuration::from_hours(1));
        assert!(clone.now().duration_since(before) >= SignedDuration::from_hours(1));
    }
}
