//! The rows of the comparison: each puts one kind of load on a daemon for a
//! while.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use xenstore::wire::MessageType;

use super::store::{self, Picker};
use crate::client::{Client, ClientError, Result, Tx};

const WATCHES: usize = 1000;
const WATCHERS: usize = 8;
const TX_WRITES: usize = 10;
const IN_FLIGHT: usize = 16;
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_NS: u64 = 60_000_000_000;

/// What a row's figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds; less is better.
    Micros,
    /// Operations a second; more is better.
    PerSecond,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// One client reads, one request at a time.
    Read1,
    /// One client writes, one request at a time.
    Write1,
    /// One client runs transactions of ten writes.
    Transaction10,
    /// Eight clients read.
    Read8,
    /// Eight clients write.
    Write8,
    /// 64 clients read.
    Read64,
    /// 64 clients write.
    Write64,
    /// One client reads, 16 requests in flight.
    ReadInFlight16,
    /// One client writes, 16 requests in flight.
    WriteInFlight16,
    /// From a write to the event at another client.
    WatchFire,
    /// A write fires 1000 watches of eight clients; time for each event.
    Watch1000,
}

impl Row {
    /// Every row.
    pub const ALL: [Self; 11] = [
        Self::Read1,
        Self::Write1,
        Self::Transaction10,
        Self::Read8,
        Self::Write8,
        Self::Read64,
        Self::Write64,
        Self::ReadInFlight16,
        Self::WriteInFlight16,
        Self::WatchFire,
        Self::Watch1000,
    ];

    /// What its figures count.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::Read1
            | Self::Write1
            | Self::Transaction10
            | Self::WatchFire
            | Self::Watch1000 => Unit::Micros,
            _ => Unit::PerSecond,
        }
    }

    pub(super) fn run(
        self,
        socket: &Path,
        nodes: u32,
        slice: Duration,
        seed: u64,
    ) -> Result<Sample> {
        let picker = Picker::new(nodes, seed);
        match self {
            Self::Read1 => one_client(socket, picker, slice, store::read),
            Self::Write1 => one_client(socket, picker, slice, store::write),
            Self::Transaction10 => one_client(socket, picker, slice, transaction),
            Self::Read8 => many_clients(socket, &picker, slice, 8, store::read),
            Self::Write8 => many_clients(socket, &picker, slice, 8, store::write),
            Self::Read64 => many_clients(socket, &picker, slice, 64, store::read),
            Self::Write64 => many_clients(socket, &picker, slice, 64, store::write),
            Self::ReadInFlight16 => in_flight(socket, picker, slice, MessageType::Read),
            Self::WriteInFlight16 => in_flight(socket, picker, slice, MessageType::Write),
            Self::WatchFire => watch_fire(socket, slice),
            Self::Watch1000 => watch_many(socket, slice),
        }
    }
}

/// By the name that it has in reports for programs.
impl FromStr for Row {
    type Err = serde::de::value::Error;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        Self::deserialize(name.into_deserializer())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read1 => "READ, one client",
            Self::Write1 => "WRITE, one client",
            Self::Transaction10 => "transaction of 10 writes",
            Self::Read8 => "READ, 8 clients",
            Self::Write8 => "WRITE, 8 clients",
            Self::Read64 => "READ, 64 clients",
            Self::Write64 => "WRITE, 64 clients",
            Self::ReadInFlight16 => "READ, 16 in flight",
            Self::WriteInFlight16 => "WRITE, 16 in flight",
            Self::WatchFire => "watch fires",
            Self::Watch1000 => "1000 watches, an event",
        })
    }
}

/// What one run of a row showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// In the row's unit: the median time, or the rate.
    pub(super) value: f64,
    /// 99 of 100 took at most so long, microseconds.
    pub(super) p99_us: Option<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
impl Sample {
    fn of_times(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Self { value: at(0.5), p99_us: Some(at(0.99)) }
    }

    pub(super) fn of_rate(count: u64, took: Duration, times: Option<&Histogram<u64>>) -> Self {
        Self {
            value: count as f64 / took.as_secs_f64().max(1e-9),
            p99_us: times.map(|times| times.value_at_quantile(0.99) as f64 / 1000.0),
        }
    }
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are constants in order")
}

pub(super) fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

type Operation = fn(&mut Client, &mut Picker) -> Result<()>;

fn one_client(
    socket: &Path,
    mut picker: Picker,
    slice: Duration,
    operation: Operation,
) -> Result<Sample> {
    let mut client = Client::connect(socket)?;
    let mut times = histogram();
    let end = Instant::now() + slice;
    let mut before = Instant::now();
    while before < end {
        operation(&mut client, &mut picker)?;
        let after = Instant::now();
        times.saturating_record(nanos(after - before));
        before = after;
    }
    Ok(Sample::of_times(&times))
}

fn transaction(client: &mut Client, picker: &mut Picker) -> Result<()> {
    loop {
        let tx = client.start()?;
        for _ in 0..TX_WRITES {
            let path = picker.next_path();
            client.write(tx, &path, store::VALUE)?;
        }
        if client.commit(tx)? {
            return Ok(());
        }
    }
}

fn many_clients(
    socket: &Path,
    picker: &Picker,
    slice: Duration,
    count: u32,
    operation: Operation,
) -> Result<Sample> {
    let (start, stop) = (Barrier::new(count as usize + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|number| {
                let mut picker = picker.fork(number);
                let client = Client::connect(socket);
                let (start, stop) = (&start, &stop);
                scope.spawn(move || -> Result<Histogram<u64>> {
                    // Whatever happened, the others wait at the barrier.
                    start.wait();
                    let mut client = client?;
                    let mut times = histogram();
                    let mut before = Instant::now();
                    while !stop.load(Ordering::Relaxed) {
                        operation(&mut client, &mut picker)?;
                        let after = Instant::now();
                        times.saturating_record(nanos(after - before));
                        before = after;
                    }
                    Ok(times)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        let took = began.elapsed();
        let mut all = histogram();
        for worker in workers {
            let times =
                worker.join().map_err(|_| ClientError::Malformed("a load thread panicked"))??;
            // Equal bounds, so that adding cannot fail.
            let _ = all.add(&times);
        }
        Ok(Sample::of_rate(all.len(), took, Some(&all)))
    })
}

fn in_flight(
    socket: &Path,
    mut picker: Picker,
    slice: Duration,
    kind: MessageType,
) -> Result<Sample> {
    let mut client = Client::connect(socket)?;
    let value: &[u8] = if kind == MessageType::Write { store::VALUE } else { b"" };
    let began = Instant::now();
    let end = began + slice;
    let mut answered = 0;
    while Instant::now() < end {
        while client.in_flight() < IN_FLIGHT {
            let path = picker.next_path();
            client.queue(kind, Tx::NONE, &[path.as_bytes(), b"\0", value]);
        }
        client.flush()?;
        // Takes one answer and what came together with it.
        client.reply()?;
        answered += 1;
        while client.has_answer() {
            client.reply()?;
            answered += 1;
        }
    }
    let took = began.elapsed();
    while client.in_flight() > 0 {
        client.reply()?;
    }
    Ok(Sample::of_rate(answered, took, None))
}

fn expect_events(client: &mut Client, count: usize) -> Result<()> {
    for _ in 0..count {
        if client.wait_event(EVENT_TIMEOUT)?.is_none() {
            return Err(ClientError::Timeout);
        }
    }
    Ok(())
}

fn watch_fire(socket: &Path, slice: Duration) -> Result<Sample> {
    let mut writer = Client::connect(socket)?;
    let mut watcher = Client::connect(socket)?;
    writer.write(Tx::NONE, store::WATCHED, b"0")?;
    watcher.watch(store::WATCHED, "bench")?;
    expect_events(&mut watcher, 1)?;
    let mut times = histogram();
    let end = Instant::now() + slice;
    while Instant::now() < end {
        let before = Instant::now();
        let parts: [&[u8]; 3] = [store::WATCHED.as_bytes(), b"\0", store::VALUE];
        writer.queue(MessageType::Write, Tx::NONE, &parts);
        writer.flush()?;
        expect_events(&mut watcher, 1)?;
        times.saturating_record(nanos(before.elapsed()));
        writer.reply()?;
    }
    Ok(Sample::of_times(&times))
}

fn watch_many(socket: &Path, slice: Duration) -> Result<Sample> {
    let mut writer = Client::connect(socket)?;
    writer.write(Tx::NONE, store::WATCHED, b"0")?;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watcher = Client::connect(socket)?;
        for number in 0..WATCHES / WATCHERS {
            watcher.watch(store::WATCHED, &number.to_string())?;
        }
        expect_events(&mut watcher, WATCHES / WATCHERS)?;
        watchers.push(watcher);
    }
    let mut times = histogram();
    let end = Instant::now() + slice;
    while Instant::now() < end {
        let before = Instant::now();
        writer.write(Tx::NONE, store::WATCHED, store::VALUE)?;
        for watcher in &mut watchers {
            expect_events(watcher, WATCHES / WATCHERS)?;
        }
        times.saturating_record(nanos(before.elapsed()) / WATCHES as u64);
    }
    Ok(Sample::of_times(&times))
}
