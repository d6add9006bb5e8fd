//! From intent to chains, sets and rules.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::Side;
use super::*;

fn spec(peers: Vec<Peer>, verdict: Verdict) -> TableSpec {
    let rule = RuleSpec {
        hook: Hook::Input,
        peer: Side::Source,
        port: Side::Destination,
        peers,
        verdict,
        spare_loopback: true,
    };
    TableSpec { name: "fl_x".to_owned(), rules: vec![rule] }
}

fn peer(cidr: &str, ports: &[u16]) -> Peer {
    Peer { cidr: cidr.parse().unwrap(), ports: ports.to_vec() }
}

#[test]
fn overlapping_blocks_become_disjoint_ranges() {
    let peers =
        vec![peer("10.0.0.0/8", &[]), peer("10.2.0.0/16", &[]), peer("11.0.0.0/8", &[]), peer("::/0", &[])];
    let ruleset = Ruleset::render(&spec(peers, Verdict::Drop)).unwrap();
    let v4 = &ruleset.sets["r0v4"];
    let only = v4.elements.first().unwrap();
    assert_eq!(v4.elements.len(), 1);
    assert_eq!(only.first, [10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(only.last, [11, 255, 255, 255, 255, 0, 0, 0]);
    assert_eq!(v4.fields, [4, 1]);
    assert_eq!(ruleset.sets["r0v6"].key_bytes(), 20);
    assert_eq!(ruleset.rules["input"].len(), 2);
}

#[test]
fn ports_make_a_set_of_their_own_for_tcp_and_udp() {
    let peers = vec![peer("10.0.0.0/8", &[80, 443]), peer("10.9.0.0/16", &[80]), peer("1.1.1.1/32", &[])];
    let ruleset = Ruleset::render(&spec(peers, Verdict::Reject)).unwrap();
    assert_eq!(ruleset.sets["r0v4p"].elements.len(), 4);
    assert_eq!(ruleset.sets["r0v4"].elements.len(), 1);
    // Reject is one rule for TCP and one for the rest.
    assert_eq!(ruleset.rules["input"].len(), 4);
}

#[test]
fn what_is_not_ours_or_matches_nothing_is_refused() {
    let mut foreign = spec(vec![peer("10.0.0.0/8", &[])], Verdict::Drop);
    foreign.name = "filter".to_owned();
    let mut long = foreign.clone();
    long.name = format!("fl_{}", "x".repeat(40));
    let many = (0..5000u32).map(|n| peer(&format!("{}/32", Ipv4Addr::from(n * 2)), &[])).collect();
    for refused in [foreign, long, spec(vec![], Verdict::Drop), spec(many, Verdict::Drop)] {
        assert!(matches!(Ruleset::render(&refused), Err(Error::Invalid { .. })));
    }
}

#[test]
fn names_are_short_and_ours() {
    let name = TableSpec::name_for("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b");
    assert_eq!(name, "fl_c3d47e5f8a9b0c1d2e3f4a5b");
    assert!(name.len() <= NAME_BYTES_MAX);
}

proptest! {
    #[test]
    fn merged_ranges_cover_the_same_addresses(
        blocks in proptest::collection::vec((any::<u32>(), 8u8..=32), 1..20),
        probes in proptest::collection::vec(any::<u32>(), 50),
    ) {
        let nets: Vec<IpNet> =
            blocks.iter().map(|(bits, length)| IpNet::new(Ipv4Addr::from(*bits).into(), *length).unwrap()).collect();
        let ranges = merged(nets.iter().filter_map(|net| range_of(net, Family::V4)).collect());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        let edges = blocks.iter().map(|(bits, _)| *bits);
        for bits in probes.into_iter().chain(edges) {
            let address = IpAddr::from(Ipv4Addr::from(bits));
            let inside = ranges.iter().any(|(first, last)| (*first..=*last).contains(&u128::from(bits)));
            prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&address)));
        }
    }
}
