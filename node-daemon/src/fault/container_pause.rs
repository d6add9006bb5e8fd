//! container.pause: the freezer of the container's cgroup.

use crate::resolve::ContainerIdentity;
use crate::step::Step;

pub(super) fn steps(container: &ContainerIdentity) -> Vec<Step> {
    vec![Step::FreezeCgroup { init: container.process.clone(), cgroup: container.cgroup.clone() }]
}
