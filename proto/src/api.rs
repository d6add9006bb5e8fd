//! The generated gRPC types. Only `wire` (the conversions) and the gRPC shells
//! of link, enrolment, node link and peers may name them.
#![expect(clippy::pedantic, reason = "generated code")]

/// Agent and control plane.
pub mod link {
    tonic::include_proto!("faultline.link.v1");
}
/// A cluster's first contact.
pub mod enrolment {
    tonic::include_proto!("faultline.enrolment.v1");
}
/// Node daemon and agent.
pub mod node {
    tonic::include_proto!("faultline.node.v1");
}
/// Replicas of the control plane.
pub mod peer {
    tonic::include_proto!("faultline.peer.v1");
}
