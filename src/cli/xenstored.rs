//! `rvmm xenstored`: in the place of Xen's own daemon, with its flags.
//!
//! As that one, it serves at `$XENSTORED_RUNDIR/socket`, else at
//! `/run/xenstored/socket`, and over the rings of domains, and leaves itself behind in
//! the background once it does.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser};
use rustix::process::Pid;

use super::up::{Daemon, daemon, hold, leave_behind};
use super::{Cli, Command, Settings, given, print};
use crate::config::{Loaded, Override};
use crate::start::holder;

/// Where Xen's own daemon and its clients' library have the socket, if
/// [`SOCKET_DIR_ENV`] does not say otherwise.
const SOCKET_DIR: &str = "/run/xenstored";
const SOCKET_DIR_ENV: &str = "XENSTORED_RUNDIR";

/// The flags of Xen's C daemon (`xenstored --help` of Xen 4.17), and those of
/// `rvmm up`.
#[derive(Debug, Args)]
pub(super) struct Xenstored {
    #[command(flatten)]
    settings: Settings,
    /// Write the daemon's process id to this file
    #[arg(short = 'F', long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Serve sockets only, not the rings of Xen's domains
    #[arg(short = 'D', long)]
    no_domain_init: bool,
    /// Stay in the foreground
    #[arg(short = 'N', long)]
    no_fork: bool,
    /// Print the daemon's process id
    #[arg(short = 'P', long)]
    output_pid: bool,
    /// Say everything in the log
    #[arg(short = 'V', long)]
    verbose: bool,
    /// Nodes that a guest may own
    #[arg(short = 'E', long, value_name = "N")]
    entry_nb: Option<String>,
    /// Size of a guest's node, bytes
    #[arg(short = 'S', long, value_name = "BYTES")]
    entry_size: Option<String>,
    /// Watches that a guest may set
    #[arg(short = 'W', long, value_name = "N")]
    watch_nb: Option<String>,
    /// Transactions that a guest may have open
    #[arg(short = 't', long, value_name = "N")]
    transaction: Option<String>,
    /// Permission entries of a guest's node
    #[arg(short = 'A', long, value_name = "N")]
    perm_nb: Option<String>,
    /// Length of a guest's path, bytes
    #[arg(short = 'M', long, value_name = "BYTES")]
    path_max: Option<String>,
    /// A quota by its name; may be repeated
    #[arg(short = 'Q', long, value_name = "WHAT=N", value_parser = super::key_value)]
    quota: Vec<(String, String)>,
    /// Append every message of every client to this file; SIGHUP opens it anew
    #[arg(short = 'T', long, value_name = "FILE")]
    trace_file: Option<PathBuf>,
    /// Keep the store in memory; it always is
    #[arg(short = 'I', long, value_name = "on|off", num_args = 0..=1)]
    internal_db: Option<Option<String>>,
    #[command(flatten)]
    unsupported: Unsupported,
    /// This is the daemon that is left behind
    #[arg(long, hide = true)]
    detached: bool,
    /// This is the daemon proper, and its parent the holder
    #[arg(long, hide = true)]
    held: bool,
}

/// What Xen's daemon knows and this one does not do. Each is refused by its name.
#[derive(Debug, Args)]
struct Unsupported {
    #[arg(short = 'R', long, hide = true)]
    no_recovery: bool,
    #[arg(short = 'L', long, hide = true)]
    preserve_local: bool,
    #[arg(short = 'q', long, hide = true)]
    quota_soft: Vec<String>,
    #[arg(short = 'w', long, hide = true)]
    timeout: Vec<String>,
    #[arg(short = 'U', long, hide = true)]
    live_update: bool,
    #[arg(short = 'p', long, hide = true)]
    priv_domid: Option<String>,
    #[arg(short = 'e', long, hide = true)]
    event: Option<String>,
    #[arg(short = 'm', long, hide = true)]
    master_domid: Option<String>,
}

impl Unsupported {
    /// The first one that was given.
    fn given(&self) -> Option<&'static str> {
        let all = [
            (self.no_recovery, "--no-recovery"),
            (self.preserve_local, "--preserve-local"),
            (!self.quota_soft.is_empty(), "--quota-soft"),
            (!self.timeout.is_empty(), "--timeout"),
            (self.live_update, "--live-update"),
            (self.priv_domid.is_some(), "--priv-domid"),
            (self.event.is_some(), "--event"),
            (self.master_domid.is_some(), "--master-domid"),
        ];
        all.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
    }
}

impl Xenstored {
    /// # Errors
    /// The first flag that asks for what is not done here.
    fn refuse_unsupported(&self) -> anyhow::Result<()> {
        if let Some(flag) = self.unsupported.given() {
            bail!("{flag} of Xen's xenstored is not supported");
        }
        match &self.internal_db {
            Some(Some(kind)) if kind != "on" => {
                bail!("--internal-db={kind} is not supported: the store is always kept in memory")
            }
            _ => Ok(()),
        }
    }

    /// The configuration with what the flags say. The later ones of a key win, and
    /// the daemon's own come last.
    fn load(self) -> anyhow::Result<Loaded> {
        let mut sources = self.settings.sources();
        let own = [
            ("--entry-nb", "nodes", self.entry_nb),
            ("--entry-size", "node-size", self.entry_size),
            ("--watch-nb", "watches", self.watch_nb),
            ("--transaction", "transactions", self.transaction),
            ("--perm-nb", "node-permissions", self.perm_nb),
            ("--path-max", "path-max", self.path_max),
        ];
        let quota = |flag: &str, name: &str, text: String| -> Override {
            given(flag, &format!("xenstore.quotas.{name}"), text)
        };
        let own = own.into_iter().filter_map(|(flag, name, text)| Some(quota(flag, name, text?)));
        let named = self.quota.into_iter().map(|(name, text)| quota("--quota", &name, text));
        sources.flags.extend(own.chain(named));
        if let Some(path) = self.trace_file {
            // The daemon may be in another directory.
            let path = std::path::absolute(&path).unwrap_or(path);
            let text = path.to_string_lossy().into_owned();
            sources.flags.push(given("--trace-file", "xenstore.trace_file", text));
        }
        if self.verbose {
            sources.flags.push(given("--verbose", "log", "debug".into()));
        }
        let mut loaded = Loaded::load(&sources)?;
        loaded.config.xenstore.rings = !self.no_domain_init;
        let socket_dir = &mut loaded.config.xenstore.socket_dir;
        if socket_dir.is_none() {
            let dir = std::env::var_os(SOCKET_DIR_ENV).filter(|dir| !dir.is_empty());
            *socket_dir = Some(dir.map_or_else(|| SOCKET_DIR.into(), PathBuf::from));
        }
        Ok(loaded)
    }
}

/// Whether the daemon would start with these arguments.
///
/// # Errors
/// What it would say otherwise.
pub(super) fn check(args: &[String]) -> anyhow::Result<()> {
    let words = ["rvmm", "xenstored"].into_iter().chain(args.iter().map(String::as_str));
    if let Command::Xenstored(args) = Cli::try_parse_from(words)?.command {
        args.refuse_unsupported()?;
        args.load()?;
    }
    Ok(())
}

pub(super) fn xenstored(args: Xenstored) -> anyhow::Result<ExitCode> {
    args.refuse_unsupported()?;
    let (no_fork, detached, output_pid) = (args.no_fork, args.detached, args.output_pid);
    let (held, pid_file) = (args.held, args.pid_file.clone());
    let loaded = args.load()?;
    if held {
        return daemon(loaded, move |pid| pid_file.map_or(Ok(()), |file| write_pid(&file, pid)));
    }
    let socket = loaded.config.xenstore_socket();
    if !detached && UnixStream::connect(&socket).is_ok() {
        // Whoever starts it once more, as Debian does with each upgrade of Xen, has what
        // it wants. Xen's C daemon goes by the file as well.
        if let Some(pid) = pid_file.as_deref().and_then(|file| std::fs::read_to_string(file).ok())
            && holder(&loaded.config.run_dir)?.as_deref() == Some(pid.trim())
        {
            eprintln!("rvmm: xenstored serves {} already (pid {})", socket.display(), pid.trim());
            return Ok(ExitCode::SUCCESS);
        }
        bail!("another xenstored serves {}; stop it first", socket.display());
    }
    if no_fork || detached {
        if no_fork && output_pid {
            print(format!("{}\n", std::process::id()))?;
        }
        let code = hold(loaded, detached)?;
        // A file that nobody removed would only be untidy.
        let _ = pid_file.map(std::fs::remove_file);
        return Ok(code);
    }
    let args = super::words().into_iter().skip(1).chain(["--detached".into()]);
    let Daemon { pid, .. } = leave_behind(&loaded.config, args)?;
    if output_pid {
        print(format!("{pid}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pid(path: &Path, pid: Pid) -> anyhow::Result<()> {
    std::fs::write(path, format!("{pid}\n")).with_context(|| format!("pid file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Xenstored {
        match Cli::parse_from(["rvmm", "xenstored"].iter().chain(words)).command {
            Command::Xenstored(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_of_xens_daemon_become_keys() {
        let words =
            "-E 7 --entry-size 8 -W 9 -t 10 -A 11 -M 12 -Q memory=13 -Q nodes=14 -V -N -T /trace";
        let words: Vec<_> = words.split(' ').collect();
        let config = parse(&words).load().expect("is a configuration").config;
        assert!(config.xenstore.rings);
        assert_eq!(config.xenstore.trace_file.as_deref(), Some(Path::new("/trace")));
        let quotas = config.xenstore.quotas;
        assert_eq!((quotas.nodes, quotas.node_size, quotas.watches), (14, 8, 9));
        assert_eq!((quotas.transactions, quotas.node_permissions, quotas.path_max), (10, 11, 12));
        assert_eq!((quotas.memory, config.log), (13, crate::config::LogLevel::Debug));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (words, named) in [
            ("--preserve-local", "--preserve-local"),
            ("-w watch-event=3", "--timeout"),
            ("--internal-db off", "--internal-db=off"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let error = xenstored(parse(&words)).expect_err(named).to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
