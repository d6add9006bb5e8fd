//! network.partition: one table that drops or rejects, its matches ended by the kernel at the deadline.

use proto::fault::{Direction, PartitionHow};
use proto::ids::InjectionId;
use proto::injection::PeerMatch;

use crate::resolve::Found;
use crate::step::Step;
use crate::system::nft::{TableSpec, Verdict};

pub(super) fn steps(
    id: &InjectionId,
    found: &Found,
    direction: Direction,
    peers: &[PeerMatch],
    how: PartitionHow,
) -> Vec<Step> {
    let verdict = match how {
        PartitionHow::Drop => Verdict::Drop,
        PartitionHow::Reject => Verdict::Reject,
    };
    let table = TableSpec { name: super::table_name(id), rules: super::rules(direction, peers, verdict) };
    vec![Step::NftTable { netns: found.identity.netns.clone(), table }]
}
