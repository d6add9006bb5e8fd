//! The gRPC shells over real TLS: enrolment and link towards a small centre, node enrolment and link towards the
//! agent's own server.

#[cfg(test)]
mod tls {
    mod centre;
    mod nodes;
    mod proxied;
    mod recovered;
}
