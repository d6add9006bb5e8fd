//! `faultline validate`: every problem of a file, without a control plane.

use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use proto::validate::Manifest;

use crate::args::FileArg;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(args: &FileArg) -> anyhow::Result<Exit> {
    let manifests = read(&args.file)?;
    for manifest in &manifests {
        output::data(&format!("{} {} is valid", manifest.kind, manifest.name))?;
    }
    Ok(Exit::Ok)
}

/// Reads and checks a file; `-` is standard input. All problems in one error.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Manifest>> {
    let text = text(file)?;
    proto::validate::manifests(&text).map_err(|problems| {
        let lines: Vec<String> = problems.0.iter().map(|p| format!("\n  {p}")).collect();
        anyhow::anyhow!(
            "{}: {} problem(s), nothing was changed{}",
            file.display(),
            lines.len(),
            lines.concat()
        )
    })
}

/// The text of a file; `-` is standard input.
pub(crate) fn text(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}
