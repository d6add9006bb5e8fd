//! An agent over gRPC: it says that it is alive, keeps what it was sent, and answers as told.

use std::time::Duration;

use certs::client::{self, Expect, Trust};
use certs::{Connector, Credential, Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use proto::api::link::link_client::LinkClient;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed};
use proto::wire::{Down, Halts, Hello, Up};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::agent::{plan, progress};
use super::fixture::PATIENCE;

/// A channel to a replica, with this identity and these roots.
pub(crate) async fn channel(
    addr: &str,
    identity: &ReloadableIdentity,
    trust: Trust,
) -> Result<Channel, tonic::transport::Error> {
    let tls = client::config(identity, trust, Expect::Name, Protocol::Grpc).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect_with_connector(Connector::new(tls)).await
}

/// What a cluster got when it enrolled.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) credential: Credential,
    pub(crate) bundle_pem: String,
}

impl Member {
    pub(crate) async fn channel(&self, addr: &str) -> Channel {
        let identity = ReloadableIdentity::new(&self.credential).unwrap();
        let bundle = Reloadable::new(TrustBundle::from_pem(&self.bundle_pem).unwrap());
        channel(addr, &identity, Trust::Bundle(bundle)).await.unwrap()
    }

    /// A link after Welcome.
    pub(crate) async fn link(&self, addr: &str, hello: Hello) -> Link {
        let (up, messages) = mpsc::channel::<Up>(64);
        up.send(Up::Hello(hello)).await.unwrap();
        let outgoing = tokio_stream::StreamExt::map(ReceiverStream::new(messages), Into::into);
        let mut client = LinkClient::new(self.channel(addr).await);
        let mut incoming = client.link(outgoing).await.unwrap().into_inner();
        let (sender, down) = mpsc::channel(1024);
        let mut pumps = JoinSet::new();
        pumps.spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if sender.send(Down::try_from(message).unwrap()).await.is_err() {
                    return;
                }
            }
        });
        let alive = up.clone();
        pumps.spawn(async move {
            for seq in 0.. {
                let beat = Up::Heartbeat { at: jiff::Timestamp::now(), seq };
                if alive.send(beat).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        let mut link = Link { up, down, seq: 0, _pumps: pumps };
        let first = link.next("Welcome").await;
        assert!(matches!(first, Down::Welcome(_)), "{first:?}");
        link
    }
}

pub(crate) struct Link {
    up: mpsc::Sender<Up>,
    down: mpsc::Receiver<Down>,
    seq: u64,
    _pumps: JoinSet<()>,
}

impl Link {
    /// The next message that is not about being alive.
    pub(crate) async fn next(&mut self, what: &str) -> Down {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.down.recv()).await;
            match next.unwrap_or_else(|_| panic!("{what}: nothing came")) {
                Some(Down::HeartbeatAck { .. }) => {}
                Some(message) => return message,
                None => panic!("{what}: the link ended"),
            }
        }
    }

    /// Reads until a message is what is wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Down) -> bool) -> Down {
        let reading = async {
            loop {
                let message = self.next(what).await;
                if wanted(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("{what}: it did not come"))
    }

    pub(crate) async fn desired(&mut self, intent: Intent) -> Desired {
        let wanted = |down: &Down| matches!(down, Down::Desired { desired, .. } if desired.intent == intent);
        match self.until(intent.as_str(), wanted).await {
            Down::Desired { desired, .. } => *desired,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn halts(&mut self, what: &str, wanted: impl Fn(&Halts) -> bool) -> Halts {
        match self.until(what, |down| matches!(down, Down::Halts(halts) if wanted(halts))).await {
            Down::Halts(halts) => halts,
            other => panic!("{other:?}"),
        }
    }

    async fn observe(&mut self, observed: Observed) {
        self.seq += 1;
        let word = Up::Observed { observed: Box::new(observed), epoch: 1, seq: self.seq };
        self.up.send(word).await.unwrap();
    }

    /// Answers the plan, takes the start, and says Running.
    pub(crate) async fn start(&mut self) -> Desired {
        let asked = self.desired(Intent::Plan).await;
        let mut planned = Observed::new(asked.run.clone(), asked.generation, ClusterPhase::Planned);
        planned.plan = Some(plan(&asked.spec_hash, 1));
        self.observe(planned).await;
        let start = self.desired(Intent::Start).await;
        self.observe(progress(&start, ClusterPhase::Running)).await;
        start
    }
}
