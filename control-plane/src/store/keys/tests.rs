//! No name can escape its prefix, and every key reads back as it was written.

use proptest::prelude::*;

use super::*;

/// Names as a hostile cluster would choose them.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.-]{1,20}",
        "[/.a-z\\x00-\\x1f]{0,12}",
        "\\PC{0,40}",
        Just("..".to_owned()),
        Just("spec".to_owned()),
        Just("a/spec".to_owned()),
        Just("é".repeat(127)),
        Just("x".repeat(253)),
        Just("x".repeat(254)),
    ]
}

fn fit(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= MAX_SEGMENT_BYTES
        && !segment.chars().any(|c| c == '/' || c.is_control())
}

/// Every kind of key, with the number of names it uses.
fn every_key(names: &[String; 4], number: u64) -> Vec<(Key<'_>, usize)> {
    let [a, b, c, d] = names;
    vec![
        (Key::ClusterSpec { cluster: a }, 1),
        (Key::ClusterStatus { cluster: a }, 1),
        (Key::Experiment { origin: a, namespace: b, name: c }, 3),
        (Key::Spec { sha256: a }, 1),
        (Key::RunSpec { run: a }, 1),
        (Key::RunPlan { run: a, cluster: b }, 2),
        (Key::RunSummary { run: a }, 1),
        (Key::Desired { cluster: a, run: b }, 2),
        (Key::Observed { cluster: a, run: b }, 2),
        (Key::Grant { name: a }, 1),
        (Key::Halt { id: a }, 1),
        (Key::Session { cluster: a }, 1),
        (Key::Replica { id: a }, 1),
        (Key::Leader, 0),
        (Key::Token { id: a }, 1),
        (Key::Cert { cluster: a }, 1),
        (Key::Revoked { cluster: a, serial: b }, 2),
        (Key::Ca { epoch: number }, 0),
        (Key::Epoch, 0),
        (Key::Format, 0),
        (Key::Audit { replica: a, seq: number }, 1),
        (Key::AuditCheckpoint { replica: a, seq: number }, 1),
        (Key::AuditCursor { sink: a, replica: b }, 2),
        (Key::RevisionMarks, 0),
        (Key::Endpoints, 0),
        (Key::RunResult { run: a, cluster: b, chunk: number }, 2),
        (Key::Tombstone { origin: a, namespace: b, name: c, uid: d }, 4),
    ]
}

proptest! {
    #[test]
    fn a_key_is_refused_or_reads_back_as_itself(a in hostile(), b in hostile(), c in hostile(), d in hostile(), n: u64) {
        let names = [a, b, c, d];
        for (key, used) in every_key(&names, n) {
            let fit = names.iter().take(used).all(|name| fit(name));
            match key.path() {
                Ok(path) => {
                    prop_assert!(fit, "{path:?}");
                    prop_assert_eq!(Key::parse(&path), Ok(key));
                    prop_assert!(path.len() <= crate::store::txn::MAX_KEY_BYTES);
                }
                Err(_) => prop_assert!(!fit, "{key:?} refused"),
            }
        }
    }

    #[test]
    fn no_name_escapes_its_prefix(cluster in hostile(), run in hostile(), other in "[a-z0-9-]{1,8}") {
        let mine = Prefix::DesiredOf { cluster: &cluster }.path();
        let key = Key::Desired { cluster: &cluster, run: &run }.path();
        if let (Ok(mine), Ok(key)) = (&mine, &key) {
            prop_assert!(key.starts_with(mine.as_str()));
            prop_assert!(key.starts_with("desired/"));
            let other_prefix = Prefix::DesiredOf { cluster: &other }.path().unwrap();
            prop_assert_eq!(key.starts_with(&other_prefix), other == cluster);
        }
        prop_assert!(!(mine.is_err() && key.is_ok()));
    }

    #[test]
    fn parsing_never_accepts_what_it_would_not_write(text in "\\PC{0,60}|[a-z/0-9]{0,60}") {
        if let Ok(key) = Key::parse(&text) {
            prop_assert_eq!(key.path().unwrap(), text);
        }
    }

    #[test]
    fn numbers_sort_as_text(a: u64, b: u64) {
        let path = |seq| Key::Audit { replica: "r", seq }.path().unwrap();
        prop_assert_eq!(a.cmp(&b), path(a).cmp(&path(b)));
    }
}

#[test]
fn keys_look_as_documented() {
    let path = |key: Key<'_>| key.path().unwrap();
    assert_eq!(path(Key::RunPlan { run: "r1", cluster: "c2" }), "runs/r1/plan/c2");
    assert_eq!(
        path(Key::Experiment { origin: "centre", namespace: "shop", name: "x" }),
        "experiments/centre/shop/x"
    );
    assert_eq!(path(Key::Audit { replica: "a", seq: 7 }), "audit/a/00000000000000000007");
    assert_eq!(path(Key::Leader), "leader");
    assert_eq!(Prefix::RunPlans { run: "r1" }.path().unwrap(), "runs/r1/plan/");
    assert_eq!(Key::parse("ca/1"), Err(KeyError::Unknown("ca/1".to_owned())));
    assert_eq!(Key::parse("runs/r1/plan"), Err(KeyError::Unknown("runs/r1/plan".to_owned())));
}
