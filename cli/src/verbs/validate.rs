//! `faultline validate`: every problem of a file, without a control plane.

use std::io::Read;
use std::path::Path;

use anyhow::Context as _;
use proto::validate::Manifest;

use crate::args::{FileArg, Form};
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(args: &FileArg, form: Form) -> anyhow::Result<Exit> {
    let manifests = read(&args.file)?;
    if form != Form::Table {
        let valid = manifests.iter().map(|m| serde_json::json!({ "kind": m.kind, "name": m.name }));
        output::print(form, &valid.collect::<Vec<_>>(), &[], Vec::new)?;
        return Ok(Exit::Ok);
    }
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

/// A file of definitions, members or a token is at most this large, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The text of a file; `-` is standard input. Reads no more than a file may hold, whatever it is.
pub(crate) fn text(file: &Path) -> anyhow::Result<String> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let what = || format!("read {name}");
    let mut bytes = Vec::new();
    if is_stdin {
        std::io::stdin().take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(what)?;
    } else {
        let file = std::fs::File::open(file).with_context(what)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(what)?;
    }
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "{name} is larger than {MAX_FILE} bytes");
    String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))
}
