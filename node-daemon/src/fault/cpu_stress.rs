//! cpu.stress: a worker inside the container's cgroup.

use proto::ids::InjectionId;

use crate::resolve::ContainerIdentity;
use crate::step::Step;
use crate::system::target::Roots;
use crate::worker::spec::{Work, WorkerSpec};

pub(super) fn steps(
    id: &InjectionId,
    container: &ContainerIdentity,
    workers: u32,
    load_percent: u8,
    roots: &Roots,
) -> Result<Vec<Step>, String> {
    let work = Work::CpuStress {
        init: container.process.clone(),
        cgroup: container.cgroup.clone(),
        workers: u16::try_from(workers).map_err(|_| format!("{workers} workers are too many"))?,
        load_percent,
        proc_root: roots.proc.clone(),
    };
    Ok(vec![Step::Worker { worker: WorkerSpec { id: super::worker_id(id), work } }])
}
