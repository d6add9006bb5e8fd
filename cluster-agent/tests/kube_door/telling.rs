//! Words on objects: events as the apiserver keeps them, once each, by the agent's own rights.

use cluster_agent::cluster::{Acts, Announcement, ObjectRef};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::json;

use super::member::Member;

async fn events(member: &Member, uid: &str) -> Vec<Event> {
    let of_object = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    member.api::<Event>(&member.shop).list(&of_object).await.unwrap().items
}

fn word(on: ObjectRef, key: &str, reason: &str, warning: bool) -> Announcement {
    let (key, reason, at) = (key.to_owned(), reason.to_owned(), "2026-01-01T00:00:00Z".parse().unwrap());
    Announcement { on, key, reason, message: "x".repeat(3000), warning, at }
}

#[tokio::test]
async fn each_word_is_one_event_whoever_says_it() {
    let Some(member) = Member::start().await else {
        return;
    };
    let pod = member.pod(&member.shop, "p", "", json!({})).await;
    let run =
        member.write("Run", Some(&member.shop), "r1", &json!({ "experimentRef": { "name": "e" } })).await;
    let reference = |api_version: &str, kind: &str, name: &str, uid: &Option<String>| ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: member.shop.clone(),
        name: name.to_owned(),
        uid: uid.clone().unwrap(),
    };
    let on_pod = reference("v1", "Pod", "p", &pod.metadata.uid);
    let on_run = reference("faultline.dev/v1alpha1", "Run", "r1", &run.metadata.uid);

    // Two agents, as after a hand-over, and each of them twice.
    for door in [member.door("agent-a"), member.door("agent-b")] {
        for _ in 0..2 {
            door.announce(&word(on_pod.clone(), "i1", "Injected", false)).await.unwrap();
            door.announce(&word(on_run.clone(), "Failed/1", "Aborted", true)).await.unwrap();
        }
        door.announce(&word(on_pod.clone(), "i1", "Reverted", false)).await.unwrap();
        door.announce(&word(on_pod.clone(), "i2", "Injected", false)).await.unwrap();
    }
    let mut reasons: Vec<_> =
        events(&member, &on_pod.uid).await.into_iter().filter_map(|event| event.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["Injected", "Injected", "Reverted"]);
    let told = events(&member, &on_run.uid).await;
    let [event] = &told[..] else { panic!("{told:?}") };
    assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("Aborted"), Some("Warning")));
    assert_eq!(event.involved_object.kind.as_deref(), Some("Run"));
    assert_eq!(event.reporting_component.as_deref(), Some("faultline-agent"));
    assert_eq!(event.message.as_ref().map(String::len), Some(1000), "cut to what is taken");

    // A namespace that is gone has nobody to tell.
    let gone = ObjectRef { namespace: "no-such-namespace".to_owned(), ..on_pod };
    member.door("agent-a").announce(&word(gone, "i1", "Injected", false)).await.unwrap();
}
