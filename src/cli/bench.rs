//! `rvmm bench`: this daemon's speed beside that of others, in the same run.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chaos::bench::{self, BenchConfig, Progress, Row, Target};
use chaos::harness::{Host, HostOptions};
use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use clap::{Args, Subcommand};

use super::{Format, Which, print, print_json};
use crate::start::holder;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Measure xenstore with 1, 8 and 64 clients
    Xenstore(BenchArgs),
    /// Measure replicas in virtual machines beside replicas in processes
    Backend(BackendArgs),
}

#[derive(Debug, Args)]
pub(super) struct BackendArgs {
    /// Nodes in the stores, ascending
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    nodes: Vec<u32>,
    /// Only these rows, by name (a wrong name lists all)
    #[arg(
        long,
        value_name = "ROW",
        value_delimiter = ',',
        default_value = "read1,write1,read8,write8"
    )]
    rows: Vec<Row>,
    /// How often each row is run with each backend
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How often each host's primary is killed
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=7))]
    replicas: u8,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Another xenstored to measure in turn with ours: its socket, or
    /// `xenstored` or `oxenstored` for Debian's, fetched and started here; may
    /// be repeated
    #[arg(long, value_name = "SOCKET")]
    against: Vec<PathBuf>,
    /// Nodes in the stores, ascending
    #[arg(long, value_delimiter = ',', default_value = "1000,100000")]
    nodes: Vec<u32>,
    /// Only these rows, by name (`read1`, `write8`, ...; a wrong name lists all)
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<Row>,
    /// How often each row is run on each daemon
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long a row is run each time
    #[arg(long, default_value = "200ms", value_parser = humantime::parse_duration)]
    slice: Duration,
    /// Replicas, when no daemon runs and one is started for the measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    replicas: u8,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    which: Which,
}

pub(super) fn bench(command: BenchCommand) -> anyhow::Result<ExitCode> {
    let args = match command {
        BenchCommand::Xenstore(args) => args,
        BenchCommand::Backend(args) => return backend(args),
    };
    let dir = tempfile::tempdir().context("a directory for the daemons")?;
    let ours = Ours::find(&args)?;
    let mut targets = vec![Target { name: "rvmm".into(), socket: ours.socket.clone() }];
    // Kept until the measurement is over: a peer ends when it is dropped.
    let mut peers = Vec::new();
    for against in &args.against {
        let (target, peer) = other(against, dir.path())?;
        targets.push(target);
        peers.extend(peer);
    }
    let config = BenchConfig {
        populations: args.nodes,
        rounds: args.rounds,
        slice_ms: u64::try_from(args.slice.as_millis()).unwrap_or(u64::MAX),
        rows: if args.rows.is_empty() { Row::ALL.to_vec() } else { args.rows },
        ..BenchConfig::default()
    };
    let report = bench::run(&targets, &config, &mut progress)?;
    clear_progress();
    match args.output {
        Format::Text => print(report.to_string())?,
        Format::Json => print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn backend(args: BackendArgs) -> anyhow::Result<ExitCode> {
    let binary = std::env::current_exe().context("finding this program")?;
    let BackendArgs { nodes, rows, rounds, kills, replicas, output } = args;
    let config = BenchConfig { populations: nodes, rounds, rows, ..BenchConfig::default() };
    let image = unikernel_image::IMAGE;
    let report = bench::run_backends(&binary, image, replicas, kills, &config, &mut progress)?;
    clear_progress();
    match output {
        Format::Text => print(report.to_string())?,
        Format::Json => print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The daemon to measure: the one that runs, else one of our own.
struct Ours {
    socket: PathBuf,
    _host: Option<Host>,
}

impl Ours {
    fn find(args: &BenchArgs) -> anyhow::Result<Self> {
        let config = args.which.configuration()?;
        if holder(&config.run_dir)?.is_some() {
            return Ok(Self { socket: config.xenstore_socket(), _host: None });
        }
        let binary = std::env::current_exe().context("finding this program")?;
        let options = HostOptions::default().set("xenstore.replicas", args.replicas);
        let host = Host::start(&binary, &options)?;
        Ok(Self { socket: host.socket(), _host: Some(host) })
    }
}

/// The daemon at a socket, or one of Debian's by name.
fn other(against: &Path, dir: &Path) -> anyhow::Result<(Target, Option<Peer>)> {
    for kind in [PeerKind::C, PeerKind::Ocaml] {
        let name = kind.to_string();
        if against.as_os_str() == name.as_str() {
            let kit = Kit::fetch(KitPart::Daemons)?;
            let peer = Peer::start(&kit, kind, &dir.join(&name))?;
            return Ok((Target { name, socket: peer.socket() }, Some(peer)));
        }
    }
    let name = against.file_name().unwrap_or(against.as_os_str()).to_string_lossy().into_owned();
    Ok((Target { name, socket: against.to_path_buf() }, None))
}

fn progress(progress: &Progress<'_>) {
    if std::io::stderr().is_terminal() {
        let row = progress.row.map_or("creating nodes".to_owned(), |row| row.to_string());
        let Progress { target, nodes, round, .. } = progress;
        let line = format!("\r{nodes} nodes, round {round}: {row} on {target}\x1b[K");
        // That progress cannot be shown must not end the measurement.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

fn clear_progress() {
    if std::io::stderr().is_terminal() {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
}
