//! Runs one external tool to its end, bounded in time, and keeps what it said.
//! Every short-lived program of the lab goes through here.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Bound for a tool that should answer at once, on a machine busy with builds.
pub const SHORT: Duration = Duration::from_mins(1);

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

impl Output {
    /// True when the exit code is 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Runs `command` with `input` on its standard input; an exit code other than 0
/// is not an error. A program that outlives `timeout` is killed and is one.
pub fn run_with_input(command: &mut Command, input: Option<&str>, timeout: Duration) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let writer = child.stdin.take().zip(input.map(ToOwned::to_owned)).map(|(mut pipe, text)| {
        // A program that does not read its input closes the pipe; its own exit code tells the story.
        thread::spawn(move || drop(pipe.write_all(text.as_bytes())))
    });
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let code = wait_exit(&mut child, timeout);
    if code.is_none() {
        child.kill().with_context(|| format!("kill {shown}"))?;
        child.wait()?;
    }
    if let Some(writer) = writer {
        drop(writer.join());
    }
    let output = Output { code: code.unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) };
    if code.is_none() {
        bail!("{shown}: no end after {timeout:?}; it said: {}{}", output.stdout, output.stderr);
    }
    Ok(output)
}

/// Like [`run_with_input`] without input.
pub fn run(command: &mut Command, timeout: Duration) -> Result<Output> {
    run_with_input(command, None, timeout)
}

/// Runs `command` within `timeout` and gives its standard output; an exit code
/// other than 0 is an error that holds what it said.
pub fn check(command: &mut Command, timeout: Duration) -> Result<String> {
    let output = run(command, timeout)?;
    if !output.success() {
        bail!("{}: exit code {}: {}{}", show(command), output.code, output.stdout, output.stderr);
    }
    Ok(output.stdout)
}

/// A command from one line of words; no quoting.
pub fn words(line: &str) -> Command {
    let mut parts = line.split_whitespace();
    let mut command = Command::new(parts.next().unwrap_or_default());
    command.args(parts);
    command
}

fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        shown.push(' ');
        shown.push_str(&arg.to_string_lossy());
    }
    shown
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    pipe.map(|mut pipe| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            drop(pipe.read_to_end(&mut bytes));
            bytes
        })
    })
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait_exit(child: &mut Child, timeout: Duration) -> Option<i32> {
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code().unwrap_or(-1)),
            Ok(None) if Instant::now() < end => thread::sleep(pause),
            Ok(None) | Err(_) => return None,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_reaches_the_program_and_its_code_comes_back() {
        let output = run_with_input(&mut words("cat"), Some("a\nb"), SHORT).unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (0, "a\nb"));
        assert_eq!(run(&mut words("false"), SHORT).unwrap().code, 1);
        let error = check(&mut words("ls /nonexistent-lab"), SHORT).unwrap_err().to_string();
        assert!(error.contains("nonexistent-lab") && error.contains("exit code 2"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_bound() {
        let started = Instant::now();
        let error = run(&mut words("sleep 30"), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("no end after"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
