//! Which of the matching pods are hit. The same pods and seed always give the same choice, and a pod that comes or
//! goes moves nobody else's place, so that a plan resolved again stays as close to itself as can be.

use proto::experiment::Pick;
use proto::hash::sha256_hex;
use proto::ids::{ClusterId, RunId};

use crate::cluster::PodSeen;

/// The seed as written, or one that belongs to this run, cluster and target alone.
pub fn seed(pick: Option<&Pick>, run: &RunId, cluster: &ClusterId, target: &str) -> u64 {
    if let Some(seed) = pick.and_then(|p| p.seed) {
        return seed.unsigned_abs();
    }
    let hash = sha256_hex(format!("{run}/{cluster}/{target}").as_bytes());
    // 52 bits: exact in every JSON reader.
    u64::from_str_radix(&hash[..13], 16).unwrap_or(0)
}

/// How many of `matching` pods; the error says why it cannot be done.
pub fn count(pick: Option<&Pick>, matching: usize) -> Result<usize, String> {
    let Some(pick) = pick else { return Ok(matching) };
    if let Some(count) = pick.count {
        let count = usize::try_from(count).unwrap_or(0);
        if count > matching {
            return Err(format!("{matching} pods match, {count} are asked for"));
        }
        return Ok(count);
    }
    if let Some(percent) = pick.percent {
        let percent = usize::try_from(percent).unwrap_or(0).min(100);
        return Ok((matching * percent / 100).max(1).min(matching));
    }
    Ok(if pick.one == Some(true) { matching.min(1) } else { matching })
}

/// `count` of the pods, by a rank that depends on the seed and each pod's uid only.
pub fn choose(mut pods: Vec<&PodSeen>, count: usize, seed: u64) -> Vec<&PodSeen> {
    pods.sort_by_cached_key(|pod| (sha256_hex(format!("{seed}/{}", pod.uid).as_bytes()), pod.uid.clone()));
    pods.truncate(count);
    pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    pods
}
