//! The meaning of steady-state probes.

use super::Report;
use crate::probe::Probe;

pub(super) fn check(probe: &Probe, path: &str, p: &mut Report) {
    match (&probe.http, &probe.tcp) {
        (Some(http), None) => {
            let ok = http.url.strip_prefix("http://").is_some_and(|rest| {
                let host = rest.split('/').next().unwrap_or_default();
                !host.is_empty() && !host.contains('@') && host_port(host)
            });
            if !ok {
                let why = format!("{:?} is not of the form http://host[:port][/path]", http.url);
                p.add(format!("{path}.http.url"), why);
            }
        }
        (None, Some(tcp)) => {
            let ok = tcp.address.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty())
                && host_port(&tcp.address);
            if !ok {
                p.add(
                    format!("{path}.tcp.address"),
                    format!("{:?} is not of the form host:port", tcp.address),
                );
            }
            if !probe.expect.status.is_empty() {
                p.add(format!("{path}.expect.status"), "a tcp probe has no status: leave it out");
            }
        }
        _ => p.add(path, "name exactly one of http, tcp"),
    }
    if let Some(every) = &probe.every {
        p.span(&format!("{path}.every"), every, 100, 3_600_000);
    }
    if let Some(within) = &probe.expect.within {
        p.span(&format!("{path}.expect.within"), within, 1, 30_000);
    }
}

/// `host` or `host:port`, with a plausible host and a port that is one.
fn host_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_ok = host.starts_with('[') && host.ends_with(']')
        || host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'));
    host_ok && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}
