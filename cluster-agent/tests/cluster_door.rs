//! One contract for every cluster door: what `cluster.rs` promises, run on the in-memory twin and on host mode.
//! Another door joins by implementing `contract::Stage`.

#[cfg(test)]
mod cluster_door {
    pub(crate) mod contract;
    mod frozen;
    mod host;
    #[path = "../../../proto/tests/wire/levels.rs"]
    mod levels;
    #[path = "../../../proto/tests/wire/lost.rs"]
    mod lost;
    mod memory;
}
