//! Words on objects as core/v1 Events. An event is named after what it says, so saying it again, in another
//! process too, is a conflict and not another event; no right to read or change events is needed. Called by
//! `acts`.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::PostParams;
use proto::hash::sha256_hex;

use super::answer::{Failure, call};
use super::{Kube, MANAGED_BY};
use crate::cluster::{Announcement, Error};

/// The apiserver takes at most 1024 characters.
const MAX_MESSAGE_CHARS: usize = 1000;
const COMPONENT: &str = "faultline-agent";

/// Says it, once.
pub(super) async fn say(door: &Kube, announcement: &Announcement) -> Result<(), Error> {
    let events: Api<Event> = Api::namespaced(door.client(), &announcement.on.namespace);
    match call(events.create(&PostParams::default(), &event(announcement, &door.settings().pod_name))).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_conflict() => Ok(()),
        // The namespace is gone, or going.
        Err(Failure::Said(status)) if status.code == 404 || status.reason == "NamespaceTerminating" => Ok(()),
        Err(failure) => Err(failure.into_error(format!("say {}", announcement.reason))),
    }
}

fn event(announcement: &Announcement, instance: &str) -> Event {
    let Announcement { on, key, reason, message, warning, at } = announcement;
    let hash = sha256_hex(format!("{}/{key}/{reason}", on.uid).as_bytes());
    let short: String = on.name.chars().take(200).collect();
    let name = format!("{}.{}", short.trim_end_matches(['.', '-']), &hash[..16]);
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(on.namespace.clone()),
            labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(on.api_version.clone()),
            kind: Some(on.kind.clone()),
            namespace: Some(on.namespace.clone()),
            name: Some(on.name.clone()),
            uid: Some(on.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(reason.clone()),
        message: Some(message.chars().take(MAX_MESSAGE_CHARS).collect()),
        type_: Some(if *warning { "Warning" } else { "Normal" }.to_owned()),
        first_timestamp: Some(Time(*at)),
        last_timestamp: Some(Time(*at)),
        count: Some(1),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}
