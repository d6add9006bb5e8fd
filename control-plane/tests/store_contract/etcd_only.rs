//! What only a store in another process can suffer: its death, its silence, its replacement by
//! an older self, and strangers on the wire.

use std::sync::Arc;
use std::time::Duration;

use control_plane::store::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use control_plane::store::lease::KeptLease;
use control_plane::store::{Error, FollowConfig, PageRequest, Store, Txn, WatchItem, follow};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::time::Instant;

use crate::fixture::{bounded, commit, events, put, value};
use crate::following::{Replay, everything, storm};
use crate::server::{EtcdServer, ServerTls};

async fn connect(server: &EtcdServer) -> Arc<dyn Store> {
    Arc::new(EtcdStore::connect(EtcdConfig::new(vec![server.endpoint()])).await.unwrap())
}

/// Puts, however long the store is away. The put is the same each time, so doing it twice is harmless.
async fn put_at_last(store: &dyn Store, key: &str) -> u64 {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        match store.txn(Txn::new().put(key, "v")).await {
            Ok(outcome) => return outcome.committed().unwrap(),
            Err(error) => assert!(error.retryable(), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_survives_the_death_of_etcd() {
    bounded(async {
        let Some(mut server) = EtcdServer::start().await else {
            return;
        };
        let (store, other) = (connect(&server).await, connect(&server).await);
        let mut mirror = follow(other.clone(), "s/", FollowConfig::default());
        let mut replay = Replay::default();
        replay.until(&mut mirror, 1).await;
        let mut raw = other.watch("s/", replay.synced + 1).await.unwrap();
        let (mut puts, mut deletes) = (0, 0);
        for round in 0..3 {
            let done = storm(&*store, round, 30).await;
            server.kill();
            assert!(store.get("s/x").await.unwrap_err().retryable());
            server.restart().await;
            let last = put_at_last(&*store, &format!("s/back/{round}")).await;
            (puts, deletes) = (puts + done.0 + 1, deletes + done.1);
            replay.until(&mut mirror, last).await;
            assert_eq!(replay.entries, everything(&*store, "s/").await);
        }
        // The refused put of a dead server may have been sent: only its own key may count twice.
        assert_eq!(replay.deletes, deletes);
        assert!((puts..puts + 3).contains(&replay.puts), "{puts} {}", replay.puts);
        // A bare watch does not resume: it ends in an error that says to watch again.
        let error = loop {
            if let Err(error) = raw.next().await {
                break error;
            }
        };
        assert!(error.retryable(), "{error:?}");
        assert!(matches!(raw.next().await, Err(Error::Closed)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_etcd_is_noticed_within_the_keepalive() {
    bounded(async {
        let Some(server) = EtcdServer::start().await else {
            return;
        };
        let store = connect(&server).await;
        let config = EtcdConfig::new(vec![]);
        let from = put(&*store, "k", "1").await + 1;
        let mut watch = store.watch("k", from).await.unwrap();
        server.freeze();
        let stopped = Instant::now();
        let error = store.get("k").await.unwrap_err();
        assert!(error.retryable(), "{error:?}");
        assert!(
            stopped.elapsed() < config.request_timeout + Duration::from_secs(10),
            "{:?}",
            stopped.elapsed()
        );
        let error = watch.next().await.unwrap_err();
        let bound = config.keepalive_interval + config.keepalive_timeout + Duration::from_secs(15);
        assert!(stopped.elapsed() < bound, "noticed after {:?}", stopped.elapsed());
        assert!(error.retryable(), "{error:?}");
        server.thaw();
        put_at_last(&*store, "k").await;
        let mut watch = store.watch("k", from).await.unwrap();
        assert!(!events(&mut watch, 1).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_lost_when_etcd_is_silent_for_its_life() {
    bounded(async {
        let Some(server) = EtcdServer::start().await else {
            return;
        };
        let store = connect(&server).await;
        let lease = KeptLease::grant(store.clone(), Duration::from_secs(2)).await.unwrap();
        server.freeze();
        let stopped = Instant::now();
        lease.lost().cancelled().await;
        // Never believed in for longer than it may have lived.
        assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
        server.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_gone_back_in_time_stops_the_mirror() {
    bounded(async {
        let Some(mut server) = EtcdServer::start().await else {
            return;
        };
        let store = connect(&server).await;
        let last = {
            storm(&*store, 1, 20).await;
            put(&*store, "s/last", "1").await
        };
        let mut mirror = follow(store.clone(), "s/", FollowConfig::default());
        let mut replay = Replay::default();
        replay.until(&mut mirror, last).await;
        server.kill();
        server.wipe();
        server.restart().await;
        let error = loop {
            match mirror.next().await {
                Ok(change) => replay.take(change),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, Error::Rewound { seen, current } if seen == last && current == 1),
            "{error:?}"
        );
        assert!(!replay.entries.is_empty(), "a store that lost its memory must not empty the mirror");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_blocks_nobody() {
    bounded(async {
        let Some(server) = EtcdServer::start().await else {
            return;
        };
        let store = connect(&server).await;
        let from = put(&*store, "k", "0").await + 1;
        let mut idle = store.watch("k", from).await.unwrap();
        let big = vec![b'x'; 16 * 1024];
        // 16 MiB, well above any HTTP/2 window, on the connection that the idle watch shares.
        for _ in 0..1024 {
            commit(&*store, Txn::new().put("k", big.clone())).await;
        }
        store.health().await.unwrap();
        // What it does get has no gap, and then it is told.
        let mut last = from - 1;
        loop {
            match idle.next().await {
                Ok(WatchItem::Events { events, revision }) => {
                    for event in events {
                        assert_eq!(event.revision(), last + 1);
                        last += 1;
                    }
                    assert_eq!(last, revision);
                }
                Ok(WatchItem::Progress { .. }) => {}
                Err(error) => {
                    assert!(matches!(error, Error::Lagged), "{error:?}");
                    break;
                }
            }
        }
        // Watching on from there brings the rest: more than 4 MiB, tonic's own bound, at once.
        let mut rest = store.watch("k", last + 1).await.unwrap();
        let left = (from + 1024 - 1 - last) as usize;
        assert!(left > 300, "{left}");
        assert_eq!(events(&mut rest, left).await.len(), left);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_fleets_apart() {
    bounded(async {
        let Some(server) = EtcdServer::start().await else {
            return;
        };
        let with = async |prefix: &str| {
            let config = EtcdConfig { prefix: prefix.to_owned(), ..EtcdConfig::new(vec![server.endpoint()]) };
            EtcdStore::connect(config).await.unwrap()
        };
        let (one, two, root) = (with("/one/").await, with("/two/").await, with("/").await);
        let from = one.health().await.unwrap().revision + 1;
        let mut watch = two.watch("", from).await.unwrap();
        put(&one, "k", "of one").await;
        let revision = put(&two, "k", "of two").await;
        assert_eq!(value(&one, "k").await.as_deref(), Some("of one"));
        assert_eq!(events(&mut watch, 1).await, [format!("k=of two@{revision}")]);
        let page = root.list("", PageRequest::first(10)).await.unwrap();
        assert_eq!(page.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["one/k", "two/k"]);
        // With or without a separator at its end it is the same prefix, and never the start of another.
        assert_eq!(value(&with("/one").await, "k").await.as_deref(), Some("of one"));
        assert!(with("/on").await.list("", PageRequest::first(10)).await.unwrap().entries.is_empty());
        let nothing = EtcdConfig { prefix: String::new(), ..EtcdConfig::new(vec![server.endpoint()]) };
        assert!(matches!(EtcdStore::connect(nothing).await, Err(Error::Config(_))));
    })
    .await;
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, for both ends: etcd's gateway is a client of itself.
    fn leaf(&self, name: &str) -> (String, String) {
        let sans = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_lets_in_whom_both_ends_know_and_nobody_else() {
    bounded(async {
        let (ours, theirs) = (Authority::new("our ca"), Authority::new("another ca"));
        let (certificate, key) = ours.leaf("etcd");
        let tls = ServerTls { authority: ours.pem.clone(), certificate, key };
        let Some(server) = EtcdServer::start_with(Some(tls)).await else {
            return;
        };
        let with = async |ca: &Authority, identity: Option<(String, String)>| {
            let identity_pem = identity.map(|(cert, key)| (cert.into_bytes(), key.into_bytes()));
            let tls = EtcdTls { ca_pem: ca.pem.clone().into_bytes(), identity_pem, server_name: None };
            let config = EtcdConfig { tls: Some(tls), ..EtcdConfig::new(vec![server.endpoint()]) };
            EtcdStore::connect(config).await.unwrap()
        };
        let store = with(&ours, Some(ours.leaf("centre"))).await;
        let revision = put_at_last(&store, "k").await;
        let mut watch = store.watch("k", revision).await.unwrap();
        assert_eq!(events(&mut watch, 1).await, [format!("k=v@{revision}")]);

        let strangers = [
            ("an etcd of another authority", with(&theirs, Some(ours.leaf("centre"))).await),
            ("a client of another authority", with(&ours, Some(theirs.leaf("centre"))).await),
            ("a client without certificate", with(&ours, None).await),
        ];
        for (who, stranger) in strangers {
            let error = stranger.get("k").await.expect_err(who);
            assert!(matches!(error, Error::Unavailable { .. } | Error::Timeout { .. }), "{who}: {error:?}");
        }
        let plain = EtcdConfig::new(vec![server.endpoint()]);
        assert!(matches!(EtcdStore::connect(plain).await, Err(Error::Config(_))), "https without tls");
        assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    })
    .await;
}
