//! What replicas of the control plane tell each other: stops and halts that may not be in the
//! store yet.

use super::up::halt;
use super::{WireError, bad, bytes, document, parse};
use crate::api::peer as pb;
use crate::halt::Halt;
use crate::ids::RunId;
use crate::run::StopRequest;

/// Stops and halts together in one message, at most.
pub const MAX_LATCHED: usize = 32;

/// Stops and halts that a replica holds in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latched {
    /// Runs to stop.
    pub stops: Vec<(RunId, StopRequest)>,
    /// Halts to latch.
    pub halts: Vec<Halt>,
}

impl Latched {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty() && self.halts.is_empty()
    }
}

impl From<Latched> for pb::TakeRequest {
    fn from(latched: Latched) -> Self {
        let stop = |(run, stop): (RunId, StopRequest)| pb::Stop { run: run.to_string(), stop: bytes(&stop) };
        Self {
            stops: latched.stops.into_iter().map(stop).collect(),
            halts: latched.halts.iter().map(bytes).collect(),
        }
    }
}

/// A stop for a reason that this version does not know is a stop.
fn stop_request(bytes: &[u8]) -> Result<StopRequest, WireError> {
    document("stop", bytes).or_else(|error: WireError| {
        let mut stop: serde_json::Value = document("stop", bytes)?;
        *stop.get_mut("reason").ok_or(error)? = serde_json::json!("Requested");
        serde_json::from_value(stop).map_err(|e| bad("stop", e))
    })
}

impl TryFrom<pb::TakeRequest> for Latched {
    type Error = WireError;

    fn try_from(request: pb::TakeRequest) -> Result<Self, WireError> {
        let count = request.stops.len() + request.halts.len();
        if count > MAX_LATCHED {
            return Err(bad("stops and halts", format!("{count} in one message, at most {MAX_LATCHED}")));
        }
        let stop = |stop: pb::Stop| Ok((parse("run", &stop.run)?, stop_request(&stop.stop)?));
        Ok(Self {
            stops: request.stops.into_iter().map(stop).collect::<Result<_, WireError>>()?,
            halts: request.halts.iter().map(|bytes| halt("halt", bytes)).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::StopReason;
    use crate::halt::HaltScope;

    fn latched() -> Latched {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let stop = StopRequest { reason: StopReason::Requested, by: "operator:ann".to_owned(), at };
        let halt = Halt {
            id: "h".parse().unwrap(),
            scope: HaltScope::Fleet,
            reason: String::new(),
            by: "operator:ann".to_owned(),
            at,
            origin: None,
        };
        Latched { stops: vec![("r-1".parse().unwrap(), stop)], halts: vec![halt] }
    }

    #[test]
    fn what_is_latched_arrives_as_it_was_sent() {
        let sent = latched();
        assert_eq!(Latched::try_from(pb::TakeRequest::from(sent.clone())).unwrap(), sent);
    }

    #[test]
    fn junk_and_floods_are_refused_by_field() {
        let refused = |change: &dyn Fn(&mut pb::TakeRequest)| {
            let mut request = pb::TakeRequest::from(latched());
            change(&mut request);
            Latched::try_from(request).unwrap_err().field
        };
        assert_eq!(refused(&|request| request.stops[0].run = "../x".to_owned()), "run");
        assert_eq!(refused(&|request| request.stops[0].stop = b"{".to_vec()), "stop");
        assert_eq!(refused(&|request| request.halts[0] = b"{}".to_vec()), "halt");
        assert_eq!(
            refused(&|request| request.halts = vec![request.halts[0].clone(); MAX_LATCHED]),
            "stops and halts"
        );
    }
}
