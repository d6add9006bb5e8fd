//! Exit codes, a contract with pipelines.

use std::process::ExitCode;

use proto::assignment::{Outcome, Residue, Verdict};
use proto::status::RunSummary;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; of a run: Held.
    Ok = 0,
    /// An error.
    Error = 1,
    /// Bad usage.
    Usage = 2,
    /// Verdict Broken.
    Broken = 3,
    /// Verdict Inconclusive or NotMeasured.
    Inconclusive = 4,
    /// Denied.
    Denied = 5,
    /// Aborted or Halted.
    Aborted = 6,
    /// Missed.
    Missed = 7,
    /// Something is left, or not known to be gone.
    Dirty = 8,
    /// The doctor found what does not work.
    Unhealthy = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error of usage found after parsing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

impl Exit {
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        if error.is::<Misuse>() { Exit::Usage } else { Exit::Error }
    }

    /// The code of a finished run. What is left behind outranks everything, then comes that nothing was started, then a
    /// broken steady state, then how else the run ended.
    pub(crate) fn of_run(run: &RunSummary) -> Self {
        if run.residue != Residue::Clean {
            return Exit::Dirty;
        }
        match (run.outcome, run.verdict) {
            (Some(Outcome::Denied), _) => Exit::Denied,
            (Some(Outcome::Missed), _) => Exit::Missed,
            (_, Verdict::Broken) => Exit::Broken,
            (Some(Outcome::Aborted | Outcome::Halted), _) => Exit::Aborted,
            (Some(Outcome::Failed), _) => Exit::Error,
            (Some(Outcome::Completed), Verdict::Held) => Exit::Ok,
            _ => Exit::Inconclusive,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::assignment::{Outcome, Residue, Verdict};
    use proto::status::{ClusterCounts, RunPhase, RunSummary};

    use super::{Exit, Misuse};

    const OUTCOMES: [Outcome; 6] = [
        Outcome::Completed,
        Outcome::Aborted,
        Outcome::Halted,
        Outcome::Missed,
        Outcome::Denied,
        Outcome::Failed,
    ];
    const VERDICTS: [Verdict; 4] =
        [Verdict::Held, Verdict::NotMeasured, Verdict::Inconclusive, Verdict::Broken];

    fn summary(outcome: Option<Outcome>, verdict: Verdict, residue: Residue) -> RunSummary {
        RunSummary {
            id: "run-1".parse().expect("an id"),
            phase: RunPhase::Finished,
            outcome,
            reason: String::new(),
            message: String::new(),
            verdict,
            residue,
            residue_resolves_at: None,
            plan_hash: None,
            plan_expires: None,
            planned_at: None,
            dispatched_at: None,
            injected_at: None,
            reverted_at: None,
            finished_at: None,
            clusters: ClusterCounts::default(),
            samples: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// The contract: outcome by verdict (Held, NotMeasured, Inconclusive, Broken).
    #[test]
    fn every_outcome_and_verdict_has_its_code() {
        let table = [
            (Outcome::Completed, [0, 4, 4, 3]),
            (Outcome::Aborted, [6, 6, 6, 3]),
            (Outcome::Halted, [6, 6, 6, 3]),
            (Outcome::Missed, [7, 7, 7, 7]),
            (Outcome::Denied, [5, 5, 5, 5]),
            (Outcome::Failed, [1, 1, 1, 3]),
        ];
        for (outcome, codes) in table {
            for (verdict, code) in VERDICTS.into_iter().zip(codes) {
                let exit = Exit::of_run(&summary(Some(outcome), verdict, Residue::Clean));
                assert_eq!(exit as u8, code, "{outcome:?} {verdict:?}");
            }
        }
    }

    #[test]
    fn what_is_left_behind_outranks_everything() {
        for outcome in OUTCOMES {
            for verdict in VERDICTS {
                for residue in [Residue::Unknown, Residue::Dirty] {
                    assert_eq!(Exit::of_run(&summary(Some(outcome), verdict, residue)), Exit::Dirty);
                }
            }
        }
    }

    #[test]
    fn no_outcome_is_no_success() {
        assert_eq!(Exit::of_run(&summary(None, Verdict::Held, Residue::Clean)), Exit::Inconclusive);
    }

    #[test]
    fn misuse_is_told_from_errors_also_below_a_context() {
        let misuse = anyhow::Error::from(Misuse("--x".to_owned())).context("read the flags");
        assert_eq!(Exit::of_error(&misuse), Exit::Usage);
        assert_eq!(Exit::of_error(&anyhow::anyhow!("no")), Exit::Error);
    }
}
