//! What a worker child is told (the first line of its standard input) and what it says (lines on its
//! standard output). Written by `spawn`, read by [`super::main`], journalled inside steps.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::system::target::{CgroupRef, NetnsRef, ProcessRef};

/// One worker to start. Its id stands in the command line, so that it is found again after a restart of
/// the daemon without its pid having been written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSpec {
    /// Unique over all nodes: the injection id, and the step's place when an injection has several.
    /// Letters, digits, `-`, `_` and `.` only.
    pub id: String,
    /// What it does.
    pub work: Work,
}

/// The closed set of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Work {
    /// Holds back the packets that a rule of ours hands to an NFQUEUE.
    Nfqueue {
        /// The namespace of the queue.
        netns: NetnsRef,
        /// Our table there, removed by the worker when the daemon is gone.
        table: String,
        /// Queue number.
        queue: u16,
        /// How long packets are held.
        delay: Delay,
        /// Packets held at most; above it the kernel lets packets pass (fail-open).
        max_packets: u32,
    },
    /// Burns processor time inside the target's cgroup.
    CpuStress {
        /// The process whose container this is; checked before joining.
        init: ProcessRef,
        /// Where to join: the cpu and cpuacct hierarchies (v1) or the unified one.
        cgroup: CgroupRef,
        /// Threads.
        workers: u16,
        /// Share of one processor each thread uses, in percent (1-100).
        load_percent: u8,
        /// The configured proc root.
        proc_root: PathBuf,
    },
}

/// How long a packet is held back. Order within the queue is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// Middle of the delay, in microseconds.
    pub latency_us: u64,
    /// Largest deviation from it, in microseconds.
    pub jitter_us: u64,
    /// How much one packet's deviation follows the one before, in percent.
    pub correlation_percent: u8,
    /// Seed of the deviations, so that a run can be repeated.
    pub seed: u64,
}

/// What a worker says about itself, one JSON object a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerReport {
    /// Packets handled (nfqueue), or busy slices done (cpu-stress).
    pub units: u64,
    /// Packets held right now.
    pub held: u64,
}

/// A worker that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    /// The process.
    pub process: ProcessRef,
    /// Its latest words; `None` when another process holds its standard output.
    pub report: Option<WorkerReport>,
}

impl Work {
    /// The word after `worker` in the command line.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Nfqueue { .. } => "nfqueue",
            Self::CpuStress { .. } => "cpu-stress",
        }
    }
}
