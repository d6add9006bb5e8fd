//! Replicas as they are deployed, REST and links over TLS, on a real etcd that dies, falls silent, or
//! comes back older than it was: stop and halt go through all of that.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the parts that the tests share are tests, too"
)]

#[expect(dead_code, reason = "shared with the tests over channels; only its messages are used here")]
#[path = "centre/agent.rs"]
mod agent;
#[path = "outage/fixture.rs"]
mod fixture;
#[path = "outage/link.rs"]
mod link;
#[path = "outage/restored.rs"]
mod restored;
#[path = "store_contract/server.rs"]
mod server;
#[path = "outage/strangers.rs"]
mod strangers;
#[path = "outage/unreachable.rs"]
mod unreachable;
