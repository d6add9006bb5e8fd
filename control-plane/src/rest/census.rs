//! What this replica knows, counted when it is asked: members, runs, halts. Nothing keeps these
//! numbers, so nothing can keep them wrong. Part of the health page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use proto::assignment::{Outcome, Residue};
use proto::status::RunPhase;

use crate::centre::Centre;
use crate::engine::state::State;
use crate::health::OUTCOMES;

const PHASES: [RunPhase; 6] = [
    RunPhase::Planning,
    RunPhase::AwaitingApproval,
    RunPhase::Dispatching,
    RunPhase::Running,
    RunPhase::Reverting,
    RunPhase::Finished,
];

/// Counts on demand.
#[derive(Debug)]
pub(crate) struct Census(pub(crate) Centre);

#[derive(Debug, Default)]
struct Counts {
    clusters: i64,
    connected: i64,
    phases: BTreeMap<RunPhase, i64>,
    outcomes: Vec<(Outcome, i64)>,
    halts: i64,
    residue: [i64; 2],
    active: i64,
    latched: i64,
    replicas: i64,
}

impl Counts {
    fn of(state: &State, centre: &Centre) -> Self {
        let members = || state.clusters.values().filter(|cluster| cluster.spec.is_some());
        let mut counts = Self {
            clusters: number(members().count()),
            connected: number(members().filter(|cluster| cluster.session.is_some()).count()),
            outcomes: OUTCOMES.map(|outcome| (outcome, 0)).to_vec(),
            ..Self::default()
        };
        let observed = state.runs.values().flat_map(|run| run.observed.values());
        counts.active = observed.map(|said| i64::from(said.value.observed.counts.active)).sum();
        for summary in state.runs.values().filter_map(|run| run.summary.as_ref()) {
            match summary.value.residue {
                Residue::Clean => {}
                Residue::Unknown => counts.residue[0] += 1,
                Residue::Dirty => counts.residue[1] += 1,
            }
            *counts.phases.entry(summary.value.phase).or_default() += 1;
            let Some(outcome) = summary.value.outcome else {
                continue;
            };
            if let Some((_, count)) = counts.outcomes.iter_mut().find(|(known, _)| *known == outcome) {
                *count += 1;
            }
        }
        let latched = centre.inner.latch.halts();
        let ids: BTreeSet<_> = state.halts.keys().chain(latched.iter().map(|halt| &halt.id)).collect();
        counts.halts = number(ids.len());
        counts.latched = number(centre.inner.latch.count());
        counts.replicas = number(state.replicas.len());
        counts
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counts = self.0.inner.cache.read(|state| Counts::of(state, &self.0));
        let store_up = i64::from(self.0.health().store_ok());
        let plain = [
            ("clusters", "members, invited ones included.", counts.clusters),
            ("clusters_connected", "members with a live session on any replica.", counts.connected),
            ("halts", "halts in force.", counts.halts),
            ("injections_active", "injections that agents read back as made.", counts.active),
            ("latched", "stops and halts in memory that the store does not show yet.", counts.latched),
            ("replicas", "live replicas, this one included.", counts.replicas),
            ("store_up", "whether the last probe of the store was answered.", store_up),
        ];
        for (name, help, value) in plain {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let phases =
            PHASES.map(|phase| (format!("{phase:?}"), counts.phases.get(&phase).copied().unwrap_or(0)));
        family(&mut encoder, "runs", "runs on record by phase.", "phase", &phases)?;
        let residue = [("Unknown".to_owned(), counts.residue[0]), ("Dirty".to_owned(), counts.residue[1])];
        let help = "runs that left something (Dirty), or of which that is not known (Unknown).";
        family(&mut encoder, "runs_with_residue", help, "state", &residue)?;
        let outcomes: Vec<_> =
            counts.outcomes.iter().map(|(outcome, count)| (format!("{outcome:?}"), *count)).collect();
        family(
            &mut encoder,
            "runs_by_outcome",
            "runs on record that have an outcome, by it.",
            "outcome",
            &outcomes,
        )
    }
}

fn family(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &str,
    counts: &[(String, i64)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in counts {
        let labels = [(label, value.as_str())];
        ConstGauge::new(*count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
