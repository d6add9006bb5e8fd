//! Two network namespaces joined by a veth pair, for tests on the real kernel: `near` (10.77.0.1,
//! fd77::1) is the outside, `far` (10.77.0.2, fd77::2) the target. Everything is removed on drop.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use node_daemon::system::netns;
use node_daemon::system::target::NetnsRef;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A pair of namespaces of this test process alone.
pub(crate) struct Lab {
    near: String,
    far: String,
}

/// A process ended on drop.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says that a test is skipped, when this process is not root.
pub(crate) fn skipped(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    !root
}

impl Lab {
    pub(crate) fn new() -> Self {
        let number = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { near: format!("fltest-n{number}"), far: format!("fltest-f{number}") };
        let (near, far) = (&lab.near, &lab.far);
        for name in [near, far] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        run(&format!("ip -n {near} link add eth0 type veth peer name eth0 netns {far}"));
        for (name, last) in [(near, 1), (far, 2)] {
            run(&format!("ip -n {name} addr add 10.77.0.{last}/24 dev eth0"));
            run(&format!("ip -n {name} addr add fd77::{last}/64 dev eth0 nodad"));
            run(&format!("ip -n {name} link set eth0 up"));
        }
        eventually("both ends answer", || lab.rtt("10.77.0.2").is_some() && lab.rtt("fd77::2").is_some());
        lab
    }

    pub(crate) fn near(&self) -> NetnsRef {
        reference(&self.near)
    }

    pub(crate) fn far(&self) -> NetnsRef {
        reference(&self.far)
    }

    /// Round-trip time of one datagram from near to far and back, or `None` when either way takes a second.
    pub(crate) fn rtt(&self, address: &str) -> Option<Duration> {
        let (near, far) = self.ends(address, Duration::from_secs(1));
        let started = Instant::now();
        near.send(b"echo").unwrap();
        let is_back = echo(&far) && near.recv(&mut [0; 8]).is_ok();
        is_back.then(|| started.elapsed())
    }

    /// The shortest of a few, which says that something delays it: a busy machine makes one longer, never shorter.
    pub(crate) fn shortest_rtt(&self, address: &str) -> Option<Duration> {
        (0..3).filter_map(|_| self.rtt(address)).min()
    }

    /// Waits for a round trip shorter than that: one is enough to say that nothing delays it.
    #[track_caller]
    pub(crate) fn undelayed(&self, address: &str, latency: Duration) {
        eventually("a round trip is not delayed", || self.rtt(address).is_some_and(|rtt| rtt < latency));
    }

    /// Waits until something comes back. A datagram is sent many times a second, so the moment is not missed.
    #[track_caller]
    pub(crate) fn flows(&self, address: &str) {
        let (near, far) = self.ends(address, Duration::from_millis(20));
        eventually("traffic flows", || {
            near.send(b"echo").unwrap();
            echo(&far) && near.recv(&mut [0; 8]).is_ok()
        });
    }

    /// A socket in near that is connected to one in far; both wait for so long.
    fn ends(&self, address: &str, patience: Duration) -> (UdpSocket, UdpSocket) {
        let far = socket(&self.far(), &format!("[{}]:0", Ipv6Addr::UNSPECIFIED));
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let near = socket(&self.near(), any);
        near.connect((address, far.local_addr().unwrap().port())).unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(patience)).unwrap();
        }
        (near, far)
    }

    /// How a TCP connection from near to an open port in far ends.
    pub(crate) fn connect(&self, port: u16) -> io::Result<()> {
        let listener =
            netns::inside(&self.far(), || Ok(TcpListener::bind(("10.77.0.2", port)).unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        netns::inside(&self.near(), || {
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(|_| ()))
        })
        .unwrap()
    }

    /// What near receives when far sends these bytes over TCP and closes.
    pub(crate) fn stream(&self, bytes: &[u8]) -> Vec<u8> {
        let listener = netns::inside(&self.far(), || Ok(TcpListener::bind("10.77.0.2:0").unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| listener.accept().unwrap().0.write_all(bytes).unwrap());
            let limit = Duration::from_secs(10);
            let mut near =
                netns::inside(&self.near(), || Ok(TcpStream::connect_timeout(&address, limit).unwrap()))
                    .unwrap();
            near.set_read_timeout(Some(limit)).unwrap();
            near.read_to_end(&mut received).unwrap();
        });
        received
    }

    pub(crate) fn in_near(&self, line: &str) -> Command {
        inside(&self.near, line)
    }

    pub(crate) fn in_far(&self, line: &str) -> Command {
        inside(&self.far, line)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn reference(name: &str) -> NetnsRef {
    let path = PathBuf::from("/run/netns").join(name);
    NetnsRef { cookie: netns::cookie(&path).unwrap(), path }
}

fn socket(netns: &NetnsRef, address: &str) -> UdpSocket {
    netns::inside(netns, || Ok(UdpSocket::bind(address).unwrap())).unwrap()
}

/// Sends one datagram back where it came from; says whether there was one and it could go.
fn echo(socket: &UdpSocket) -> bool {
    let mut bytes = [0; 8];
    let came = socket.recv_from(&mut bytes);
    came.is_ok_and(|(length, from)| socket.send_to(&bytes[..length], from).is_ok())
}

fn inside(name: &str, line: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{name}")).args(line.split_whitespace());
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

pub(crate) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{line}: {status}");
}

/// Looks until it is so; panics after ten seconds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(10), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
