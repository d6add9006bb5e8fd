//! Assignment: what one cluster must do for one run, at one generation
//! (desired), and what it says of it (observed). Unknown is a value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::grant::Principal;
use crate::ids::{InjectionId, RunId};
use crate::injection::{InjectionStatus, TargetRef};
use crate::plan::{ClusterPlan, Envelope, Refusal};
use crate::probe::ProbeStage;
use crate::trace::TraceContext;

/// What the centre wants of a cluster for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Intent {
    /// Resolve and answer what would be hit.
    Plan,
    /// Start, if it is not too late.
    Start,
    /// Stop and revert; absorbing.
    Stop,
    /// Finished and read back: the agent may drop what it holds of it.
    Forget,
}

impl Intent {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Intent::Plan => "Plan",
            Intent::Start => "Start",
            Intent::Stop => "Stop",
            Intent::Forget => "Forget",
        }
    }

    /// Reads the word on the wire.
    pub fn parse(text: &str) -> Option<Self> {
        [Intent::Plan, Intent::Start, Intent::Stop, Intent::Forget].into_iter().find(|i| i.as_str() == text)
    }
}

/// The value of `desired/<cluster>/<run>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The run.
    pub run: RunId,
    /// Grows with each change; older, or equal with other content, is refused.
    pub generation: u64,
    /// What is wanted.
    pub intent: Intent,
    /// The effective spec, by hash.
    pub spec_hash: String,
    /// Who asked.
    pub principal: Principal,
    /// For people in the member cluster: name of the cluster and namespace, or operator.
    pub origin: Origin,
    /// Start: the plan this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// Plan: what is planned on this question is good until then, by the centre's clock. Start: carried on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_expires: Option<Timestamp>,
    /// Start: the bounds planned for this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// Start: addresses of peer targets in other clusters, per target name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, Vec<IpAddr>>,
    /// Start: the instant, by the centre's clock, after which it is Missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_before: Option<Timestamp>,
    /// Start: no fault outlives this, by the centre's clock (runDeadline).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_deadline: Option<Timestamp>,
    /// Stop: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The trace it belongs to; no part of what is compared.
    #[serde(default, rename = "traceparent", skip_serializing_if = "TraceContext::is_none")]
    pub trace: TraceContext,
}

/// Where a run was authored, as the Ceiling sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The member cluster's name; absent = at the centre.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its labels as the centre set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The namespace there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Reason of a cluster where a run was Completed without anything to act on (`allowEmpty`).
pub const NOTHING_TO_HIT: &str = "NothingToHit";

/// Why a run is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum StopReason {
    /// Somebody asked.
    Requested,
    /// Its Run object or record was deleted.
    Deleted,
    /// A halt covers it.
    Halted,
    /// Another cluster's failure or the run's deadline.
    RunAborted,
}

/// Where one cluster stands with one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum ClusterPhase {
    /// Nothing heard yet.
    Pending,
    /// The plan is made.
    Planned,
    /// The start is accepted and journalled.
    Accepted,
    /// The baseline is being measured.
    Baseline,
    /// Faults are being made or active.
    Running,
    /// Faults are being taken away.
    Reverting,
    /// Faults are gone; the After stage is measured.
    Settling,
    /// All done here.
    Finished,
}

/// How a run ended. Ordered from best to worst; a run's outcome is the worst
/// of its clusters'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Outcome {
    /// Ran to its end.
    Completed,
    /// Too late; never started.
    Missed,
    /// Not allowed; never started.
    Denied,
    /// Stopped early.
    Aborted,
    /// Stopped by a halt.
    Halted,
    /// Something did not work.
    Failed,
}

/// What was learnt. Ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Verdict {
    /// The steady state held.
    Held,
    /// No probe, or it never ran.
    NotMeasured,
    /// Measured, but not enough to say.
    Inconclusive,
    /// It did not hold.
    Broken,
}

/// What is left. Ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Residue {
    /// Read back clean.
    Clean,
    /// Not known; `residueResolvesAt` says until when.
    Unknown,
    /// Something is left; listed.
    Dirty,
}

/// The value of `observed/<cluster>/<run>`: the latest, at most a few KB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The run.
    pub run: RunId,
    /// Generation this answers.
    pub generation: u64,
    /// Phase here.
    pub phase: ClusterPhase,
    /// The plan, while planning (kept apart in the store).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ClusterPlan>,
    /// How it ended here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// CamelCase reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What stood in the way, when Denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// What was learnt here.
    pub verdict: Verdict,
    /// What is left here.
    pub residue: Residue,
    /// Unknown residue reverts by itself by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residue_resolves_at: Option<Timestamp>,
    /// When the first fault was due (the cluster's own start).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When all was Injected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected_at: Option<Timestamp>,
    /// When all was Reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted_at: Option<Timestamp>,
    /// When it was finished here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Injections by phase.
    #[serde(default)]
    pub counts: InjectionCounts,
    /// At most 20 injections, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub injections: Vec<InjectionStatus>,
    /// On whom those injections are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<InjectionId, TargetRef>,
    /// Per probe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// Latest events and samples, one order, at most 40.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<TimelineEntry>,
}

impl Observed {
    /// A first word about a run: nothing known, nothing left.
    pub fn new(run: RunId, generation: u64, phase: ClusterPhase) -> Self {
        Self {
            run,
            generation,
            phase,
            plan: None,
            outcome: None,
            reason: String::new(),
            message: String::new(),
            refusals: Vec::new(),
            verdict: Verdict::NotMeasured,
            residue: Residue::Clean,
            residue_resolves_at: None,
            started_at: None,
            injected_at: None,
            reverted_at: None,
            finished_at: None,
            counts: InjectionCounts::default(),
            injections: Vec::new(),
            targets: BTreeMap::new(),
            probes: Vec::new(),
            timeline: Vec::new(),
        }
    }
}

/// Injections of a run on a cluster, by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InjectionCounts {
    /// Planned in all.
    pub total: u32,
    /// Read back as made, now or earlier.
    pub injected: u32,
    /// Read back as made, now.
    pub active: u32,
    /// Read back clean (or gone with their target).
    pub reverted: u32,
    /// Never made: refused, missed, failed.
    pub failed: u32,
    /// Not known.
    pub unknown: u32,
    /// Something is left.
    pub residue: u32,
}

/// What a probe measured, per stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Its name.
    pub name: String,
    /// Per stage that was measured.
    #[schema(value_type = Object)]
    pub stages: BTreeMap<ProbeStage, StageReport>,
    /// Whether `breachAfter` consecutive samples were bad, in Before or During.
    pub breached: bool,
}

/// One probe in one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StageReport {
    /// Samples that met the expectation.
    pub good: u32,
    /// Samples that did not.
    pub bad: u32,
    /// Median latency of answered samples, milliseconds.
    pub median_ms: Option<u64>,
    /// Largest latency of answered samples, milliseconds.
    pub max_ms: Option<u64>,
}

/// Something that happened, in the order the agent saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// When, by the agent's clock.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// What, CamelCase: ProbeSample, Injected, Reverted, Stage, Stop, ...
    pub event: String,
    /// About what: probe, fault or injection.
    pub subject: String,
    /// Latency of a sample, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Whether a sample was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<bool>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}
