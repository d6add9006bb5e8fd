//! `faultline watch`: a run live on stderr, its end on stdout.

pub(crate) mod progress;

use std::time::{Duration, Instant};

use proto::problem::ErrorCode;
use proto::rest::RunView;
use proto::status::RunPhase;

use crate::args::Form;
use crate::client::{Client, Refused, segment};
use crate::exit::Exit;
use crate::output;
use progress::Progress;

/// Between two looks at a run whose stream broke off.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A stream that lived so long without news was alive.
const ALIVE: Duration = Duration::from_mins(1);

pub(crate) async fn run(client: &Client, form: Form, name: &str) -> anyhow::Result<Exit> {
    let view: RunView = client.get(&format!("/v1/runs/{}", segment(name))).await?;
    follow(client, form, view.record.id.as_str()).await
}

/// Follows a run to its end. A broken stream is opened again: the run does
/// not depend on who looks at it.
pub(crate) async fn follow(client: &Client, form: Form, id: &str) -> anyhow::Result<Exit> {
    let mut progress = Progress::default();
    let show = |view: &RunView| progress.news(view).iter().for_each(|line| output::note(line));
    let last = finished(client, id, show).await?;
    super::describe::print_run(form, &last)?;
    Ok(Exit::of_run(&last.summary))
}

/// The run at its end, after each view on the way was shown. Gives up when nothing is heard of it for long.
pub(crate) async fn finished(
    client: &Client,
    id: &str,
    mut show: impl FnMut(&RunView),
) -> anyhow::Result<RunView> {
    let mut last_event = None;
    let mut lost: Option<Instant> = None;
    loop {
        let (began, mut heard) = (Instant::now(), false);
        let mut seen = |view: &RunView| {
            heard = true;
            show(view);
        };
        let why = match until_finished(client, id, &mut last_event, &mut seen).await {
            Ok(Some(view)) => return Ok(view),
            // A replica that drains ends its streams; the next one is asked for everything.
            Ok(None) => {
                last_event = None;
                anyhow::anyhow!("the control plane ends each stream without a word")
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                output::note(&format!("connection lost ({error:#}); no run depends on it, looking again"));
                error
            }
        };
        if heard || began.elapsed() > ALIVE {
            lost = None;
        }
        if lost.get_or_insert(began).elapsed() > client.patience() {
            return Err(
                why.context(format!("nothing is known of run {id}; look again: faultline watch {id}"))
            );
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Whether looking again would be told the same.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.0.code != ErrorCode::Unavailable)
}

/// The finished run, or None when the stream ended before it. Goes on after the last event of the stream before.
async fn until_finished(
    client: &Client,
    id: &str,
    last_event: &mut Option<String>,
    show: &mut impl FnMut(&RunView),
) -> anyhow::Result<Option<RunView>> {
    let mut stream = client.watch(id, last_event.as_deref()).await?;
    while let Some(view) = stream.next().await? {
        *last_event = stream.last_event().map(str::to_owned);
        show(&view);
        if view.summary.phase == RunPhase::Finished {
            return Ok(Some(view));
        }
    }
    Ok(None)
}
