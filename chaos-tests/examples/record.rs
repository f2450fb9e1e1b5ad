//! Records what real programs say to a xenstore daemon, for the simulator to
//! replay. Needs what the comparison tests need (Debian's packages of Xen, a C
//! compiler, Python); run it from anywhere in the repository:
//!
//! ```text
//! cargo run -p chaos --example record            # all, into chaos-tests/mixes
//! cargo run -p chaos --example record SOCKET LISTEN FILE REQUESTS
//! ```
//!
//! The second form stands between programs, which connect to `LISTEN`, and a
//! running daemon at `SOCKET`, until so many requests were said.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::sim::mix::{Mix, Recorder};
use chaos::soak::{Soak, SoakConfig};

type Failure = Box<dyn std::error::Error>;

/// A recorder, and the time by which it goes.
struct Tape {
    recorder: Mutex<Recorder>,
    began: Instant,
}

impl Tape {
    fn with<R>(&self, act: impl FnOnce(&mut Recorder, u64) -> R) -> R {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        act(&mut self.recorder.lock().unwrap_or_else(PoisonError::into_inner), now_us)
    }
}

/// Copies until one side is done, and shows every piece to `tap` first.
fn copy(mut from: UnixStream, mut to: UnixStream, tap: impl Fn(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        tap(&buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    // Closed already, perhaps.
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Stands between `listen` and `socket` for as long as the process lives.
fn stand_between(socket: &Path, listen: &Path, max_requests: usize) -> io::Result<Arc<Tape>> {
    let listener = UnixListener::bind(listen)?;
    let recorder = Mutex::new(Recorder::new(max_requests));
    let tape = Arc::new(Tape { recorder, began: Instant::now() });
    let (socket, shared) = (socket.to_owned(), Arc::clone(&tape));
    thread::spawn(move || {
        for (conn, client) in (1..).zip(listener.incoming()) {
            let Ok(client) = client else { return };
            let Ok(daemon) = UnixStream::connect(&socket) else { return };
            let (Ok(client_in), Ok(daemon_in)) = (client.try_clone(), daemon.try_clone()) else {
                return;
            };
            shared.with(|recorder, now_us| recorder.opened(conn, now_us));
            let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
            thread::spawn(move || {
                copy(client_in, daemon, |bytes| {
                    up.with(|recorder, now_us| recorder.said(conn, bytes, now_us));
                });
            });
            thread::spawn(move || {
                copy(daemon_in, client, |bytes| {
                    down.with(|recorder, _| recorder.heard(conn, bytes));
                });
            });
        }
    });
    Ok(tape)
}

/// Has `work` speak to a fresh daemon of Xen's, and writes down what it said.
fn record(
    kit: &Kit,
    name: &str,
    max_requests: usize,
    into: &Path,
    work: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let peer = Peer::start(kit, PeerKind::C, &dir.path().join("daemon"))?;
    let listen = dir.path().join("recorded");
    let tape = stand_between(&peer.socket(), &listen, max_requests)?;
    work(&listen)?;
    let recorder = tape.with(|recorder, _| std::mem::replace(recorder, Recorder::new(0)));
    save(&recorder.finish(name), &into.join(format!("{name}.mix")))
}

fn save(mix: &Mix, path: &Path) -> Result<(), Failure> {
    let bytes = mix.encode();
    std::fs::write(path, &bytes)?;
    let (requests, talks) = (mix.len(), mix.talks().len());
    println!(
        "{}: {requests} requests on {talks} connections, {} bytes",
        path.display(),
        bytes.len()
    );
    Ok(())
}

/// What an administrator's shell says.
const SHELL: &[&str] = &[
    "write /vm/1/name web /vm/1/uuid 0001 /vm/1/image/ostype linux",
    "write -s /local/domain/9/device/vif/0/backend /local/domain/0/backend/vif/9/0",
    "write /local/domain/9/device/vif/0/state 1 /local/domain/9/device/vif/0/mac 00:16:3e:00:00:01",
    "write /local/domain/0/backend/vif/9/0/state 1 /local/domain/0/backend/vif/9/0/script /etc/vif",
    "chmod -r /local/domain/9/device n9 r0",
    "chmod -u /local/domain/9/device/vif/0 n9 r0",
    "ls -p /local",
    "ls -f /vm",
    "list -p /local/domain/9/device",
    "read -p /vm/1/name",
    "exists /vm/1/name",
    "exists /vm/2",
    "write /local/domain/9/device/vif/0/state 4",
    "read /local/domain/9/device/vif/0/state /local/domain/0/backend/vif/9/0/state",
    "control check",
    "rm -t /local/domain/9/device/vif/0/mac",
    "rm /local/domain/9 /local/domain/0/backend /vm/1",
    "ls /",
];

fn shell(kit: &Kit, socket: &Path) -> Result<(), Failure> {
    // What it waits for is said below.
    let mut watch = kit
        .tool("xenstore-watch", socket)
        .args(["-n", "5", "/vm", "/local/domain/9/device/vif/0"])
        .stdout(Stdio::null())
        .spawn()?;
    thread::sleep(Duration::from_millis(300));
    for line in SHELL {
        let mut words = line.split(' ');
        let tool = format!("xenstore-{}", words.next().unwrap_or_default());
        kit.tool(&tool, socket).args(words).output()?;
    }
    watch.wait()?;
    Ok(())
}

/// Runs pytest and ends at once: a test of pyxs leaves a thread behind that may
/// wait for ever.
const PYTEST: &str = "import os, sys, pytest
pytest.main(sys.argv[1:])
os._exit(0)";

fn all(into: &Path) -> Result<(), Failure> {
    let kit = Kit::fetch(KitPart::Daemons)?;
    Kit::fetch(KitPart::Pyxs)?;
    std::fs::create_dir_all(into)?;
    record(&kit, "shell", 2000, into, |socket| shell(&kit, socket))?;
    record(&kit, "test-xenstore", 1000, into, |socket| {
        kit.tool("test-xenstore", socket).args(["-i", "8"]).output()?;
        Ok(())
    })?;
    record(&kit, "pyxs", 1500, into, |socket| {
        Command::new(kit.dir().join("venv/bin/python"))
            .args(["-c", PYTEST, "-p", "no:cacheprovider", "-q", "tests/test_client.py"])
            .current_dir(kit.dir().join("pyxs"))
            .env("PYTHONPATH", ".")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("XENSTORED_PATH", socket)
            .stdin(Stdio::null())
            .output()?;
        Ok(())
    })?;
    record(&kit, "load", 2000, into, |socket| {
        let config = SoakConfig { clients: 4, watchers: 1, think_us: 500, ..SoakConfig::default() };
        let soak = Soak::start(socket, config)?;
        thread::sleep(Duration::from_secs(2));
        soak.finish()?;
        Ok(())
    })
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, listen, file, requests] = &args[..] else {
        let into = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("mixes");
        return all(&into);
    };
    let max_requests: usize = requests.parse()?;
    let tape = stand_between(Path::new(socket), Path::new(listen), max_requests)?;
    loop {
        thread::sleep(Duration::from_millis(200));
        if tape.with(|recorder, _| recorder.is_full()) {
            break;
        }
    }
    let recorder = tape.with(|recorder, _| std::mem::replace(recorder, Recorder::new(0)));
    let name =
        Path::new(file).file_stem().map_or("recording".into(), |name| name.to_string_lossy());
    save(&recorder.finish(&name), Path::new(file))
}
