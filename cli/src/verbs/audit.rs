//! `faultline audit`: read the audit, export it, and check that nobody wrote it anew.

use std::io::{BufRead as _, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use certs::TrustBundle;
use clap::{Args, Subcommand};
use proto::audit::{AuditCheckpoint, AuditLine, ChainReport, Extent, verify};
use proto::quantity::Span;
use proto::rest::{AuditRecord, CaView};

use crate::args::Form;
use crate::client::{Client, segment};
use crate::exit::{Exit, Misuse};
use crate::output;

/// No line of an export is so long, in bytes.
const MAX_LINE: u64 = 1024 * 1024;
/// While somebody writes and prunes, what is read in two requests may not fit: read again.
const ATTEMPTS: usize = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Who did what, and how it went
    List(ListArgs),
    /// Write every record and checkpoint, one JSON object a line, as a sink gets them
    Export,
    /// Recompute every chain and hold it against the signed checkpoints; exits 1 on a flaw
    Verify(VerifyArgs),
    /// Print the CA's root, for a later verification without the control plane
    Ca,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Noted then or later: an instant (RFC 3339), or how long ago, as in 24h
    #[arg(long)]
    since: Option<String>,
    /// By them, as in operator:ann; operator:* is everybody who begins so
    #[arg(long)]
    by: Option<String>,
    /// What was done, as in run.create; run.* is everything that begins so
    #[arg(long)]
    action: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Export to verify instead of what the control plane has; give every part of a rotated one
    #[arg(long, value_name = "FILE", requires = "ca")]
    file: Vec<PathBuf>,
    /// Root that checkpoints must lead to, PEM; default: the one that the control plane shows
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The files are a part of the export: a chain may begin anywhere
    #[arg(long, requires = "file")]
    part: bool,
}

/// Runs a subcommand; `client` is only asked for where a control plane is.
pub(crate) async fn run(
    command: AuditCommand,
    client: impl Fn() -> anyhow::Result<Client>,
    form: Form,
) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::List(args) => list(&client()?, form, args).await,
        AuditCommand::Export => {
            for line in fetch(&client()?).await? {
                output::data(&serde_json::to_string(&line)?)?;
            }
            Ok(Exit::Ok)
        }
        AuditCommand::Verify(args) => check(args, client, form).await,
        AuditCommand::Ca => {
            let view: CaView = client()?.get("/v1/ca").await?;
            bundle(&view.bundle_pem)?;
            output::data(&view.bundle_pem)?;
            Ok(Exit::Ok)
        }
    }
}

/// An instant, or so long before now.
fn since(text: &str, now: jiff::Timestamp) -> anyhow::Result<jiff::Timestamp> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = Span::written(text).ms().map_err(|_| {
        Misuse(format!(
            "--since {text:?} is neither an instant as in 2026-11-01T00:00:00Z nor a duration as in 24h"
        ))
    })?;
    Ok(now.checked_sub(jiff::SignedDuration::from_millis(ago as i64))?)
}

async fn list(client: &Client, form: Form, args: ListArgs) -> anyhow::Result<Exit> {
    let since = args.since.map(|text| since(&text, jiff::Timestamp::now())).transpose()?;
    let wanted = [("since", since.map(|at| at.to_string())), ("by", args.by), ("action", args.action)];
    let term = |(name, value): (&str, Option<String>)| Some(format!("&{name}={}", segment(&value?)));
    let query: String = wanted.into_iter().filter_map(term).collect();
    let records: Vec<AuditRecord> = client.list_where("/v1/audit", &query).await?;
    let head = ["REPLICA", "SEQ", "AT", "BY", "ACTION", "SUBJECT", "RESULT"];
    let row = |r: &AuditRecord| {
        let mut row = vec![r.replica.clone(), r.seq.to_string(), r.at.to_string()];
        row.extend([&r.by, &r.action, &r.subject, &r.result].map(Clone::clone));
        row
    };
    output::print(form, &records, &head, || records.iter().map(row).collect())?;
    Ok(Exit::Ok)
}

/// All that the control plane has. Checkpoints first: what they cover was written before.
async fn fetch(client: &Client) -> anyhow::Result<Vec<AuditLine>> {
    let checkpoints: Vec<AuditCheckpoint> = client.list("/v1/audit/checkpoints").await?;
    let records: Vec<AuditRecord> = client.list("/v1/audit").await?;
    let lines = records.into_iter().map(AuditLine::Record);
    Ok(lines.chain(checkpoints.into_iter().map(AuditLine::Checkpoint)).collect())
}

/// The lines of an export, and how many are none: a crash may have cut one off.
fn read(path: &PathBuf) -> anyhow::Result<(Vec<AuditLine>, usize)> {
    let what = || format!("read {}", path.display());
    let file = std::fs::File::open(path).with_context(what)?;
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    let mut file = std::io::BufReader::new(file);
    loop {
        let mut text = Vec::new();
        (&mut file).take(MAX_LINE).read_until(b'\n', &mut text).with_context(what)?;
        if text.is_empty() {
            break;
        }
        anyhow::ensure!((text.len() as u64) < MAX_LINE, "{} is no audit: a line never ends", path.display());
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&text) {
            Ok(line) => lines.push(line),
            Err(_) => unreadable += 1,
        }
    }
    Ok((lines, unreadable))
}

async fn check(
    args: VerifyArgs,
    client: impl Fn() -> anyhow::Result<Client>,
    form: Form,
) -> anyhow::Result<Exit> {
    let given = match &args.ca {
        Some(path) => Some(super::validate::text(path).context("--ca")?),
        None => None,
    };
    if !args.file.is_empty() {
        let ca = bundle(&given.context("--ca is missing")?)?;
        let mut lines = Vec::new();
        for path in &args.file {
            let (more, unreadable) = read(path)?;
            if unreadable > 0 {
                output::note(&format!("{}: {unreadable} lines are no audit lines", path.display()));
            }
            lines.extend(more);
        }
        anyhow::ensure!(!lines.is_empty(), "there is no audit line in the files");
        let extent = if args.part { Extent::Part } else { Extent::Whole };
        return report(form, &reports(lines, extent, &ca));
    }
    let client = client()?;
    let ca = if let Some(pem) = given {
        bundle(&pem)?
    } else {
        let view: CaView = client.get("/v1/ca").await?;
        output::note(&format!(
            "signatures are checked under the root that the control plane shows, {}",
            view.pin
        ));
        bundle(&view.bundle_pem)?
    };
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        found = reports(fetch(&client).await?, Extent::Whole, &ca);
        if found.iter().all(|chain| chain.flaws.is_empty()) {
            break;
        }
    }
    report(form, &found)
}

fn bundle(pem: &str) -> anyhow::Result<TrustBundle> {
    TrustBundle::from_pem(pem).context("read the CA")
}

fn reports(lines: Vec<AuditLine>, extent: Extent, ca: &TrustBundle) -> Vec<ChainReport> {
    verify(lines, extent, |checkpoint| control_plane::audit::believe(ca, checkpoint))
}

fn report(form: Form, chains: &[ChainReport]) -> anyhow::Result<Exit> {
    let head = ["REPLICA", "RECORDS", "FIRST", "LAST", "PRUNED TO", "SIGNED TO", "UNSIGNED", "STATE"];
    output::print(form, &chains, &head, || chains.iter().map(row).collect())?;
    let mut whole = true;
    for chain in chains {
        for flaw in &chain.flaws {
            whole = false;
            output::note(&format!(
                "{} {}: {}: {}",
                chain.replica,
                flaw.seq,
                output::word(&flaw.kind),
                flaw.message
            ));
        }
    }
    if whole {
        return Ok(Exit::Ok);
    }
    output::note("error: the audit is not whole");
    Ok(Exit::Error)
}

fn row(chain: &ChainReport) -> Vec<String> {
    let state = if chain.flaws.is_empty() { "Whole" } else { "Broken" };
    let mut row = vec![chain.replica.clone()];
    let numbers = [chain.records, chain.first, chain.last, chain.pruned_to, chain.signed_to, chain.unsigned];
    row.extend(numbers.map(|number| number.to_string()));
    row.push(state.to_owned());
    row
}

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn since_is_an_instant_or_an_age() {
        let now: jiff::Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("24h", "2026-11-01T12:00:00Z"),
            ("1h30m", "2026-11-02T10:30:00Z"),
        ] {
            assert_eq!(since(text, now).unwrap(), wanted.parse().unwrap(), "{text}");
        }
        let refused = since("yesterday", now).unwrap_err();
        assert!(refused.is::<crate::exit::Misuse>(), "{refused}");
    }
}
