//! The Kubernetes door against a real etcd and kube-apiserver, as the service account and with the Roles that the
//! member chart gives an agent. Left out, with a word, where those programs are not there: see
//! `kube_door/apiserver.rs`.

mod kube_door {
    mod acting;
    mod apiserver;
    mod keeping;
    mod leading;
    mod member;
    mod naming_nodes;
    mod seeing;
    mod writing;
}
