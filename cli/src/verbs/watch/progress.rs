//! What is new in a run since the last look, as lines: its phase, a row for each cluster, a row for each target, and
//! the timeline. The same lines whether the stream broke in between or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use proto::assignment::{Observed, TimelineEntry};
use proto::injection::{InjectionPhase, InjectionStatus};
use proto::rest::{RunCluster, RunView};
use proto::status::RunPhase;

use crate::output::{self, word};

/// What was shown already.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    phase: Option<RunPhase>,
    clusters: BTreeMap<String, Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    row: String,
    /// By injection.
    targets: BTreeMap<String, InjectionPhase>,
    /// Of the timeline, as far as the agent still sends it.
    entries: BTreeSet<(Timestamp, String, String)>,
    /// By probe: whether its last sample was good.
    probes: BTreeMap<String, bool>,
}

impl Progress {
    /// The lines that are new.
    pub(crate) fn news(&mut self, view: &RunView) -> Vec<String> {
        let mut lines = Vec::new();
        if self.phase != Some(view.summary.phase) {
            self.phase = Some(view.summary.phase);
            lines.push(line(&format!("{:<12} {}", word(&view.summary.phase), view.summary.message)));
        }
        for cluster in &view.clusters {
            self.clusters.entry(cluster.name.clone()).or_default().news(cluster, &mut lines);
        }
        lines
    }
}

impl Shown {
    fn news(&mut self, cluster: &RunCluster, lines: &mut Vec<String>) {
        let row = cluster_row(cluster);
        if self.row != row {
            lines.push(row.clone());
            self.row = row;
        }
        let Some(observed) = &cluster.observed else { return };
        self.timeline(observed, lines);
        for injection in &observed.injections {
            let id = injection.id.to_string();
            if self.targets.get(&id) != Some(&injection.phase) {
                lines.push(target_row(observed, injection));
                self.targets.insert(id, injection.phase);
            }
        }
    }

    fn timeline(&mut self, observed: &Observed, lines: &mut Vec<String>) {
        let mut current = BTreeSet::new();
        for entry in &observed.timeline {
            let key = (entry.at, entry.event.clone(), entry.subject.clone());
            let is_new = !self.entries.contains(&key);
            current.insert(key);
            // A target's own row says what became of it.
            let has_row = observed.injections.iter().any(|i| i.id.as_str() == entry.subject);
            if is_new && !has_row && self.is_news(entry) {
                lines.push(timeline_row(entry));
            }
        }
        self.entries = current;
    }

    /// Of the samples, the bad ones and the first good one after them.
    fn is_news(&mut self, entry: &TimelineEntry) -> bool {
        let Some(good) = entry.good else { return true };
        self.probes.insert(entry.subject.clone(), good) != Some(true) || !good
    }
}

fn cluster_row(cluster: &RunCluster) -> String {
    let Some(observed) = &cluster.observed else {
        let silent = if cluster.connected { "Pending" } else { "not connected" };
        return line(&format!("  {:<10} {silent}", cluster.name));
    };
    let mut row = format!("  {:<10} {:<10}", cluster.name, word(&observed.phase));
    let counts = observed.counts;
    if counts.total > 0 {
        // Writing to a String cannot fail.
        let _ = write!(row, " injected {}/{}, reverted {}", counts.injected, counts.total, counts.reverted);
    }
    if counts.failed + counts.unknown + counts.residue > 0 {
        let _ =
            write!(row, ", failed {}, unknown {}, residue {}", counts.failed, counts.unknown, counts.residue);
    }
    if !cluster.connected {
        row.push_str("  not connected");
    }
    if !observed.message.is_empty() {
        let _ = write!(row, "  {}", observed.message);
    }
    line(&row)
}

fn target_row(observed: &Observed, injection: &InjectionStatus) -> String {
    let at = match injection.phase {
        InjectionPhase::Injected => injection.injected_at_unix_ms,
        InjectionPhase::Reverted => injection.reverted_at_unix_ms,
        _ => None,
    };
    let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or_else(String::new, clock);
    let why = injection.reason.as_ref().map_or_else(String::new, |reason| format!(" ({})", word(reason)));
    let id = short(injection.id.as_str());
    let on = target(observed, injection);
    line(&format!("    {at:<12} {id:<14} {on:<28} {}{why}  {}", word(&injection.phase), injection.message))
}

/// Pod and node that an injection is on; `-` where the agent does not say.
pub(crate) fn target(observed: &Observed, injection: &InjectionStatus) -> String {
    observed.targets.get(&injection.id).map_or_else(
        || "-".to_owned(),
        |target| format!("{}/{} on {}", target.namespace, target.pod, target.node),
    )
}

fn timeline_row(entry: &TimelineEntry) -> String {
    let latency = entry.latency_ms.map_or_else(String::new, |ms| format!(" {ms} ms"));
    let good = match entry.good {
        Some(true) => " good",
        Some(false) => " BAD",
        None => "",
    };
    let subject = short(&entry.subject);
    line(&format!("    {} {:<14} {subject}{latency}{good}  {}", clock(entry.at), entry.event, entry.detail))
}

/// The fault and number of an injection's id; anything else as it is.
pub(crate) fn short(id: &str) -> &str {
    match id.splitn(3, '.').collect::<Vec<_>>().as_slice() {
        [_, _, fault] if id.len() > 40 => fault,
        _ => id,
    }
}

fn line(text: &str) -> String {
    output::line(text.trim_end()).into_owned()
}

/// Time of day, UTC, with milliseconds.
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests;
