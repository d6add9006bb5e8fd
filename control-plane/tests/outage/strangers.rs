//! Who may tell a replica to stop something: another replica of the same centre, and nobody else.

use certs::client::Trust;
use certs::throwaway::Throwaway;
use certs::{Credential, Reloadable, ReloadableIdentity, Role, TrustBundle, TrustDomain};
use control_plane::enrolment::Signer;
use http::Method;
use proto::api::peer::TakeRequest;
use proto::api::peer::peer_client::PeerClient;
use proto::halt::{Halt, HaltScope};
use proto::wire::Latched;
use serde_json::Value;
use tonic::Code;

use super::fixture::{Cell, KEK};
use super::link::{Member, channel};

fn request(id: &str) -> TakeRequest {
    let halt = Halt {
        id: id.parse().unwrap(),
        scope: HaltScope::Fleet,
        reason: String::new(),
        by: "operator:ann".to_owned(),
        at: jiff::Timestamp::now(),
        origin: None,
    };
    Latched { stops: Vec::new(), halts: vec![halt] }.into()
}

/// What a caller with this credential, that trusts the centre, is told.
async fn take(cell: &Cell, credential: &Credential, bundle_pem: &str, id: &str) -> Result<(), Code> {
    let identity = ReloadableIdentity::new(credential).unwrap();
    let trust = Trust::Bundle(Reloadable::new(TrustBundle::from_pem(bundle_pem).unwrap()));
    // With TLS 1.3 a refusal of the client shows at the first read, at the latest in the call.
    let channel = channel(&cell.replicas[0].link, &identity, trust).await.map_err(|_| Code::Unavailable)?;
    PeerClient::new(channel).take(request(id)).await.map(|_| ()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_replica_of_this_centre_is_believed() {
    let Some(cell) = Cell::start().await else {
        return;
    };
    let Member { credential, bundle_pem } = cell.member("west").await;
    // A cluster of this centre.
    assert_eq!(take(&cell, &credential, &bundle_pem, "of-a-cluster").await, Err(Code::PermissionDenied));
    // A replica by name, of another CA and even of the same trust domain.
    let now = jiff::Timestamp::now();
    let domain = TrustDomain::new("faultline.local").unwrap();
    let other = certs::Authority::create(domain.clone(), now).unwrap();
    let day = std::time::Duration::from_hours(24);
    let strangers = [
        Throwaway::new(now).unwrap().authority.issue_client(&Role::control_plane("cp-0"), now, day).unwrap(),
        other.issue_client(&Role::control_plane("cp-0"), now, day).unwrap(),
    ];
    for stranger in &strangers {
        let refused = take(&cell, stranger, &bundle_pem, "of-a-stranger").await.unwrap_err();
        // Cut off in the handshake: no service answered.
        assert!(!matches!(refused, Code::Ok | Code::PermissionDenied), "{refused:?}");
    }
    let store = cell.store().await;
    let signer = Signer::load(&store, KEK.as_bytes(), &domain, "cp-9", now).await.unwrap();
    let genuine = signer.issue_server(&["127.0.0.1"], now).unwrap();
    assert_eq!(take(&cell, &genuine, &bundle_pem, "of-a-replica").await, Ok(()));
    // What was believed is in force everywhere, what was not is nowhere.
    let page = cell.until(1, "/v1/halts", "one halt", |page| !page["items"][0].is_null()).await;
    let ids: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|view| &view["halt"]["id"]).collect();
    assert_eq!(ids, ["of-a-replica"]);
    let (status, _) = cell.call(0, Method::DELETE, "/v1/halts/of-a-replica", &Value::Null).await;
    assert!(status.is_success(), "{status}");
}
