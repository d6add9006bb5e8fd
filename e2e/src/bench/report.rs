//! The report of a benchmark: machine, command, sections. Written to
//! docs/benchmarks.md by the benchmark itself, so that no figure is typed in.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// What the figures taught, by hand.
const LEARNT: &str = include_str!("learnt.md");

/// One measurement, as Markdown.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) body: String,
}

/// To standard output.
pub(super) fn print(sections: &[Section]) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text(sections).as_bytes())?)
}

/// To docs/benchmarks.md.
pub(super) fn write(sections: &[Section]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    fs::write(&path, text(sections)).with_context(|| format!("write {}", path.display()))
}

/// The load average of the last minute, as the kernel says it.
pub(super) fn load() -> String {
    let read = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    read.split(' ').next().unwrap_or_default().to_owned()
}

fn text(sections: &[Section]) -> String {
    let mut text = format!(
        "# Benchmarks\n\nWritten by `make bench`; do not edit. Absolute times are those of one machine on one day: \
         compare the ratios,\nwhose two sides were measured in the same run.\n\nMachine: {}.\n",
        machine()
    );
    for section in sections {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {}\n\n{}", section.title, section.body);
    }
    text.push('\n');
    text.push_str(LEARNT);
    text
}

/// Processor, cores, memory, kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("processor unknown", |(_, name)| name.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = read("/proc/meminfo");
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, {} GiB, Linux {}", kib >> 20, kernel.trim())
}
