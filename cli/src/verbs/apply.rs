//! `faultline apply`: stores Experiments and Grants, and with `--prune` deletes what the same owner declared before
//! and no longer does. It runs nothing, and changes nothing that is as declared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proto::grant::GrantSpec;
use proto::rest::{ExperimentView, GrantView};
use proto::validate::Manifest;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{ApplyArgs, Form};
use crate::client::{Client, segment};
use crate::exit::{Exit, Misuse};
use crate::output;

/// What is to be stored, by kind and name; a Run is no such thing. Every problem of every file at once.
pub(crate) fn read(args: &ApplyArgs) -> anyhow::Result<Vec<Manifest>> {
    let (mut problems, mut invalid) = (Vec::new(), false);
    let mut declared: BTreeMap<(String, String), (Manifest, PathBuf)> = BTreeMap::new();
    for file in files(&args.file)? {
        let manifests = match super::validate::read(&file) {
            Ok(manifests) => manifests,
            Err(error) => {
                problems.push(format!("{error:#}"));
                invalid = true;
                continue;
            }
        };
        for manifest in manifests {
            let (kind, name) = (manifest.kind.clone(), manifest.name.clone());
            if kind == "Run" {
                let why = "would run something, and apply never does: use `faultline run -f`";
                problems.push(format!("Run {name} {why}"));
            } else if let Some((_, other)) = declared.get(&(kind.clone(), name.clone())) {
                let twice = format!("{kind} {name} is declared in {} and in", other.display());
                problems.push(format!("{twice} {}", file.display()));
            } else {
                declared.insert((kind, name), (manifest, file.clone()));
            }
        }
    }
    if problems.is_empty() {
        return Ok(declared.into_values().map(|(manifest, _)| manifest).collect());
    }
    let problems = problems.join("\n");
    // A file that is wrong is an error; a good one that is no matter of this verb is a misuse of it.
    Err(if invalid { anyhow::anyhow!(problems) } else { Misuse(problems).into() })
}

/// The file, or the declarations in the folder, in order of name.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let what = || format!("read {}", path.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(what)? {
        let file = entry.with_context(what)?.path();
        let kind = file.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if file.is_file() && ["yaml", "yml", "json"].contains(&kind) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        // With --prune an empty folder would delete everything: most likely it is the wrong one.
        return Err(Misuse(format!("{} holds no *.yaml, *.yml or *.json", path.display())).into());
    }
    Ok(files)
}

/// What becomes of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Change {
    Created,
    Changed,
    Unchanged,
    Pruned,
}

#[derive(Debug, Serialize)]
struct Step {
    kind: String,
    name: String,
    change: Change,
    #[serde(skip)]
    path: String,
    #[serde(skip)]
    body: Value,
    /// What it was when this was decided.
    #[serde(skip)]
    tag: Option<String>,
}

/// What is there now: whose it is, whether it is as declared, its tag.
struct Known {
    owner: Option<String>,
    same: bool,
    tag: String,
}

pub(crate) async fn run(
    manifests: Vec<Manifest>,
    args: &ApplyArgs,
    client: &Client,
    form: Form,
) -> anyhow::Result<Exit> {
    let owner = args.owner.as_deref();
    let mut steps = Vec::new();
    let mut foreign = Vec::new();
    for manifest in &manifests {
        let path = path_of(&manifest.kind, &manifest.name);
        let known = known(client, manifest, &path).await?;
        if let (Some(owner), Some(other)) = (owner, known.as_ref().and_then(|known| known.owner.as_ref()))
            && owner != other
        {
            foreign.push(format!("{}/{} is owned by {other}", manifest.kind.to_lowercase(), manifest.name));
        }
        let change = match &known {
            None => Change::Created,
            Some(known) if known.same && (owner.is_none() || known.owner.as_deref() == owner) => {
                Change::Unchanged
            }
            Some(_) => Change::Changed,
        };
        let mut body = json!({ "spec": manifest.spec });
        if let Some(owner) = owner {
            body["owner"] = owner.into();
        }
        let kind = manifest.kind.to_lowercase();
        let tag = known.map(|known| known.tag);
        steps.push(Step { kind, name: manifest.name.clone(), change, path, body, tag });
    }
    if !foreign.is_empty() {
        anyhow::bail!("{}\n  nothing was changed; delete it first to hand it over", foreign.join("\n  "));
    }
    if let Some(owner) = owner.filter(|_| args.prune) {
        steps.extend(prunable(client, owner, &manifests).await?);
    }
    carry_out(&steps, args.dry_run, client, form).await
}

async fn carry_out(steps: &[Step], dry_run: bool, client: &Client, form: Form) -> anyhow::Result<Exit> {
    for step in steps {
        let what = || format!("{}/{}", step.kind, step.name);
        match step.change {
            Change::Created | Change::Changed if !dry_run => {
                client.put_if(&step.path, &step.body, step.tag.as_deref()).await.with_context(what)?;
            }
            Change::Pruned if !dry_run => {
                client.delete_if(&step.path, step.tag.as_deref().unwrap_or("*")).await.with_context(what)?;
            }
            _ => {}
        }
        if form == Form::Table {
            let dry = if dry_run { " (dry run)" } else { "" };
            output::data(&format!("{} {}{dry}", what(), output::word(&step.change)))?;
        }
    }
    if form != Form::Table {
        output::print(form, &steps, &[], Vec::new)?;
    }
    Ok(Exit::Ok)
}

fn path_of(kind: &str, name: &str) -> String {
    let list = if kind == "Grant" { "grants" } else { "experiments" };
    format!("/v1/{list}/{}", segment(name))
}

async fn known(client: &Client, manifest: &Manifest, path: &str) -> anyhow::Result<Option<Known>> {
    if manifest.kind == "Grant" {
        let wanted: GrantSpec = serde_json::from_value(manifest.spec.clone())?;
        let found = client.tagged::<GrantView>(path).await?;
        return Ok(found.map(|(view, tag)| Known { owner: view.owner, same: view.spec == wanted, tag }));
    }
    let found = client.tagged::<ExperimentView>(path).await?;
    Ok(found.map(|(view, tag)| Known { owner: view.owner, same: view.spec == manifest.spec, tag }))
}

/// What this owner declared before and does not any more. Each is read once more for its tag, and deleted only as
/// it was then.
async fn prunable(client: &Client, owner: &str, manifests: &[Manifest]) -> anyhow::Result<Vec<Step>> {
    let mut names: Vec<(&str, String)> = Vec::new();
    for view in client.list::<ExperimentView>("/v1/experiments").await? {
        if view.owner.as_deref() == Some(owner) && view.origin == "central" {
            names.push(("Experiment", view.name));
        }
    }
    for view in client.list::<GrantView>("/v1/grants").await? {
        if view.owner.as_deref() == Some(owner) {
            names.push(("Grant", view.name));
        }
    }
    names.retain(|(kind, name)| !manifests.iter().any(|m| m.kind == *kind && m.name == *name));
    let mut steps = Vec::new();
    for (kind, name) in names {
        let path = path_of(kind, &name);
        let found = client.tagged::<Value>(&path).await?;
        let still = found.filter(|(view, _)| view["owner"] == *owner);
        if let Some((_, tag)) = still {
            let (kind, tag) = (kind.to_lowercase(), Some(tag));
            steps.push(Step { kind, name, change: Change::Pruned, path, body: Value::Null, tag });
        }
    }
    Ok(steps)
}
