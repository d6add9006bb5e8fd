//! Where the centre is: a list of addresses that an operator sets, the centre signs, and agents verify, keep and dial.
//! The centre makes and serves it, agents take it over the link, the command line checks it before it asks.
//!
//! Encoding of what is signed: the text `faultline-endpoints-v1`, then trust domain, sequence (8 bytes, big-endian),
//! link endpoints and enrolment endpoints (each a count of 8 bytes and its texts), at (16 bytes, big-endian
//! nanoseconds since 1970); every text is its length in bytes (8 bytes, big-endian) and its UTF-8.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::{instant, number, text};
use crate::problem::{Problem, Problems};

/// Most addresses of one kind.
pub const MAX_ENDPOINTS: usize = 16;
/// The longest host name, in bytes.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A list of addresses, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointList {
    /// Whose agents it is for.
    pub trust_domain: String,
    /// Grows with each change. At least the seconds since 1970, so that a centre on an older copy of the store never
    /// says again a number that agents know.
    pub sequence: u64,
    /// `host:port` of the links, all equal.
    pub link_endpoints: Vec<String>,
    /// `host:port` of enrolment; the first goes into join tokens.
    pub enrol_endpoints: Vec<String>,
    /// When it was signed.
    pub at: Timestamp,
}

/// A list and what vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedEndpoints {
    /// The list.
    #[serde(flatten)]
    pub list: EndpointList,
    /// Certificates of the key that signed, leaf first, PEM.
    pub chain_pem: String,
    /// ECDSA P-256 with SHA-256 over [`EndpointList::statement`], ASN.1, base64url.
    pub signature: String,
}

/// `PUT /v1/endpoints`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutEndpoints {
    /// `host:port` that agents dial, the first one first; 1 to 16.
    pub link_endpoints: Vec<String>,
    /// `host:port` of enrolment; the first goes into join tokens; 1 to 16.
    pub enrol_endpoints: Vec<String>,
}

/// `GET /v1/endpoints`: the list in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsView {
    /// 0: no list was ever set, agents keep the address that they enrolled with.
    pub sequence: u64,
    /// `host:port` that agents dial.
    pub link_endpoints: Vec<String>,
    /// `host:port` of enrolment.
    pub enrol_endpoints: Vec<String>,
    /// When it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub at: Option<Timestamp>,
    /// Who set it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl EndpointList {
    /// What its signature must be over.
    pub fn statement(&self) -> Vec<u8> {
        let mut bytes = b"faultline-endpoints-v1".to_vec();
        text(&mut bytes, &self.trust_domain);
        number(&mut bytes, self.sequence);
        for list in [&self.link_endpoints, &self.enrol_endpoints] {
            number(&mut bytes, list.len() as u64);
            for address in list {
                text(&mut bytes, address);
            }
        }
        instant(&mut bytes, self.at);
        bytes
    }

    /// Refuses addresses that nobody could dial.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(&self) -> Result<(), Problems> {
        check(&self.link_endpoints, &self.enrol_endpoints)
    }
}

impl PutEndpoints {
    /// Refuses addresses that nobody could dial.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(&self) -> Result<(), Problems> {
        check(&self.link_endpoints, &self.enrol_endpoints)
    }
}

fn check(link: &[String], enrol: &[String]) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for (path, list) in [("linkEndpoints", link), ("enrolEndpoints", enrol)] {
        if list.is_empty() || list.len() > MAX_ENDPOINTS {
            problems.push(Problem::new(path, format!("write 1 to {MAX_ENDPOINTS} addresses")));
        }
        let mut seen = BTreeSet::new();
        // One more than may be there shows the mistake; the rest of a flood shows nothing more.
        for (index, address) in list.iter().enumerate().take(MAX_ENDPOINTS + 1) {
            let at = format!("{path}[{index}]");
            if host_of(address).is_none() {
                let shown: String = address.chars().take(80).collect();
                let message =
                    format!("{shown:?} is not host:port, as in hub.example.com:7444 or [fd00::1]:7444");
                problems.push(Problem::new(at, message));
            } else if !seen.insert(address) {
                problems.push(Problem::new(at, "is there twice"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

/// The host of `host:port`, without the brackets of an IPv6 address; `None` for anything that cannot be dialled.
pub fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let digits = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|_| digits)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    (port > 0 && good).then(|| bare.unwrap_or(host))
}

/// A DNS name, or an IPv4 address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let ends = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && label.len() <= MAX_LABEL_BYTES && inner && ends
    };
    let numbers = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    host.len() <= MAX_HOST_BYTES
        && if numbers { host.parse::<Ipv4Addr>().is_ok() } else { host.split('.').all(label) }
}

#[cfg(test)]
mod tests {
    use super::{EndpointList, MAX_ENDPOINTS, PutEndpoints, host_of};

    fn put(link: &[&str], enrol: &[&str]) -> PutEndpoints {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        PutEndpoints { link_endpoints: owned(link), enrol_endpoints: owned(enrol) }
    }

    #[test]
    fn only_what_can_be_dialled_is_an_address() {
        for (address, host) in [
            ("hub.example.com:7444", "hub.example.com"),
            ("hub:1", "hub"),
            ("10.0.0.3:65535", "10.0.0.3"),
            ("[fd00::3]:7444", "fd00::3"),
            ("a_b-c.d:07444", "a_b-c.d"),
        ] {
            assert_eq!(host_of(address), Some(host), "{address}");
        }
        let long = format!("{}:1", "a".repeat(64));
        let longer = format!("{}a:1", "a.".repeat(127));
        for address in [
            "",
            "hub",
            "hub:",
            ":7444",
            "hub:0",
            "hub:65536",
            "hub:+1",
            "hub:000001",
            "https://hub:1",
            "hub/x:1",
            "u@hub:1",
            "hub :1",
            "-hub:1",
            "hub-:1",
            "hub..x:1",
            ".hub:1",
            "hub.:1",
            "1.2.3:1",
            "1.2.3.4.5:1",
            "300.1.1.1:1",
            "fd00::3:7444",
            "[fd00::3:7444",
            "[hub]:1",
            "[]:1",
            "h\u{fc}b:1",
            "hub\n:1",
            &long,
            &longer,
        ] {
            assert_eq!(host_of(address), None, "{address:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let many: Vec<String> = (0..=MAX_ENDPOINTS).map(|n| format!("hub-{n}:7444")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let paths = |put: PutEndpoints| -> Vec<String> {
            let problems = put.check().err().map(|problems| problems.0).unwrap_or_default();
            problems.into_iter().map(|problem| problem.path).collect()
        };
        assert_eq!(paths(put(&["hub:7444", "[::1]:1"], &["hub:7445"])), Vec::<String>::new());
        assert_eq!(paths(put(&[], &[])), ["linkEndpoints", "enrolEndpoints"]);
        assert_eq!(
            paths(put(&["hub:1", "x", "hub:1"], &["y"])),
            ["linkEndpoints[1]", "linkEndpoints[2]", "enrolEndpoints[0]"]
        );
        assert_eq!(paths(put(&many, &["hub:1"])), ["linkEndpoints"]);
    }

    #[test]
    fn everything_in_a_list_is_signed() {
        let list = EndpointList {
            trust_domain: "td.test".to_owned(),
            sequence: 7,
            link_endpoints: vec!["a:1".to_owned(), "b:1".to_owned()],
            enrol_endpoints: vec!["c:1".to_owned()],
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        let moved = EndpointList {
            link_endpoints: vec!["a:1".to_owned()],
            enrol_endpoints: vec!["b:1".to_owned(), "c:1".to_owned()],
            ..list.clone()
        };
        let others = [
            EndpointList { trust_domain: "td.tes".to_owned(), ..list.clone() },
            EndpointList { sequence: 8, ..list.clone() },
            EndpointList { at: jiff::Timestamp::from_nanosecond(1).unwrap(), ..list.clone() },
            moved,
        ];
        for other in others {
            assert_ne!(other.statement(), list.statement(), "{other:?}");
        }
        let json = serde_json::to_string(&list).unwrap();
        let back: EndpointList = serde_json::from_str(&json).unwrap();
        assert_eq!(back.statement(), list.statement());
    }
}
