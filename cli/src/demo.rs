//! `faultline demo`: the main job on one machine, without Kubernetes. One
//! process runs a control plane on the embedded store and two host-mode
//! clusters, east and west, each with a small HTTP service in a network
//! namespace of its own. An experiment is authored through east and executed
//! on west while a client outside both measures.
//!
//! Everything happens in a private network namespace (and, without root, a
//! user namespace), so that nothing can be left on the machine.

mod chart;
mod client;
mod report;
mod scene;
mod services;
mod story;
mod world;

use anyhow::Context as _;

use crate::args::DemoArgs;
use crate::exit::Exit;

pub(crate) use services::{KIND as SERVICE_KIND, main as service};

/// Runs the demo to its end and cleans up after itself.
pub(crate) fn main(args: &DemoArgs) -> anyhow::Result<Exit> {
    // Before any thread exists: a user namespace needs a single-threaded process.
    world::enter()?;
    certs::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(story::tell(args.json));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}
