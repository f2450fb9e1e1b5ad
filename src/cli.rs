//! The command line.

mod bench;
mod boot;
mod chaos;
mod config;
mod control;
mod demo;
mod image;
mod status;
mod store;
mod up;
mod upgrade;
mod xenstored;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError, Loaded, Override, Sources};
use crate::control::{Client, ControlError};
use crate::holder::{ABOUT_COMMAND, About};
use crate::panics::abort_on_panic;
use crate::start::control_socket;

/// The command under which the daemon starts its replicas. It is not for
/// people, and not in the help.
pub const REPLICA_COMMAND: &str = "replica";

/// The version, and what this program was built with (`+`) and without (`-`).
const VERSION: &str = match (cfg!(feature = "rocksdb"), cfg!(target_feature = "crt-static")) {
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), " (+rocksdb +static)"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (+rocksdb -static)"),
    (false, true) => concat!(env!("CARGO_PKG_VERSION"), " (-rocksdb +static)"),
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (-rocksdb -static)"),
};

/// Keeps a virtualization host alive when its privileged VM breaks.
#[derive(Debug, Parser)]
#[command(name = "rvmm", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the daemon
    Up(up::Up),
    /// Stop the daemon
    Down(control::Down),
    /// Have another program go on as the daemon
    Upgrade(upgrade::Upgrade),
    /// Tell how the daemon and its replicas are; exits with 0 when healthy, 1
    /// when degraded, 2 when not serving
    Status(status::StatusArgs),
    /// Show the daemon's log
    Dmesg(control::Dmesg),
    /// Inject a fault into a replica
    Fault(control::FaultArgs),
    /// Make a replica the primary
    Promote(control::Promote),
    /// Change the number of replicas of a running component
    Scale(control::Scale),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Tell of the image that virtual machines boot, or write it to a file
    Image(image::ImageArgs),
    /// Serve in the place of Xen's own xenstored, with its flags
    Xenstored(Box<xenstored::Xenstored>),
    /// Choose whose xenstored this Xen host starts when it boots
    #[command(subcommand)]
    Boot(boot::BootCommand),
    /// Carry a store to or from another xenstored
    #[command(subcommand)]
    Xenstore(store::StoreCommand),
    /// Measure speed, also beside other daemons
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Attack a host, and see that it bears it
    #[command(subcommand)]
    Chaos(chaos::ChaosCommand),
    /// Show what it is for: load on three replicas, primaries broken one after
    /// another, and a verdict; exits with 0 only if nothing was lost
    Demo(demo::DemoArgs),
    /// Say what this program can take over
    #[command(name = ABOUT_COMMAND, hide = true)]
    About,
}

/// The words of the command line. Xen's start scripts have room for a program, but for no
/// command of it, so its name may be one.
fn words() -> Vec<OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    let name = words.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "xenstored") {
        words.insert(1, "xenstored".into());
    }
    words
}

/// Runs the command line and returns the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse_from(words()).command;
    if !matches!(&command, Command::Chaos(chaos) if chaos.simulates()) {
        abort_on_panic();
    }
    let result = match command {
        Command::Up(args) => up::up(args),
        Command::Down(args) => control::down(&args),
        Command::Upgrade(args) => upgrade::upgrade(args),
        Command::Status(args) => status::status(&args),
        Command::Dmesg(args) => control::dmesg(&args),
        Command::Fault(args) => control::fault(&args),
        Command::Promote(args) => control::promote(&args),
        Command::Scale(args) => control::scale(&args),
        Command::Config(command) => config::config(command),
        Command::Image(args) => image::image(&args),
        Command::Xenstored(args) => xenstored::xenstored(*args),
        Command::Boot(command) => boot::boot(command),
        Command::Xenstore(command) => store::store(command),
        Command::Bench(command) => bench::bench(command),
        Command::Chaos(command) => chaos::chaos(command),
        Command::Demo(args) => demo::demo(&args),
        Command::About => print_json(&About::own()).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        let broken_pipe = error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        });
        // Whoever read standard output has had enough.
        if broken_pipe {
            return ExitCode::SUCCESS;
        }
        let _ = match error.downcast_ref::<ConfigError>() {
            // As compilers do it: each problem a line that begins with its place.
            Some(ConfigError::Refused(problems)) => problems
                .iter()
                .try_for_each(|problem| writeln!(io::stderr(), "{problem}"))
                .and_then(|()| writeln!(io::stderr(), "rvmm: the configuration is refused")),
            _ => writeln!(io::stderr(), "rvmm: {error:#}"),
        };
        let no_daemon = error.downcast_ref::<ControlError>();
        ExitCode::from(if matches!(no_daemon, Some(ControlError::NoDaemon { .. })) { 2 } else { 1 })
    })
}

/// Which daemon is meant.
#[derive(Debug, Args)]
struct Which {
    /// Configuration file [default: $RVMM_CONFIG, else /etc/rvmm/rvmm.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run directory of the daemon
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Which {
    fn overrides(&self) -> Vec<Override> {
        let run_dir = self.run_dir.as_ref().map(|dir| {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            dir.to_string_lossy().into_owned()
        });
        run_dir.map(|text| given("--run-dir", "run_dir", text)).into_iter().collect()
    }

    fn configuration(&self) -> anyhow::Result<Config> {
        let sources = Sources::of_process(self.config.clone(), self.overrides());
        Ok(Loaded::load(&sources)?.config)
    }

    /// The run directory that the configuration names.
    fn run_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(self.configuration()?.run_dir)
    }

    fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&control_socket(&self.run_dir()?))?)
    }
}

/// The values of the configuration that have flags of their own, and any other.
#[derive(Debug, Args)]
struct Settings {
    #[command(flatten)]
    which: Which,
    /// Where state that must survive lives
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Number of xenstore replicas, 1 to 7
    #[arg(long, value_name = "N")]
    replicas: Option<String>,
    /// When a client is answered: all-live or quorum
    #[arg(long, value_name = "POLICY")]
    ack: Option<String>,
    /// What survives the death of all replicas: volatile, process or power
    #[arg(long, value_name = "KIND")]
    durability: Option<String>,
    /// What the log shows: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Any key of the configuration (see `rvmm config show`); may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Settings {
    fn sources(self) -> Sources {
        let mut flags = self.which.overrides();
        let state_dir = self
            .state_dir
            .map(|dir| std::path::absolute(&dir).unwrap_or(dir).to_string_lossy().into_owned());
        let own = [
            ("--state-dir", "state_dir", state_dir),
            ("--replicas", "xenstore.replicas", self.replicas),
            ("--ack", "xenstore.ack", self.ack),
            ("--durability", "xenstore.durability", self.durability),
            ("--log", "log", self.log),
        ];
        flags.extend(own.into_iter().filter_map(|(flag, key, text)| Some(given(flag, key, text?))));
        flags.extend(self.set.into_iter().map(|(key, text)| given("--set", &key, text)));
        Sources::of_process(self.which.config, flags)
    }
}

fn given(flag: &str, key: &str, text: String) -> Override {
    Override { flag: flag.to_owned(), key: key.to_owned(), text }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is wanted")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Prints to standard output; unlike `print!`, a reader who is gone is an error
/// and no panic.
pub(crate) fn print(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.flush()
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)? + "\n")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides_in_order() {
        let args = ["rvmm", "up", "--replicas", "5", "--set", "log=warn", "--run-dir", "/r"];
        let Command::Up(up) = Cli::parse_from(args).command else { panic!("not up") };
        let flags: Vec<_> = up
            .settings
            .sources()
            .flags
            .into_iter()
            .map(|flag| (flag.flag, flag.key, flag.text))
            .collect();
        let expected = [
            ("--run-dir", "run_dir", "/r"),
            ("--replicas", "xenstore.replicas", "5"),
            ("--set", "log", "warn"),
        ];
        assert_eq!(
            flags,
            expected.map(|(flag, key, text)| (flag.into(), key.into(), text.to_owned()))
        );
    }
}
