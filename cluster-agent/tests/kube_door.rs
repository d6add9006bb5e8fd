//! The Kubernetes door against a real etcd and kube-apiserver, as the service account and with the Roles that the
//! member chart gives an agent. Left out, with a word, where those programs are not there: see
//! `kube_door/apiserver.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test"
)]

mod kube_door {
    mod acting;
    mod apiserver;
    mod applying;
    #[path = "../cluster_door/contract.rs"]
    mod contract;
    mod keeping;
    mod leading;
    mod member;
    mod naming_nodes;
    mod seeing;
    mod stage;
    mod telling;
    mod uninstalling;
    mod writing;
}
