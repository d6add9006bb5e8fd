//! One emulated machine from power-on to power-off, bounded in time. Called by
//! the kernel lab.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debian::Kernel;
use crate::lab::process::tail;
use crate::lab::tools;
use crate::lab::wait::wait_for;

/// The emulator; it needs no help from this machine's kernel.
pub const EMULATOR: &str = "qemu-system-x86_64";

/// Where the guest writes what it has to say.
pub const OUTPUT: &str = "/dev/ttyS1";

const KERNEL_LOG: &str = "kernel.log";
const OUTPUT_LOG: &str = "output.log";
const MEMORY_MIB: &str = "2048";
const PROCESSORS: &str = "2";
/// Bound for boot, tests and power-off.
const WITHIN: Duration = Duration::from_mins(10);
/// Lines of each file that an error shows.
const SHOWN: usize = 60;

/// A machine that runs; it ends with this value, and with this thread.
#[derive(Debug)]
pub struct Guest {
    emulator: Child,
    kernel_log: PathBuf,
    output: PathBuf,
}

impl Guest {
    /// Switches a machine on. Its console and what the emulator itself says go to
    /// the file kernel.log in `folder`; its second serial port to output.log,
    /// which the kernel's messages can not cut.
    pub fn boot(kernel: &Kernel, root: &Path, folder: &Path) -> Result<Self> {
        let (kernel_log, output) = (folder.join(KERNEL_LOG), folder.join(OUTPUT_LOG));
        let log = File::create(&kernel_log).with_context(|| format!("create {}", kernel_log.display()))?;
        File::create(&output)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(tools::find(EMULATOR).with_context(|| format!("find {EMULATOR}"))?)
            .args(["-accel", "tcg", "-machine", "q35", "-cpu", "max"])
            .args(["-m", MEMORY_MIB, "-smp", PROCESSORS])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-serial", &format!("file:{OUTPUT_LOG}")])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(root)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let emulator = command.spawn().with_context(|| format!("start {EMULATOR}"))?;
        Ok(Self { emulator, kernel_log, output })
    }

    /// Waits until it has switched itself off and gives what its second port said.
    pub fn wait(&mut self) -> Result<String> {
        let (emulator, output) = (&mut self.emulator, &self.output);
        let ended = wait_for("the guest to switch itself off", WITHIN, || {
            let Some(status) = emulator.try_wait()? else {
                bail!("{}", tail(output, 1));
            };
            Ok(status)
        });
        let status = ended.with_context(|| self.said())?;
        if !status.success() {
            bail!("{EMULATOR}: {status}\n{}", self.said());
        }
        let bytes = fs::read(&self.output).context("read the output")?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// The last lines of both files.
    pub fn said(&self) -> String {
        let shown = [&self.kernel_log, &self.output]
            .map(|path| format!("---- {}\n{}", path.display(), tail(path, SHOWN)));
        format!("the guest said last:\n{}", shown.join("\n"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Refused when it has ended already, which is fine.
        drop(self.emulator.kill());
        drop(self.emulator.wait());
    }
}
