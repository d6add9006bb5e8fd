//! What the samples of the steady-state probes mean: a baseline, a breach, a recovery, a verdict.

use std::collections::BTreeMap;

use proto::assignment::{ProbeReport, StageReport, Verdict};
use proto::experiment::ExperimentSpec;
use proto::probe::{OnBreach, Probe, ProbeStage};

use super::state::{RunState, Stage};
use super::{Effect, Now, Sample, State, report};

/// So many good samples in a row make a baseline, or a recovery.
const GOOD_IN_A_ROW: u32 = 3;
/// A recovery is given up after so many samples.
const AFTER_SAMPLES: u32 = 30;
/// So many samples During say something.
const ENOUGH_DURING: u32 = 3;
/// Latencies kept per stage for the median.
const LATENCIES: usize = 1000;
const DEFAULT_EVERY_MS: u64 = 1000;
const DEFAULT_WITHIN_MS: u64 = 1000;

/// One probe of a run.
#[derive(Debug, Clone, Default)]
pub struct ProbeTally {
    stages: BTreeMap<ProbeStage, StageTally>,
    /// A breach was seen During.
    pub breached: bool,
}

#[derive(Debug, Clone, Default)]
struct StageTally {
    good: u32,
    bad: u32,
    good_streak: u32,
    bad_streak: u32,
    steady: bool,
    latencies_ms: Vec<u64>,
}

/// How far a stage has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More samples are needed.
    Open,
    /// Every probe was good often enough.
    Steady,
    /// This probe was not.
    Broken(String),
}

/// Interval of a probe, milliseconds.
pub fn every_ms(probe: &Probe) -> u64 {
    probe.every.as_ref().and_then(|e| e.ms().ok()).unwrap_or(DEFAULT_EVERY_MS).max(100)
}

/// Time limit of one sample, milliseconds.
pub fn within_ms(probe: &Probe) -> u64 {
    probe.expect.within.as_ref().and_then(|w| w.ms().ok()).unwrap_or(DEFAULT_WITHIN_MS).clamp(1, 30_000)
}

fn breach_after(probe: &Probe) -> u32 {
    probe.breach_after.and_then(|n| u32::try_from(n).ok()).unwrap_or(3).max(1)
}

fn wants(probe: &Probe, stage: ProbeStage) -> bool {
    probe.when.is_empty() || probe.when.contains(&stage)
}

/// The probes of a stage.
pub fn of(spec: &ExperimentSpec, stage: ProbeStage) -> Vec<Probe> {
    spec.steady_state.iter().filter(|p| wants(p, stage)).cloned().collect()
}

/// Whether a run measures anything at this stage.
pub fn has(run: &RunState, stage: ProbeStage) -> bool {
    run.spec.as_ref().is_some_and(|spec| spec.steady_state.iter().any(|p| wants(p, stage)))
}

/// Starts a stage's probes; false where it has none.
pub fn start(run: &RunState, stage: ProbeStage, out: &mut Vec<Effect>) -> bool {
    let probes = run.spec.as_ref().map(|spec| of(spec, stage)).unwrap_or_default();
    if probes.is_empty() {
        out.push(Effect::StopProbes { run: run.desired.run.clone() });
        return false;
    }
    out.push(Effect::StartProbes { run: run.desired.run.clone(), stage, probes });
    true
}

fn current(run: &RunState) -> Option<ProbeStage> {
    match run.stage {
        Stage::Baseline => Some(ProbeStage::Before),
        Stage::Running => Some(ProbeStage::During),
        Stage::Settling => Some(ProbeStage::After),
        _ => None,
    }
}

/// Counts a sample. One of another stage than the run is in comes too late and is dropped.
pub fn sample(state: &mut State, sample: &Sample, now: Now) {
    let Some(run) = state.runs.get_mut(&sample.run) else {
        return;
    };
    let Some(spec) = run.spec.clone() else { return };
    let Some(probe) = spec.steady_state.iter().find(|p| p.name == sample.probe) else {
        return;
    };
    if current(run) != Some(sample.stage) {
        return;
    }
    let tally = run.probes.entry(sample.probe.clone()).or_default();
    let stage = tally.stages.entry(sample.stage).or_default();
    if sample.good {
        stage.good += 1;
        stage.good_streak += 1;
        stage.bad_streak = 0;
        stage.steady |= stage.good_streak >= GOOD_IN_A_ROW;
    } else {
        stage.bad += 1;
        stage.bad_streak += 1;
        stage.good_streak = 0;
    }
    if let Some(latency) = sample.latency_ms.filter(|_| stage.latencies_ms.len() < LATENCIES) {
        stage.latencies_ms.push(latency);
    }
    let breach = stage.bad_streak >= breach_after(probe) && sample.stage == ProbeStage::During;
    let first = breach && !tally.breached;
    tally.breached |= breach;
    report::sampled(run, now, sample);
    if first {
        report::note(run, now, "Breach", &sample.probe, &sample.detail);
        run.dirty = true;
    }
}

/// Where the baseline stands.
pub fn baseline(run: &RunState) -> Progress {
    progress(run, ProbeStage::Before, |probe| breach_after(probe) + 10)
}

/// Where the recovery stands.
pub fn recovery(run: &RunState) -> Progress {
    progress(run, ProbeStage::After, |_| AFTER_SAMPLES)
}

fn progress(run: &RunState, stage: ProbeStage, most: impl Fn(&Probe) -> u32) -> Progress {
    let Some(spec) = &run.spec else {
        return Progress::Steady;
    };
    let mut open = false;
    for probe in of(spec, stage) {
        let tally = run.probes.get(&probe.name).and_then(|t| t.stages.get(&stage));
        let Some(tally) = tally else {
            open = true;
            continue;
        };
        if !tally.steady && tally.good + tally.bad >= most(&probe) {
            return Progress::Broken(probe.name);
        }
        open |= !tally.steady;
    }
    if open { Progress::Open } else { Progress::Steady }
}

/// The probe whose breach aborts the run, if any.
pub fn abort(run: &RunState) -> Option<String> {
    let spec = run.spec.as_ref()?;
    let aborts = |p: &&Probe| p.on_breach.unwrap_or_default() == OnBreach::Abort;
    let breached = |p: &&Probe| run.probes.get(&p.name).is_some_and(|t| t.breached);
    spec.steady_state.iter().filter(aborts).find(breached).map(|p| p.name.clone())
}

/// The After stage ends by itself at this boottime even if samples do not come (a probe that hangs is bounded by
/// its own limit; this bounds the sum).
pub fn settle_by(run: &RunState) -> Option<u64> {
    let spec = run.spec.as_ref()?;
    let longest = of(spec, ProbeStage::After).iter().map(|p| every_ms(p).max(within_ms(p))).max()?;
    Some(run.settling_since_ms.saturating_add(longest * u64::from(AFTER_SAMPLES + 2)))
}

/// What was learnt, once the run is over here.
pub fn verdict(run: &RunState) -> Verdict {
    let Some(spec) = &run.spec else {
        return if run.adopted { Verdict::Inconclusive } else { Verdict::NotMeasured };
    };
    if spec.steady_state.is_empty() || run.start.is_none() {
        return Verdict::NotMeasured;
    }
    let made = run.injections.iter().any(|t| t.status.injected_at_unix_ms.is_some());
    if !made && !run.adopted {
        return Verdict::NotMeasured; // what was measured, was measured without any fault
    }
    let mut enough = !run.adopted;
    for probe in &spec.steady_state {
        let tally = run.probes.get(&probe.name).cloned().unwrap_or_default();
        let stage = |stage| tally.stages.get(&stage).cloned().unwrap_or_default();
        let (before, during, after) =
            (stage(ProbeStage::Before), stage(ProbeStage::During), stage(ProbeStage::After));
        if tally.breached || (!after.steady && after.good + after.bad >= AFTER_SAMPLES) {
            return Verdict::Broken;
        }
        enough &= !wants(probe, ProbeStage::Before) || before.steady;
        enough &= !wants(probe, ProbeStage::During) || during.good + during.bad >= ENOUGH_DURING;
        enough &= !wants(probe, ProbeStage::After) || after.steady;
    }
    if enough { Verdict::Held } else { Verdict::Inconclusive }
}

/// Per probe, for the centre.
pub fn reports(run: &RunState) -> Vec<ProbeReport> {
    let one = |(name, tally): (&String, &ProbeTally)| ProbeReport {
        name: name.clone(),
        stages: tally.stages.iter().map(|(stage, t)| (*stage, stage_report(t))).collect(),
        breached: tally.breached,
    };
    run.probes.iter().map(one).collect()
}

fn stage_report(tally: &StageTally) -> StageReport {
    let mut sorted = tally.latencies_ms.clone();
    sorted.sort_unstable();
    StageReport {
        good: tally.good,
        bad: tally.bad,
        median_ms: sorted.get(sorted.len() / 2).copied(),
        max_ms: sorted.last().copied(),
    }
}
