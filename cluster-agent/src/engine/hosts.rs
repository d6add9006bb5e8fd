//! Where probes may go. The name is judged when planning and starting; the address it leads to is judged again by
//! `probes` at every sample, so that no name can lead to a forbidden place later.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::probe::Probe;

/// What a probe dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Name or address, lower case, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query of an http probe; empty for tcp.
    pub path: String,
}

/// Reads the destination of a probe: `http://host[:port]/path` or `host:port`.
pub fn destination(probe: &Probe) -> Result<Destination, String> {
    match (&probe.http, &probe.tcp) {
        (Some(http), None) => {
            let rest = http.url.strip_prefix("http://").ok_or("only http:// is possible")?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, tail) = rest.split_at(end);
            let tail = tail.split('#').next().unwrap_or_default();
            let path = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
            let (host, port) = split(authority, Some(80))?;
            Ok(Destination { host, port, path })
        }
        (None, Some(tcp)) => {
            let (host, port) = split(&tcp.address, None)?;
            Ok(Destination { host, port, path: String::new() })
        }
        _ => Err("a probe names exactly one of http, tcp".to_owned()),
    }
}

fn split(authority: &str, default: Option<u16>) -> Result<(String, u16), String> {
    if authority.contains(['@', ' ', '\\', '%']) {
        return Err(format!("{authority:?} is not host:port"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']').ok_or_else(|| format!("{authority:?} lacks a ]"))?;
            (host, tail.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(text) => text.parse().map_err(|_| format!("{text:?} is not a port"))?,
        None => default.ok_or_else(|| format!("{authority:?} lacks a port"))?,
    };
    if host.is_empty() || port == 0 {
        return Err(format!("{authority:?} is not host:port"));
    }
    Ok((host.trim_end_matches('.').to_ascii_lowercase(), port))
}

/// What a run's probes may ask.
#[derive(Debug, Clone, Default)]
pub struct Allowed<'a> {
    /// Namespaces of the run's targets.
    pub namespaces: Vec<&'a str>,
    /// Addresses of the run's targets here.
    pub pod_ips: Vec<IpAddr>,
    /// The Ceiling's further hosts: host or host:port, exact or `*.suffix`.
    pub hosts: &'a [String],
    /// Addresses of the apiserver.
    pub api: &'a [IpAddr],
}

impl Allowed<'_> {
    /// Why the probe may not go there.
    pub fn check(&self, to: &Destination) -> Result<(), String> {
        if let Ok(ip) = to.host.parse::<IpAddr>() {
            if is_denied(ip, self.api) {
                return Err(format!("{ip} is never allowed (link-local, loopback, metadata or apiserver)"));
            }
            if self.pod_ips.contains(&ip) || self.listed(to) {
                return Ok(());
            }
            return Err(format!("{ip} is no address of the run's targets"));
        }
        if is_denied_name(&to.host) {
            return Err(format!("{} is never allowed", to.host));
        }
        let service = service_namespace(&to.host).is_some_and(|ns| self.namespaces.contains(&ns));
        if service || self.listed(to) {
            return Ok(());
        }
        Err(format!(
            "{} is no Service of the run's target namespaces ({})",
            to.host,
            self.namespaces.join(", ")
        ))
    }

    fn listed(&self, to: &Destination) -> bool {
        self.hosts.iter().any(|pattern| {
            let (pattern, port) = match pattern.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, port.parse::<u16>().ok()),
                _ => (pattern.as_str(), None),
            };
            let host = match pattern.strip_prefix("*.") {
                Some(suffix) => to.host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
                None => pattern.eq_ignore_ascii_case(&to.host),
            };
            host && port.is_none_or(|p| p == to.port)
        })
    }
}

/// The namespace of `name.namespace`, `name.namespace.svc` or `name.namespace.svc.<cluster domain>`.
fn service_namespace(host: &str) -> Option<&str> {
    let mut labels = host.split('.');
    let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next());
    (!name.is_empty() && !namespace.is_empty() && svc.is_none_or(|s| s == "svc")).then_some(namespace)
}

fn is_denied_name(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host == "kubernetes"
        || (host.starts_with("kubernetes.") && service_namespace(host) == Some("default"))
        || matches!(host, "metadata" | "metadata.google.internal" | "instance-data")
}

/// Metadata and host services of large providers that are not link-local, as their manuals give them.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether no probe ever goes to this address, whoever allows it.
pub fn is_denied(ip: IpAddr, api: &[IpAddr]) -> bool {
    if api.contains(&ip) {
        return true;
    }
    match ip {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.octets()[0] == 0
                || v4.is_broadcast()
                || v4.is_multicast()
                || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = embedded_v4(v6) {
                return is_denied(IpAddr::V4(v4), api);
            }
            v6.is_multicast() || v6.is_unicast_link_local() || v6 == METADATA_V6
        }
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped and compatible (RFC 4291, with `::` and `::1`), NAT64
/// (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Ipv4Addr::LOCALHOST),
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::probe::{HttpProbe, TcpProbe};

    use super::*;

    fn http(url: &str) -> Probe {
        let mut probe = tcp("");
        probe.tcp = None;
        probe.http = Some(HttpProbe { url: url.to_owned() });
        probe
    }

    fn tcp(address: &str) -> Probe {
        Probe {
            name: "p".into(),
            http: None,
            tcp: Some(TcpProbe { address: address.into() }),
            expect: proto::probe::Expect::default(),
            every: None,
            breach_after: None,
            when: vec![],
            from: None,
            on_breach: None,
        }
    }

    #[test]
    fn only_target_services_their_pods_and_listed_hosts() {
        let hosts = vec!["*.example.com".to_owned(), "db.internal:5432".to_owned(), "127.0.0.1".to_owned()];
        let allowed = Allowed {
            namespaces: vec!["shop"],
            pod_ips: vec!["10.1.0.7".parse().unwrap()],
            hosts: &hosts,
            api: &["10.0.0.1".parse().unwrap()],
        };
        for (probe, good) in [
            (http("http://checkout.shop:8080/health"), true),
            (http("http://checkout.shop.svc/health"), true),
            (http("http://checkout.shop.svc.cluster.local"), true),
            (http("http://checkout.shop.evil.com"), false),
            (http("http://checkout.other:8080/"), false),
            (http("http://10.1.0.7:80"), true),
            (http("http://10.1.0.8:80"), false),
            (http("http://a.example.com"), true),
            (http("http://example.com"), false),
            (http("http://evilexample.com"), false),
            (tcp("db.internal:5432"), true),
            (tcp("db.internal:22"), false),
            (tcp("127.0.0.1:80"), false),
            (tcp("10.0.0.1:443"), false),
            (http("http://169.254.169.254/latest"), false),
            (tcp("[::ffff:127.0.0.1]:80"), false),
            (tcp("[fe80::1]:80"), false),
            (http("http://kubernetes.default.svc"), false),
            (http("http://localhost"), false),
        ] {
            let to = destination(&probe).unwrap();
            assert_eq!(allowed.check(&to).is_ok(), good, "{to:?}");
        }
    }

    /// Whoever allows it: the Ceiling lists every host and every address here.
    #[test]
    fn some_addresses_are_never_asked() {
        let api = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for host in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "255.255.255.255",
            "224.0.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "10.0.0.1",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::a00:1",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00::1",
            "localhost",
            "LOCALHOST.",
            "x.localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc.cluster.local",
            "metadata",
            "metadata.google.internal",
            "instance-data",
        ] {
            let listed = vec![host.to_ascii_lowercase(), host.trim_end_matches('.').to_ascii_lowercase()];
            let pod_ips = host.parse().into_iter().collect();
            let allowed = Allowed { namespaces: vec!["default", "shop"], pod_ips, hosts: &listed, api: &api };
            let address = if host.contains(':') { format!("[{host}]:80") } else { format!("{host}:80") };
            let to = destination(&tcp(&address)).unwrap();
            assert!(allowed.check(&to).is_err(), "{to:?}");
        }
        for good in ["10.0.0.2", "192.168.1.1", "8.8.8.8", "::ffff:10.0.0.2", "64:ff9b::808:808", "fd00::2"] {
            assert!(!is_denied(good.parse().unwrap(), &api), "{good}");
        }
    }

    #[test]
    fn junk_is_no_destination() {
        for probe in [
            http("https://a.shop"),
            http("http://user@a.shop"),
            http("http://:80"),
            tcp("a.shop"),
            tcp("a.shop:0"),
            tcp("a.shop:99999"),
            tcp("[::1"),
        ] {
            assert!(destination(&probe).is_err(), "{probe:?}");
        }
    }
}
