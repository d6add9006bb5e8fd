//! `faultline man`: the manual pages, of the same words as `--help`.

use std::path::Path;

use anyhow::Context as _;

use crate::exit::Exit;
use crate::output;

pub(crate) fn run(out: &Path) -> anyhow::Result<Exit> {
    let what = || format!("write to {}", out.display());
    std::fs::create_dir_all(out).with_context(what)?;
    clap_mangen::generate_to(crate::command(), out).with_context(what)?;
    output::note(&format!("written to {}", out.display()));
    Ok(Exit::Ok)
}
