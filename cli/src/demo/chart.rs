//! A small live chart: one line per sample, its bar as long as the latency.

use std::io::Write;

/// Milliseconds per character.
const SCALE_MS: f64 = 10.0;
const WIDTH: usize = 60;

/// Where a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Before,
    During,
    After,
}

/// Prints a sample on stderr, where people look.
pub(crate) fn sample(stage: Stage, latency_ms: Option<f64>) {
    let (word, colour) = match stage {
        Stage::Before => ("before", anstyle::AnsiColor::Green),
        Stage::During => ("during", anstyle::AnsiColor::Red),
        Stage::After => ("after", anstyle::AnsiColor::Green),
    };
    let style = anstyle::Style::new().fg_color(Some(colour.into()));
    let line = match latency_ms {
        Some(ms) => {
            let bar = "█".repeat(((ms / SCALE_MS).ceil() as usize).clamp(1, WIDTH));
            format!("  {word:<7} {ms:>7.1} ms {style}{bar}{style:#}")
        }
        None => format!("  {word:<7}       - no answer"),
    };
    // Nobody to tell when stderr is closed.
    drop(writeln!(anstream::stderr().lock(), "{line}"));
}
