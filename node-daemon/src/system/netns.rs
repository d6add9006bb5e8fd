//! Work inside another network namespace, on an OS thread made for it, so that no thread of a runtime
//! ever changes place. Namespaces are held open only while the thread works.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Error;
use super::target::{NetnsRef, gone_or_refused};

const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the namespace at `path`.
pub fn cookie(path: &Path) -> Result<u64, Error> {
    at_path(path, || own_cookie().map_err(|error| Error::refused("read the namespace cookie", error)))
}

/// Runs `work` inside the namespace after checking its cookie on the same thread; another cookie is
/// [`Error::TargetGone`]. Sockets opened by `work` stay in that namespace.
pub fn inside<T: Send>(netns: &NetnsRef, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    at_path(&netns.path, || {
        let found = own_cookie().map_err(|error| Error::refused("read the namespace cookie", error))?;
        if found != netns.cookie {
            return Err(Error::gone(format!(
                "network namespace {} (cookie {}, now {found})",
                netns.path.display(),
                netns.cookie
            )));
        }
        work()
    })
}

/// Runs `work` in a new, private namespace that ends with it.
pub fn private<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::refused("make a network namespace", error))?;
        work()
    })
}

fn at_path<T: Send>(path: &Path, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    on_thread(|| {
        let file = File::open(path).map_err(|error| gone_or_refused(path, error))?;
        setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::refused(format!("enter {}", path.display()), error))?;
        drop(file);
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::refused("start a thread", error))?;
        let died =
            |_| Err(Error::refused("work in a network namespace", io::Error::other("the thread died")));
        thread.join().unwrap_or_else(died)
    })
}

/// The cookie of the calling thread's namespace.
fn own_cookie() -> io::Result<u64> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "nix has no wrapper for SO_NETNS_COOKIE")]
    // SAFETY: the kernel writes at most `length` bytes to `value`, which is that long and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast::<libc::c_void>(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
