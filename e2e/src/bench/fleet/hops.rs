//! Where the time of one run went, by what the run itself has on record: the
//! centre, both agents and the daemons note each step with the time of this
//! one machine's clock.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

/// What happens at the end of each hop, in order.
pub(super) const HOPS: [&str; 8] = [
    "the control plane takes it from c1's agent",
    "c2's agent has planned it",
    "the control plane dispatches it",
    "c2's agent takes the start, both clocks compared",
    "it is on record in c2, and handed to the daemons",
    "the first pod is cut and read back",
    "the last pod is cut and read back",
    "c2's agent has heard of all",
];

/// The end of each hop, counted from `begun`.
pub(super) fn of(run: &Value, begun: Timestamp) -> Result<Vec<Duration>> {
    let observed = &run["clusters"][0]["observed"];
    let made: Option<Vec<i64>> = observed["injections"]
        .as_array()
        .map(|all| all.iter().filter_map(|one| one["injectedAtUnixMs"].as_i64()).collect());
    let made = made.unwrap_or_default();
    let by_daemon =
        |ms: Option<&i64>| Timestamp::from_millisecond(*ms.context("no pod was cut")?).context("a time");
    let ends = [
        instant(&run["record"]["createdAt"])?,
        noted(observed, "Stage", "Planned")?,
        instant(&run["summary"]["dispatchedAt"])?,
        noted(observed, "Stage", "Accepted")?,
        noted(observed, "Sent", "")?,
        by_daemon(made.iter().min())?,
        by_daemon(made.iter().max())?,
        instant(&observed["injectedAt"])?,
    ];
    // Their clock is this one's, but the event may have been on its way to us for longer.
    let since = |end: Timestamp| Duration::try_from(end.duration_since(begun)).unwrap_or_default();
    Ok(ends.map(since).to_vec())
}

fn instant(text: &Value) -> Result<Timestamp> {
    text.as_str().context("no time is on record")?.parse().context("a time")
}

/// The first entry of the timeline about it; an empty subject is any.
fn noted(observed: &Value, event: &str, subject: &str) -> Result<Timestamp> {
    let entries = observed["timeline"].as_array().context("a timeline")?;
    let about =
        |entry: &&Value| entry["event"] == event && (subject.is_empty() || entry["subject"] == subject);
    let entry =
        entries.iter().find(about).with_context(|| format!("no {event} {subject} on the timeline"))?;
    instant(&entry["at"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_hop_is_read_from_the_record() {
        let at = |ms: i64| Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap();
        let text = |ms: i64| at(ms).to_string();
        let entry = |ms: i64, event: &str, subject: &str| json!({ "at": text(ms), "event": event, "subject": subject });
        let run = json!({
            "record": { "createdAt": text(5) },
            "summary": { "dispatchedAt": text(20) },
            "clusters": [{ "observed": {
                "timeline": [
                    entry(10, "Stage", "Planned"), entry(22, "Stage", "Accepted"), entry(25, "Stage", "Running"),
                    entry(30, "Sent", "i0"), entry(31, "Sent", "i1"),
                ],
                "injections": [
                    { "injectedAtUnixMs": 1_700_000_000_060_i64 }, { "injectedAtUnixMs": 1_700_000_000_050_i64 },
                ],
                "injectedAt": text(70),
            } }],
        });
        let ms: Vec<u128> = of(&run, at(0)).unwrap().iter().map(Duration::as_millis).collect();
        assert_eq!(ms, [5, 10, 20, 22, 30, 50, 60, 70]);
        assert_eq!(ms.len(), HOPS.len());
        assert_eq!(of(&run, at(6)).unwrap()[0], Duration::ZERO, "never before the beginning");
        assert!(of(&json!({}), at(0)).is_err());
    }
}
