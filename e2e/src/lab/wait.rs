//! Bounded waits on a condition, and the stop that a signal asks for. Used by
//! everything in the lab that waits, and by the scenarios.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::say;

static STOPPED: AtomicBool = AtomicBool::new(false);

const PAUSE: Duration = Duration::from_millis(200);
/// Waits longer than this are told, so that a log says where the time went.
const LONG: Duration = Duration::from_secs(4);

/// An error that ends a wait at once: trying again cannot help.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Makes every wait of this process end with an error: a signal came.
pub fn stop() {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Lets waits go on again; the clean-up after a signal waits too.
pub fn resume() {
    STOPPED.store(false, Ordering::SeqCst);
}

/// Fails when a signal asked this process to stop.
pub fn check_stopped() -> Result<()> {
    if STOPPED.load(Ordering::SeqCst) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Calls `probe` until it gives a value. An error means "not yet" and is shown
/// if `timeout` passes; a [`Hopeless`] error ends the wait at once.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let end = begun + timeout;
    loop {
        check_stopped()?;
        let error = match probe() {
            Ok(value) => {
                if begun.elapsed() > LONG {
                    say("wait", format_args!("{:.1} s for {what}", begun.elapsed().as_secs_f64()));
                }
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.is::<Hopeless>() {
            return Err(error.context(format!("waiting for {what}")));
        }
        if Instant::now() >= end {
            return Err(anyhow!("waited {timeout:?} for {what}; last seen: {error:#}"));
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_is_in_the_timeout_and_hopeless_ends_at_once() {
        let mut calls = 0;
        let error = wait_for("rain", Duration::from_millis(300), || -> Result<()> {
            calls += 1;
            bail!("cloud {calls}")
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains(&format!("cloud {calls}")), "{error}");

        let started = Instant::now();
        let error = wait_for("rain", Duration::from_mins(1), || -> Result<()> {
            Err(Hopeless("no sky".to_owned()).into())
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("no sky"));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
