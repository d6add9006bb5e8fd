//! `clusters invite -f`: hundreds of members at once. Run again it goes on where it stopped: who has joined, or has
//! a manifest with a token that is still good, is left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use proto::rest::{ClusterView, Invitation, InviteCluster};
use serde::Serialize;
use tokio::task::JoinSet;

use super::file::Member;
use super::secret;
use crate::args::Form;
use crate::client::Client;
use crate::exit::Exit;
use crate::output;

/// Invitations on their way at once.
const AT_ONCE: usize = 8;
/// How often progress is told.
const TELL_EVERY: usize = 50;

/// What is the same for all.
#[derive(Debug, Clone)]
pub(super) struct Each {
    pub(super) auto_accept: bool,
    pub(super) ttl: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// Now.
    Invited,
    /// By an earlier call; its token is still good.
    InvitedBefore,
    /// Nothing to do.
    Joined,
    /// See the message.
    Failed,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Row {
    fn new(name: &str, state: State) -> Self {
        Self { name: name.to_owned(), state, file: None, expires_at: None, message: None }
    }
}

pub(super) async fn invite(
    client: &Client,
    form: Form,
    members: Vec<Member>,
    each: Each,
    out: &Path,
) -> anyhow::Result<Exit> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let known: Vec<ClusterView> = client.list("/v1/clusters").await?;
    let known: BTreeMap<String, ClusterView> =
        known.into_iter().map(|view| (view.spec.name.clone(), view)).collect();
    let now = Timestamp::now();
    let total = members.len();
    let mut rows = Vec::new();
    let mut under_way: JoinSet<Row> = JoinSet::new();
    for member in members {
        let path = secret::path(out, &member.name);
        if let Some(row) = settled(known.get(&member.name), &member.name, &path, now) {
            rows.push(row);
            continue;
        }
        if under_way.len() >= AT_ONCE {
            rows.extend(under_way.join_next().await.transpose()?);
            tell(&rows, total);
        }
        under_way.spawn(one(client.clone(), member, each.clone(), path));
    }
    while let Some(row) = under_way.join_next().await {
        rows.push(row?);
        tell(&rows, total);
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    report(form, &rows, out)
}

fn tell(rows: &[Row], total: usize) {
    if rows.len().is_multiple_of(TELL_EVERY) {
        output::note(&format!("{} of {total}", rows.len()));
    }
}

/// What needs no invitation any more.
fn settled(known: Option<&ClusterView>, name: &str, path: &Path, now: Timestamp) -> Option<Row> {
    let known = known?;
    if known.spec.revoked {
        let why = "is revoked: remove it first, to invite it again";
        return Some(Row { message: Some(why.to_owned()), ..Row::new(name, State::Failed) });
    }
    // Only an enrolled cluster has a version.
    if !known.status.version.is_empty() {
        return Some(Row::new(name, State::Joined));
    }
    let left = secret::left(path)?;
    let good = left.cluster == known.spec.id.as_str() && left.expires_at > now;
    good.then(|| Row {
        file: Some(path.to_owned()),
        expires_at: Some(left.expires_at),
        ..Row::new(name, State::InvitedBefore)
    })
}

async fn one(client: Client, member: Member, each: Each, path: PathBuf) -> Row {
    let name = member.name.clone();
    let request = InviteCluster {
        name: member.name,
        labels: member.labels,
        auto_accept: each.auto_accept,
        ttl: Some(each.ttl),
    };
    let invited: anyhow::Result<Invitation> = async {
        let invitation: Invitation = client.post("/v1/clusters", &request).await?;
        secret::write(&path, &name, &invitation)?;
        Ok(invitation)
    }
    .await;
    match invited {
        Ok(invitation) => Row {
            file: Some(path),
            expires_at: Some(invitation.expires_at),
            ..Row::new(&name, State::Invited)
        },
        Err(error) => Row { message: Some(format!("{error:#}")), ..Row::new(&name, State::Failed) },
    }
}

fn report(form: Form, rows: &[Row], out: &Path) -> anyhow::Result<Exit> {
    let shown = |row: &Row| {
        let file = row.file.as_ref().map(|file| file.display().to_string());
        let said = row.message.clone().or(file).unwrap_or_default();
        vec![row.name.clone(), output::word(&row.state), said]
    };
    output::print(form, &rows, &["NAME", "STATE", "FILE"], || rows.iter().map(shown).collect())?;
    let failed = rows.iter().filter(|row| row.state == State::Failed).count();
    anyhow::ensure!(failed == 0, "{failed} of {} were not invited; run it again to go on", rows.len());
    output::note(&format!(
        "per cluster: kubectl apply -n faultline-system -f {}/NAME.yaml, then install the member chart with \
         --set join.existingSecret=faultline-join",
        out.display()
    ));
    Ok(Exit::Ok)
}
