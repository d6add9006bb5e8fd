//! Taking something of a running lab away for a while: a firewall rule on a
//! node, and a stopped process. Both are given back when dropped, also when a
//! scenario fails. Called by the scenarios.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::command::{SHORT, check, run_with_input};
use super::node::Node;
use super::process::Process;
use super::say;

/// The table that holds the rules; the lab's own, never the product's.
const TABLE: &str = "lab_cut";

/// Nothing passes between these nodes (their pods included) and one TCP port of
/// the other end: every packet is dropped silently, as a firewall does.
#[derive(Debug)]
pub struct Cut {
    nodes: Vec<Node>,
    healed: bool,
}

impl Cut {
    /// Drops everything to and from `port` of `address`, or of anybody.
    pub fn make(nodes: &[Node], address: Option<&str>, port: u16) -> Result<Self> {
        let mut cut = Self { nodes: Vec::new(), healed: false };
        let end = |word: &str| address.map_or_else(String::new, |address| format!("ip {word} {address} "));
        let (to, from) = (end("daddr"), end("saddr"));
        let chains: String = ["forward", "output", "input"]
            .map(|hook| {
                // After the Services' addresses were translated.
                format!(
                    "chain {hook} {{ type filter hook {hook} priority 10; \
                     {to}tcp dport {port} drop; {from}tcp sport {port} drop; }}\n"
                )
            })
            .concat();
        for node in nodes {
            cut.nodes.push(node.clone());
            let rules = format!("table ip {TABLE} {{\n{chains}}}\n");
            let made = run_with_input(node.command("nft").args(["-f", "-"]), Some(&rules), SHORT)?;
            ensure!(made.success(), "cut {}: {}", node.name(), made.stderr);
        }
        Ok(cut)
    }

    /// Lets everything through again.
    pub fn heal(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.healed = true;
        for node in &self.nodes {
            check(node.command("nft").args(["delete", "table", "ip", TABLE]), SHORT)?;
        }
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.healed
            && let Err(error) = self.remove()
        {
            say("lab", format_args!("a cut was not healed: {error:#}"));
        }
    }
}

/// A process that is there and does nothing.
#[derive(Debug)]
pub struct Paused(Process);

impl Paused {
    /// SIGSTOP.
    pub fn pause(process: Process) -> Result<Self> {
        ensure!(process.signal(Signal::SIGSTOP)?, "{} is not running", process.name);
        Ok(Self(process))
    }

    /// Lets it go on.
    pub fn go_on(self) {}
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = self.0.signal(Signal::SIGCONT) {
            say("lab", format_args!("{} does not go on: {error:#}", self.0.name));
        }
    }
}
