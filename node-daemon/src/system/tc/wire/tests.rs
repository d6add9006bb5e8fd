//! The bytes. Those of prio and the layout of netem were compared with iproute2's `tc` by strace; it
//! writes netem's delays as clock ticks into the struct where we add nanoseconds as attributes.

use super::*;

fn spec() -> NetemSpec {
    NetemSpec {
        device: "eth0".to_owned(),
        latency_us: 200_000,
        jitter_us: 20_000,
        correlation_percent: 25,
        limit_packets: 1000,
    }
}

/// `tc qdisc add dev lo root handle f117: prio bands 4`.
#[test]
fn prio_has_four_bands_and_the_usual_map() {
    let expected = [
        0x04, 0, 0, 0, 0x01, 0x02, 0x02, 0x02, 0x01, 0x02, 0, 0, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
        0x01,
    ];
    assert_eq!(prio_options(), expected);
}

#[test]
fn netem_is_its_struct_followed_by_attributes() {
    let bytes = netem_options(&spec());
    let mut expected = vec![0, 0, 0, 0, 0xe8, 3, 0, 0];
    expected.extend_from_slice(&[0; 16]);
    // TCA_NETEM_CORR: 25 % of 2^32 - 1 for the delay, none for loss and duplication.
    expected.extend_from_slice(&[16, 0, 1, 0, 0xff, 0xff, 0xff, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[12, 0, 10, 0]);
    expected.extend_from_slice(&200_000_000u64.to_ne_bytes());
    expected.extend_from_slice(&[12, 0, 11, 0]);
    expected.extend_from_slice(&20_000_000u64.to_ne_bytes());
    assert_eq!(bytes, expected);
}

#[test]
fn what_is_written_is_read_and_junk_is_not() {
    let bytes = netem_options(&spec());
    assert_eq!(parse_netem("eth0", &bytes), Some(spec()));
    for length in 0..bytes.len() {
        assert_eq!(parse_netem("eth0", &bytes[..length]).filter(|read| *read == spec()), None);
    }
    let mut lossy = bytes;
    lossy[8] = 1;
    assert_eq!(parse_netem("eth0", &lossy), None);
}

#[test]
fn the_priority_names_the_band_of_our_root() {
    assert_eq!(NetemSpec::class(), 0xf117_0004);
}
