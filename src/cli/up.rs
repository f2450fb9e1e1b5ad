//! `rvmm up`: the daemon in the foreground, or left behind in the background.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::Settings;
use crate::config::{Config, Loaded, LogLevel};
use crate::holder::{Inheritance, Order};
use crate::host::HostStart;
use crate::start::{Announcer, READY_WORD, RunDir, log_file, make_dir};
use coordinator::events::{Events, Tag};
use rustix::process::Pid;

/// How long a daemon in the background may take to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How much of its log is shown when it fails, bytes.
const LOG_SHOWN: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// Return once the daemon is ready, and leave it in the background
    #[arg(long, conflicts_with = "detached")]
    detach: bool,
    /// This is the daemon that --detach leaves behind
    #[arg(long, hide = true)]
    detached: bool,
    /// This is the daemon proper, and its parent the holder
    #[arg(long, hide = true)]
    held: bool,
}

pub(super) fn up(args: Up) -> anyhow::Result<ExitCode> {
    let Up { settings, detach, detached, held } = args;
    let loaded = Loaded::load(&settings.sources())?;
    if detach {
        let args = super::words().into_iter().skip(1).map(|arg| match arg.to_str() {
            Some("--detach") => "--detached".into(),
            _ => arg,
        });
        let Daemon { pid, serves, log } = leave_behind(&loaded.config, args)?;
        let log = log.display();
        super::print(format!("{READY_WORD}{serves} (pid {pid}, log {log})\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if held { daemon(loaded, |_| Ok(())) } else { hold(loaded, detached) }
}

/// Holds the daemon that this command line asks for until it ends; `detached` in the
/// background.
pub(super) fn hold(loaded: Loaded, detached: bool) -> anyhow::Result<ExitCode> {
    let config = loaded.config;
    if detached {
        // Fails only for the leader of a process group, which a child is not.
        let _ = rustix::process::setsid();
    }
    log_to_stderr(config.log);
    let order = Order {
        run_dir: RunDir::claim(&config.run_dir)?,
        args: std::env::args_os().skip(1).collect(),
        announcer: Announcer::new(detached),
        // What is said before and after any daemon: in the log file alone.
        events: Arc::new(Events::new(1)),
    };
    Ok(crate::holder::run(order)?)
}

/// Serves until it is told to end. `once_ready` is done before anybody is told that the
/// daemon is ready, with the id of the process that is to be told to end; what that
/// cannot do is only told.
pub(super) fn daemon(
    loaded: Loaded,
    once_ready: impl FnOnce(Pid) -> anyhow::Result<()> + 'static,
) -> anyhow::Result<ExitCode> {
    let Loaded { config, file, warnings, .. } = loaded;
    let events = Arc::new(Events::new(config.limits.events as usize));
    // Before anything else is opened.
    let inheritance = Inheritance::take(&events)?;
    crate::host::name_process();
    log_to_stderr(config.log);
    let from = file.map_or("no file".to_owned(), |file| file.display().to_string());
    let holder = inheritance.handed.holder;
    events.info(
        &[Tag::Host],
        format!(
            "rvmm {} starts, pid {}, held by {holder}, {}, configuration: {from}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            config.run_dir.display()
        ),
    );
    for warning in &warnings {
        events.warn(&[Tag::Host], format!("configuration: {warning}"));
    }
    let serves = format!(
        "xenstore at {}, {} replicas",
        config.xenstore_socket().display(),
        config.xenstore.replicas
    );
    let once_ready = Box::new(move || once_ready(holder));
    crate::host::run(config, HostStart { events, inheritance, serves, once_ready })
}

/// The events carry their own time and tags.
fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // Fails only when there is a log already, which serves as well.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_level(false)
        .with_target(false)
        .without_time()
        .try_init();
}

/// A daemon in the background.
pub(super) struct Daemon {
    pub(super) pid: u32,
    /// What it says that it serves.
    pub(super) serves: String,
    pub(super) log: PathBuf,
}

/// Starts the daemon with this command line and waits until it is ready.
pub(super) fn leave_behind(
    config: &Config,
    args: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<Daemon> {
    let log_path = log_file(&config.run_dir);
    let log = open_log(&config.run_dir, &log_path)
        .with_context(|| format!("log {}", log_path.display()))?;
    let log_start = log.metadata()?.len();
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("the daemon cannot be started")?;
    match wait_until_ready(&mut child)? {
        Some(serves) => Ok(Daemon { pid: child.id(), serves, log: log_path }),
        None => {
            let status = child.wait()?;
            let said = read_log(&log_path, log_start).unwrap_or_default();
            bail!("the daemon ended before it was ready ({status}):\n{}", said.trim_end())
        }
    }
}

fn open_log(run_dir: &Path, path: &Path) -> std::io::Result<File> {
    make_dir(run_dir)?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// What the daemon says that it serves; none when it ended instead.
fn wait_until_ready(child: &mut Child) -> anyhow::Result<Option<String>> {
    let stdout = child.stdout.take().context("the daemon has no standard output")?;
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // At an error the line stays empty, as at the end.
        let _ = BufReader::new(stdout).take(LOG_SHOWN).read_line(&mut line);
        let _ = sender.send(line);
    });
    match line.recv_timeout(READY_PATIENCE) {
        Ok(line) => Ok(line.strip_prefix(READY_WORD).map(|what| what.trim().to_owned())),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            child.kill()?;
            bail!("the daemon was not ready within {} s, and was stopped", READY_PATIENCE.as_secs())
        }
    }
}

/// The end of the log, from `start` on.
fn read_log(path: &Path, start: u64) -> std::io::Result<String> {
    let mut log = File::open(path)?;
    let end = log.metadata()?.len();
    log.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_SHOWN))))?;
    let mut said = Vec::new();
    log.take(LOG_SHOWN).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}
