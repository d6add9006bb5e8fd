//! `faultline store`: the centre's state, while no control plane uses it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use control_plane::config::StoreChoice;
use control_plane::driver::clock::Clock;
use control_plane::restored::{Restored, mark};
use control_plane::store::redb as embedded;

use crate::args::{Form, StoreCommand};
use crate::exit::{Exit, Misuse};
use crate::output;

/// The file of an embedded store.
const FILE: &str = "faultline.redb";

pub(crate) async fn run(command: StoreCommand, form: Form) -> anyhow::Result<Exit> {
    match command {
        StoreCommand::Backup { data_dir, out } => backup(&data_dir.join(FILE), &out, form)?,
        StoreCommand::Restore { data_dir, from } => restore(&data_dir, &from, form).await?,
        StoreCommand::MarkRestored(args) => tell(&marked(&args.choice()?).await?, form)?,
    }
    Ok(Exit::Ok)
}

fn backup(file: &Path, out: &Path, form: Form) -> anyhow::Result<()> {
    if out.exists() {
        return Err(Misuse(format!("{} exists: a backup never overwrites one", out.display())).into());
    }
    let copied = embedded::copy(file, out).with_context(|| format!("copy {}", file.display()))?;
    if form != Form::Table {
        let made = serde_json::json!({ "file": out, "keys": copied.keys, "revision": copied.revision });
        return output::print(form, &made, &[], Vec::new);
    }
    output::data(&format!("{}: {} keys at revision {}", out.display(), copied.keys, copied.revision))
}

/// Marked before it is put in place: there is no instant at which a control plane would start from it as it was.
async fn restore(data_dir: &Path, from: &Path, form: Form) -> anyhow::Result<()> {
    let beside = data_dir.join("restoring");
    let staged = beside.join(FILE);
    if let (Ok(from), Ok(beside)) = (from.canonicalize(), beside.canonicalize())
        && from.starts_with(&beside)
    {
        let why = format!("{} is used while restoring: move the backup out of it", beside.display());
        return Err(Misuse(why).into());
    }
    let (copied, restored) = match stage(&beside, &staged, from).await {
        Ok(done) => done,
        Err(error) => {
            // Only where it is empty: what else is there is not of this run.
            drop(std::fs::remove_dir(&beside));
            return Err(error);
        }
    };
    let file = data_dir.join(FILE);
    if file.exists() {
        // The copy also proves that no control plane has it open.
        let before = free_name(&file);
        embedded::copy(&file, &before).with_context(|| format!("keep {}", file.display()))?;
        output::note(&format!("what was there is in {}", before.display()));
    }
    std::fs::rename(&staged, &file).with_context(|| format!("put {} in place", file.display()))?;
    std::fs::remove_dir(&beside).with_context(|| format!("remove {}", beside.display()))?;
    output::note(&format!("restored {} keys of revision {}", copied.keys, copied.revision));
    tell(&restored, form)
}

/// A copy of the backup, marked; on an error there is none.
async fn stage(beside: &Path, staged: &Path, from: &Path) -> anyhow::Result<(embedded::Copied, Restored)> {
    std::fs::create_dir_all(beside).with_context(|| format!("create {}", beside.display()))?;
    let copied = embedded::copy(from, staged).with_context(|| format!("copy {}", from.display()))?;
    let restored = if copied.keys > 0 {
        marked(&StoreChoice::Embedded { data_dir: beside.to_owned() }).await
    } else {
        Err(anyhow::anyhow!("{} holds no key: it is no backup", from.display()))
    };
    if restored.is_err() {
        // What was not put in place is nobody's store.
        drop(std::fs::remove_file(staged));
    }
    Ok((copied, restored?))
}

/// The first name beside the file that is not taken.
fn free_name(file: &Path) -> PathBuf {
    let name = |count: u32| file.with_extension(format!("redb.before-restore-{count}"));
    (1..=u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}

async fn marked(choice: &StoreChoice) -> anyhow::Result<Restored> {
    if let StoreChoice::Embedded { data_dir } = choice {
        let file = data_dir.join(FILE);
        anyhow::ensure!(file.is_file(), "there is no store in {}: --data-dir", data_dir.display());
    }
    let store = control_plane::open(choice).await.context("open the store")?;
    mark(store.as_ref(), &Clock::new()).await.context("mark the store as restored")
}

fn tell(restored: &Restored, form: Form) -> anyhow::Result<()> {
    if form != Form::Table {
        return output::print(form, restored, &[], Vec::new);
    }
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let Restored { halt, tokens_burnt, revoked, clusters, unfinished, .. } = restored;
    output::data(&format!(
        "Restored. Nothing starts until the halt {halt} is released.\n\
         Members known here: {}\n\
           one that joined later is refused: remove its identity Secret and invite it again\n\
         Revoked here: {}\n\
           one that was revoked or replaced later is NOT: revoke it again, before anything else\n\
         Unfinished runs: {}\n\
           they are halted; what their agents held meanwhile is reported when they connect\n\
         Join tokens burnt: {tokens_burnt}\n\
         Then: faultline halt status; faultline halt release {halt}",
        list(clusters),
        list(revoked),
        list(unfinished),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_restore_that_fails_removes_only_what_it_made() {
        let folder = tempfile::tempdir().unwrap();
        let (data, backup) = (folder.path().join("data"), folder.path().join("backup"));
        fs::write(&backup, "not a store at all").unwrap();
        restore(&data, &backup, Form::Table).await.unwrap_err();
        assert!(!data.join("restoring").exists());
        let others = data.join("restoring/kept");
        fs::create_dir(data.join("restoring")).unwrap();
        fs::write(&others, "of somebody else").unwrap();
        restore(&data, &backup, Form::Table).await.unwrap_err();
        let inside = restore(&data, &others, Form::Table).await.unwrap_err();
        assert!(inside.is::<Misuse>(), "{inside:#}");
        assert_eq!(fs::read_to_string(&others).unwrap(), "of somebody else");
        assert_eq!(fs::read_dir(data.join("restoring")).unwrap().count(), 1);
    }
}
