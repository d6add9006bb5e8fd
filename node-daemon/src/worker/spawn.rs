//! Starting, watching and ending worker children; used by `system::kernel` alone. A worker is found by
//! the id in its command line, so one started by an earlier daemon or another process is ended as well.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::life::{Order, Said};
use super::spec::{WorkerReport, WorkerSpec, WorkerState};
use crate::system::Error;
use crate::system::target::{ProcessRef, Roots, check_process, start_ticks};

/// Longest wait for a worker's first words.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for a worker that was asked to end, before it is killed, and after.
const END_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const ID_BYTES_MAX: usize = 128;

/// The workers of this process.
#[derive(Debug)]
pub(crate) struct Children {
    roots: Roots,
    running: Mutex<BTreeMap<String, Running>>,
}

/// One worker. Dropping it ends the process.
#[derive(Debug)]
struct Running {
    child: Child,
    process: ProcessRef,
    /// Open as long as the worker may work.
    pipe: Option<ChildStdin>,
    latest: Arc<Mutex<WorkerReport>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.pipe = None;
        let child = &mut self.child;
        if !within(END_WITHIN, || !matches!(child.try_wait(), Ok(None))) {
            let _ = child.kill();
            let _ = within(END_WITHIN, || !matches!(child.try_wait(), Ok(None)));
        }
    }
}

impl Children {
    pub(crate) fn new(roots: Roots) -> Self {
        Self { roots, running: Mutex::default() }
    }

    /// Starts a worker in place of any of that id, and waits for its first words.
    pub(crate) fn start(&self, spec: &WorkerSpec, deadline_boottime_ms: u64) -> Result<ProcessRef, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if spec.id.is_empty() || spec.id.len() > ID_BYTES_MAX || !spec.id.chars().all(fits) {
            return Err(Error::Invalid { what: format!("worker id {:?}", spec.id) });
        }
        self.stop(&spec.id)?;
        let failed =
            |error: std::io::Error| Error::refused(format!("start the {} worker", spec.work.kind()), error);
        let mut child = command(spec).spawn().map_err(failed)?;
        let pid = child.id() as i32;
        let (pipe, output) = (child.stdin.take(), child.stdout.take());
        let latest = Arc::<Mutex<WorkerReport>>::default();
        let process = start_ticks(&self.roots, pid).map(|start_ticks| ProcessRef { pid, start_ticks });
        let gone = ProcessRef { pid, start_ticks: 0 };
        let process = process.unwrap_or(gone);
        let mut running = Running { child, process: process.clone(), pipe, latest };

        let order = Order { spec: spec.clone(), deadline_boottime_ms };
        let mut line = serde_json::to_vec(&order).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        if let Some(pipe) = &mut running.pipe {
            pipe.write_all(&line).map_err(failed)?;
        }
        let words = listen(output, &running.latest).map_err(failed)?;
        match words.recv_timeout(READY_WITHIN) {
            Ok(Said { error: None, .. }) => {}
            Ok(Said { error: Some(why), .. }) => return Err(failed(std::io::Error::other(why))),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed(std::io::Error::other("it ended without a word")));
            }
            Err(RecvTimeoutError::Timeout) => {
                let after_ms = READY_WITHIN.as_millis() as u64;
                return Err(Error::TimedOut { what: format!("start of worker {}", spec.id), after_ms });
            }
        }
        self.running().insert(spec.id.clone(), running);
        Ok(process)
    }

    /// The worker of that id, or `None`.
    pub(crate) fn read(&self, id: &str) -> Result<Option<WorkerState>, Error> {
        let mut workers = self.running();
        if let Some(running) = workers.get_mut(id) {
            if matches!(running.child.try_wait(), Ok(None)) {
                let report = running.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Ok(Some(WorkerState { process: running.process.clone(), report: Some(report) }));
            }
            workers.remove(id);
        }
        drop(workers);
        let found = self.find(id)?.into_iter().next();
        Ok(found.map(|process| WorkerState { process, report: None }))
    }

    /// Ends every worker of that id.
    pub(crate) fn stop(&self, id: &str) -> Result<(), Error> {
        let own = self.running().remove(id);
        drop(own);
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let processes = self.find(id)?;
            for process in &processes {
                end(&self.roots, process, signal)?;
            }
            let gone = || processes.iter().all(|process| check_process(&self.roots, process).is_err());
            if within(END_WITHIN, gone) {
                return Ok(());
            }
        }
        let after_ms = END_WITHIN.as_millis() as u64;
        Err(Error::TimedOut { what: format!("end of worker {id}"), after_ms })
    }

    /// Every process whose command line ends in `<kind> --id <id>` of a worker.
    fn find(&self, id: &str) -> Result<Vec<ProcessRef>, Error> {
        let entries = std::fs::read_dir(&self.roots.proc)
            .map_err(|error| Error::refused(format!("list {}", self.roots.proc.display()), error))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let found = pids.filter(|pid| {
            let line =
                std::fs::read(self.roots.proc.join(pid.to_string()).join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> =
                line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0).collect();
            matches!(words.as_slice(), [_, b"worker", _, b"--id", own] if *own == id.as_bytes())
        });
        // A process that ended meanwhile is none.
        Ok(found
            .filter_map(|pid| Some(ProcessRef { pid, start_ticks: start_ticks(&self.roots, pid).ok()? }))
            .collect())
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn command(spec: &WorkerSpec) -> Command {
    // Not `current_exe`: that path may name nothing in this mount namespace, the link always works.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("faultline").args(["worker", spec.work.kind(), "--id", &spec.id]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn end(roots: &Roots, process: &ProcessRef, signal: Signal) -> Result<(), Error> {
    if check_process(roots, process).is_err() {
        return Ok(());
    }
    match kill(Pid::from_raw(process.pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(Error::refused(format!("end process {}", process.pid), error)),
    }
}

/// Reads a worker's words for as long as it lives: the first go to the channel, all reports to `latest`.
fn listen(output: Option<ChildStdout>, latest: &Arc<Mutex<WorkerReport>>) -> std::io::Result<Receiver<Said>> {
    let (sender, receiver): (SyncSender<Said>, _) = sync_channel(1);
    let latest = Arc::clone(latest);
    let Some(output) = output else { return Ok(receiver) };
    std::thread::Builder::new().name("worker-words".to_owned()).spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(said) = serde_json::from_str::<Said>(&line) else {
                continue;
            };
            if let Some(report) = &said.report {
                latest.lock().unwrap_or_else(PoisonError::into_inner).clone_from(report);
            }
            // Full or closed: only the first words are waited for.
            let _ = sender.try_send(said);
        }
    })?;
    Ok(receiver)
}

/// Looks until it is so or the time is over; says whether it is so.
fn within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > time {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}
