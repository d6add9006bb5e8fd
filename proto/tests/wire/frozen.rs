//! What released versions wrote, kept as they wrote it: every document, every message, every field number. These must
//! be read for as long as somebody may still send or keep them.
//!
//! At a release, `FREEZE=1 cargo test -p proto --test wire frozen` writes the files of the version that are not there
//! yet. A file that is there is never written again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use prost::Message;
use proto::assignment::{Desired, Observed};
use proto::audit::{AuditCheckpoint, AuditLine};
use proto::cluster::{ClusterSpec, ClusterStatus, NodeCapabilities};
use proto::endpoints::SignedEndpoints;
use proto::grant::GrantSpec;
use proto::halt::Halt;
use proto::injection::{Injection, InjectionStatus};
use proto::plan::ClusterPlan;
use proto::record::FaultRecordSpec;
use proto::rest::{ClusterView, ExperimentView, GrantView, HaltView, RunView, WhoAmI};
use proto::run::RunRecord;
use proto::status::{AuthoredStatus, RunSummary};
use proto::wire::{Down, Latched, NodeDown, NodeUp, Up};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::lost::lost;

/// What it means when a test here fails.
const MEANING: &str = "version {version} is still in use somewhere, in another process or on a disk. Read what it \
                       wrote, or give up that version: then raise the protocol or the store's format, say so in \
                       docs/guides/operations.md under Upgrades, and delete its folder here";

pub(super) fn versions() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/frozen");
    let folders = std::fs::read_dir(root).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let versions: Vec<_> = folders.map(|path| (name(&path), path)).collect();
    assert!(!versions.is_empty());
    versions
}

fn meaning(version: &str) -> String {
    MEANING.replace("{version}", version)
}

/// Reads a document as what its name says, up to a comma or " of ", and writes it again.
pub(super) fn reread(name: &str, document: &Value) -> Result<Value, String> {
    fn of<T: Serialize + DeserializeOwned>(document: &Value) -> Result<Value, String> {
        let read: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(read).map_err(|error| error.to_string())
    }
    let kind = name.split([',', ' ']).next().expect("a kind");
    match kind {
        "AuditCheckpoint" => of::<AuditCheckpoint>(document),
        "AuditLine" => of::<AuditLine>(document),
        "AuthoredStatus" => of::<AuthoredStatus>(document),
        "ClusterPlan" => of::<ClusterPlan>(document),
        "ClusterSpec" => of::<ClusterSpec>(document),
        "ClusterStatus" => of::<ClusterStatus>(document),
        "Desired" => of::<Desired>(document),
        "FaultRecordSpec" => of::<FaultRecordSpec>(document),
        "GrantSpec" => of::<GrantSpec>(document),
        "Halt" => of::<Halt>(document),
        "Injection" => of::<Injection>(document),
        "InjectionStatus" => of::<InjectionStatus>(document),
        "NodeCapabilities" => of::<NodeCapabilities>(document),
        "Observed" => of::<Observed>(document),
        "RunRecord" => of::<RunRecord>(document),
        "RunSummary" => of::<RunSummary>(document),
        "ClusterView" => of::<ClusterView>(document),
        "ExperimentView" => of::<ExperimentView>(document),
        "GrantView" => of::<GrantView>(document),
        "HaltView" => of::<HaltView>(document),
        "RunView" => of::<RunView>(document),
        "SignedEndpoints" => of::<SignedEndpoints>(document),
        "WhoAmI" => of::<WhoAmI>(document),
        other => Err(format!("no type is read as {other}")),
    }
}

pub(super) fn documents(folder: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder.join("documents.json")).expect("documents.json");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn documents_of_released_versions_are_read() {
    for (version, folder) in versions() {
        for (name, document) in documents(&folder) {
            let now = reread(&name, &document).unwrap_or_else(|error| {
                panic!("{name} of version {version} is not read: {error}. {}", meaning(&version))
            });
            let changed = lost(&document, &now);
            assert!(changed.is_empty(), "{name} of version {version}: {changed:#?}. {}", meaning(&version));
        }
    }
}

/// The name of every message by its stream and kind, in bytes.
fn frames() -> BTreeMap<String, Vec<u8>> {
    let named = |stream: &str, shown: String, bytes: Vec<u8>| {
        let kind: String = shown.chars().take_while(char::is_ascii_alphanumeric).collect();
        (format!("{stream}.{kind}"), bytes)
    };
    let ups = super::ups().into_iter().map(|m| named("Up", format!("{m:?}"), pb(m).encode_to_vec()));
    let downs = super::downs()
        .into_iter()
        .map(|m| named("Down", format!("{m:?}"), proto::api::link::Down::from(m).encode_to_vec()));
    let node_ups = super::node_ups()
        .into_iter()
        .map(|m| named("NodeUp", format!("{m:?}"), proto::api::node::NodeUp::from(m).encode_to_vec()));
    let node_downs = super::node_downs()
        .into_iter()
        .map(|m| named("NodeDown", format!("{m:?}"), proto::api::node::NodeDown::from(m).encode_to_vec()));
    let take = proto::api::peer::TakeRequest::from(super::latched()).encode_to_vec();
    let peer = std::iter::once(("Peer.Latched".to_owned(), take));
    ups.chain(downs).chain(node_ups).chain(node_downs).chain(peer).collect()
}

fn pb(up: Up) -> proto::api::link::Up {
    up.into()
}

/// Reads a frame as its stream says; what it is, for people.
pub(super) fn read(name: &str, bytes: &[u8]) -> Result<String, String> {
    let failed = |error: prost::DecodeError| error.to_string();
    let refused = |error: proto::wire::WireError| error.to_string();
    Ok(match name.split('.').next().expect("a stream") {
        "Up" => format!(
            "{:?}",
            Up::try_from(proto::api::link::Up::decode(bytes).map_err(failed)?).map_err(refused)?
        ),
        "Down" => format!(
            "{:?}",
            Down::try_from(proto::api::link::Down::decode(bytes).map_err(failed)?).map_err(refused)?
        ),
        "NodeUp" => format!(
            "{:?}",
            NodeUp::try_from(proto::api::node::NodeUp::decode(bytes).map_err(failed)?).map_err(refused)?
        ),
        "NodeDown" => format!(
            "{:?}",
            NodeDown::try_from(proto::api::node::NodeDown::decode(bytes).map_err(failed)?)
                .map_err(refused)?
        ),
        "Peer" => format!(
            "{:?}",
            Latched::try_from(proto::api::peer::TakeRequest::decode(bytes).map_err(failed)?)
                .map_err(refused)?
        ),
        other => return Err(format!("no stream is called {other}")),
    })
}

/// `name hex`, a line each.
pub(super) fn frozen_frames(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(folder.join("frames.txt")).expect("frames.txt");
    let line = |line: &str| {
        let (name, hex) = line.split_once(' ').expect("name hex");
        (name.to_owned(), HEXLOWER.decode(hex.as_bytes()).expect("hex"))
    };
    text.lines().map(line).collect()
}

#[test]
fn messages_of_released_versions_are_read() {
    for (version, folder) in versions() {
        for (name, bytes) in frozen_frames(&folder) {
            let shown = read(&name, &bytes).unwrap_or_else(|error| {
                panic!("{name} of version {version} is not read: {error}. {}", meaning(&version))
            });
            let kind = name.split('.').next_back().expect("a kind");
            assert!(shown.starts_with(kind), "{name} of version {version} is read as {shown}");
        }
    }
}

/// `package.Message.field = number type`, of every field of every message.
fn fields() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for text in [
        include_str!("../../protos/link.proto"),
        include_str!("../../protos/node.proto"),
        include_str!("../../protos/peer.proto"),
        include_str!("../../protos/enrolment.proto"),
    ] {
        let package = text.split_once("package ").expect("a package").1.split_once(';').expect("its end").0;
        let code: String = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ");
        for message in code.split("message ").skip(1) {
            let (name, body) = message.split_once('{').expect("a body");
            for statement in body.split([';', '{', '}']) {
                let Some((left, number)) = statement.split_once('=') else { continue };
                let words: Vec<&str> = left.split_whitespace().collect();
                let (field, kind) = words.split_last().expect("a field");
                fields.insert(format!(
                    "{package}.{}.{field} = {} {}",
                    name.trim(),
                    number.trim(),
                    kind.join(" ")
                ));
            }
        }
    }
    fields
}

#[test]
fn no_field_of_a_released_version_changes_its_number_or_type() {
    let now = fields();
    assert!(now.contains("faultline.link.v1.Hello.protocol_min = 1 uint32"), "{now:#?}");
    assert!(now.contains("faultline.link.v1.Up.hello = 1 Hello"), "{now:#?}");
    for (version, folder) in versions() {
        let text = std::fs::read_to_string(folder.join("fields.txt")).expect("fields.txt");
        let gone: Vec<&str> = text.lines().filter(|line| !now.contains(*line)).collect();
        assert!(gone.is_empty(), "of version {version}: {gone:#?}. {}", meaning(&version));
    }
}

#[test]
fn this_version_is_frozen() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/frozen").join(env!("CARGO_PKG_VERSION"));
    let frames = frames();
    let lines: Vec<String> =
        frames.iter().map(|(name, bytes)| format!("{name} {}\n", HEXLOWER.encode(bytes))).collect();
    let fields: Vec<String> = fields().into_iter().map(|field| field + "\n").collect();
    if std::env::var_os("FREEZE").is_some() {
        for (name, text) in [("frames.txt", lines.concat()), ("fields.txt", fields.concat())] {
            if !folder.join(name).exists() {
                std::fs::write(folder.join(name), text).expect("written");
            }
        }
    }
    // Between releases kinds may be added; a release freezes them.
    let known = frozen_frames(&folder);
    assert!(known.len() > 30 && known.keys().all(|name| frames.contains_key(name)), "{:?}", known.keys());
}
