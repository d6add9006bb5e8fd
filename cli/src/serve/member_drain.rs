//! `faultline serve member-drain`: what the Jobs of the member chart run before and after an uninstall.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use proto::quantity::Span;

use crate::exit::Exit;
use crate::telemetry::TelemetryArgs;

#[derive(Debug, Args)]
pub(crate) struct MemberDrainArgs {
    /// Name of the Halt object
    #[arg(long)]
    halt: String,
    /// Wait no longer than this for everything to be taken away
    #[arg(long, default_value = "2m", value_parser = crate::args::span)]
    at_most: String,
    /// Lift the halt instead
    #[arg(long)]
    lift: bool,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(crate) fn main(args: MemberDrainArgs) -> anyhow::Result<Exit> {
    let mut problems = args.telemetry.problems();
    if let Err(error) = args.halt.parse::<proto::ids::Name>() {
        problems.push(format!("--halt: {error}"));
    }
    super::refuse(&problems)?;
    let _telemetry = args.telemetry.start("faultline-member-drain")?;
    let at_most = Duration::from_millis(Span::written(&args.at_most).ms().context("--at-most")?);
    super::until_signal(|shutdown| async move {
        let work = async {
            if args.lift {
                return cluster_agent::kubernetes::lift_drain(&args.halt).await;
            }
            cluster_agent::kubernetes::drain(&args.halt, at_most).await
        };
        tokio::select! {
            ended = work => ended,
            () = shutdown.cancelled() => anyhow::bail!("ended by a signal before the drain was over"),
        }
    })
}
