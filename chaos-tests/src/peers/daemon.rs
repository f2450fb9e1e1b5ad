//! One running daemon to compare with.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Kit, PeerError, RingGuest, io};
use crate::client::Client;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Which of Xen's daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// The C daemon, `xenstored`.
    C,
    /// The OCaml daemon, `oxenstored`.
    Ocaml,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::C => "xenstored",
            Self::Ocaml => "oxenstored",
        })
    }
}

/// A running daemon; it ends when this is dropped, or when this process dies.
#[derive(Debug)]
pub struct Peer {
    kind: PeerKind,
    child: Child,
    dir: PathBuf,
}

impl Peer {
    /// Starts a daemon whose files all lie in `dir`, and waits until its socket
    /// answers.
    ///
    /// # Errors
    /// [`PeerError::Start`] with what the daemon said, or [`PeerError::Io`].
    pub fn start(kit: &Kit, kind: PeerKind, dir: &Path) -> Result<Self, PeerError> {
        let fail = || format!("preparing {}", dir.display());
        io(fail, std::fs::create_dir_all(dir))?;
        let dir = &io(fail, dir.canonicalize())?;
        let said = io(fail, File::create(dir.join("output")))?;
        let ring = io(fail, File::create(dir.join("dom0.ring")))?;
        io(fail, ring.set_len(4096))?;
        io(fail, std::fs::write(dir.join("xsd_port"), "1"))?;

        let mut command = Command::new(kit.xen_bin(&kind.to_string()));
        match kind {
            PeerKind::C => {
                command.env("XENSTORED_RUNDIR", dir);
                command.args(["-N", "--pid-file"]).arg(dir.join("pid"));
            }
            PeerKind::Ocaml => {
                let config = dir.join("oxenstored.conf");
                io(fail, std::fs::write(&config, ocaml_config(dir)))?;
                command.arg("--config-file").arg(config);
                command.args(["--no-fork", "--no-access-log"]);
            }
        }
        let child = command
            .env("XSFAKE_DIR", dir)
            .env("XSFAKE_PIPE", "1")
            .env("LD_PRELOAD", kit.stub())
            .env("LD_LIBRARY_PATH", kit.lib_dir())
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(io(fail, said.try_clone())?)
            .stderr(said)
            .spawn();
        let mut peer =
            Self { kind, child: io(|| format!("starting {kind}"), child)?, dir: dir.clone() };
        peer.wait_ready()?;
        Ok(peer)
    }

    fn wait_ready(&mut self) -> Result<(), PeerError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(mut client) = Client::connect(self.socket()) {
                client.set_timeout(Duration::from_secs(2));
                if client.domain_path(0).is_ok() {
                    return Ok(());
                }
            }
            let ended = io(|| "waiting".to_owned(), self.child.try_wait())?;
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read(self.dir.join("output")).unwrap_or_default();
                let state = ended.map_or("no socket in time".to_owned(), |s| s.to_string());
                return Err(PeerError::Start {
                    kind: self.kind,
                    reason: format!("{state}; {}", String::from_utf8_lossy(&said).trim()),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The socket of domain 0.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes domain `domid` exist and introduces it to the daemon; what is
    /// returned speaks as that domain.
    ///
    /// # Errors
    /// [`PeerError::Introduce`] when the daemon refuses, or [`PeerError::Io`].
    pub fn guest(&self, domid: u16) -> Result<Client<RingGuest>, PeerError> {
        let guest = RingGuest::create(&self.dir, domid)?;
        let introduced = Client::connect(self.socket())
            .and_then(|mut control| control.introduce(domid, 1, u32::from(domid)));
        introduced.map_err(|source| PeerError::Introduce { domid, source })?;
        Ok(Client::over(guest))
    }

    /// Makes domain `domid` exist, without introducing it.
    ///
    /// # Errors
    /// [`PeerError::Io`].
    pub fn create_domain(&self, domid: u16) -> Result<(), PeerError> {
        RingGuest::create(&self.dir, domid).map(|_| ())
    }

    /// Ends domain `domid` as the hypervisor would report it.
    ///
    /// # Errors
    /// [`PeerError::Io`] when the domain does not exist.
    pub fn destroy_domain(&self, domid: u16) -> Result<(), PeerError> {
        RingGuest::destroy(&self.dir, domid)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ocaml_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "pid-file = {dir}/pid\n\
         persistent = false\n\
         quota-activate = true\n\
         xenstored-log-file = {dir}/log\n\
         access-log-file = {dir}/access.log\n\
         xenstored-kva = {dir}/dom0.ring\n\
         xenstored-port = {dir}/xsd_port\n"
    )
}
