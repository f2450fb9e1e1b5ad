//! The commands that ask a running daemon for one thing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::{Format, Which, print};
use crate::control::{ControlError, Fault, FaultKind, Request, Response, Target};
use crate::start::holder;
use coordinator::events::Event;

/// How long a daemon that answered `down` may take to be gone.
const GONE_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Down {
    #[command(flatten)]
    which: Which,
}

pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    let run_dir = args.which.run_dir()?;
    let mut client = args.which.connect()?;
    let reply = client.call(&Request::Down, &[])?;
    if let Response::Refused { why } = reply.response {
        bail!("{why}");
    }
    client.wait_for_end();
    let deadline = Instant::now() + GONE_PATIENCE;
    while holder(&run_dir)?.is_some() {
        if Instant::now() > deadline {
            bail!("the daemon said that it stops, but is still there");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    report(reply.response)
}

#[derive(Debug, Args)]
pub(super) struct Dmesg {
    #[command(flatten)]
    which: Which,
    /// Wait for more
    #[arg(long, short)]
    follow: bool,
    /// Output format; json is one object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn dmesg(args: &Dmesg) -> anyhow::Result<ExitCode> {
    let mut shown = 0;
    let mut result = Ok(());
    let told = args.which.connect()?.dmesg(args.follow, 0, |events| {
        result = show(events, &mut shown, args.output);
        result.is_ok()
    });
    result?;
    match told {
        // A followed log ends with the daemon.
        Ok(()) | Err(ControlError::Closed) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

/// Prints `events`, and says where the ring has lost some since `shown`.
fn show(events: &[Event], shown: &mut u64, format: Format) -> anyhow::Result<()> {
    for event in events {
        let lost = event.seq - *shown - 1;
        let line = match format {
            Format::Text if lost > 0 => format!("({lost} earlier events are gone)\n{event}\n"),
            Format::Text => format!("{event}\n"),
            Format::Json => serde_json::to_string(event)? + "\n",
        };
        print(line)?;
        *shown = event.seq;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// What goes wrong
    #[arg(value_enum)]
    kind: FaultKind,
    /// Component
    #[arg(long, default_value = "xenstore")]
    component: String,
    /// Replica: primary, standby or an id
    #[arg(long, default_value = "primary")]
    replica: Target,
    /// How long a hang or slowness lasts, such as 200ms [default: until it is
    /// fenced]
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// For slow: share of time in which the replica stands still
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    percent: Option<u8>,
    #[command(flatten)]
    which: Which,
}

pub(super) fn fault(args: &FaultArgs) -> anyhow::Result<ExitCode> {
    let kind = args.kind;
    if args.duration.is_some() && !matches!(kind, FaultKind::Hang | FaultKind::Slow) {
        bail!("--duration is for hang and slow, not for {kind}");
    }
    if args.percent.is_some() && kind != FaultKind::Slow {
        bail!("--percent is for slow, not for {kind}");
    }
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ask(
        &args.which,
        &Request::Fault(Fault {
            kind,
            component: args.component.clone(),
            replica: args.replica,
            duration_ms: args.duration.map(millis),
            slow_percent: args.percent,
        }),
    )
}

#[derive(Debug, Args)]
pub(super) struct Promote {
    /// Component
    component: String,
    /// The replica's id
    id: u64,
    #[command(flatten)]
    which: Which,
}

pub(super) fn promote(args: &Promote) -> anyhow::Result<ExitCode> {
    let component = args.component.clone();
    ask(&args.which, &Request::Promote { component, id: args.id })
}

#[derive(Debug, Args)]
pub(super) struct Scale {
    /// Component
    component: String,
    /// How many replicas there are to be
    #[arg(value_parser = clap::value_parser!(u8).range(1..=7))]
    replicas: u8,
    #[command(flatten)]
    which: Which,
}

pub(super) fn scale(args: &Scale) -> anyhow::Result<ExitCode> {
    let component = args.component.clone();
    ask(&args.which, &Request::Scale { component, replicas: args.replicas })
}

fn ask(which: &Which, request: &Request) -> anyhow::Result<ExitCode> {
    report(which.connect()?.call(request, &[])?.response)
}

/// Prints what was done; a refusal is an error.
pub(super) fn report(response: Response) -> anyhow::Result<ExitCode> {
    match response {
        Response::Done { text } => {
            print(format!("{text}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Response::Refused { why } => bail!("{why}"),
        other => bail!(ControlError::NotUnderstood(format!("{other:?}"))),
    }
}
