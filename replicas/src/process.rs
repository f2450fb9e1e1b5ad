//! A replica as a process: from the first instruction to the end.

use std::time::Duration;

use consensus::{LogStore, MemoryStore, Peer, PeerConfig, PeerId, RocksStore};
use hypervisor::fabric::ReplicaFabric;
use hypervisor::sandbox::{self, FileAccess};
use hypervisor::waiting::{Nap, set_time_slice};
use hypervisor::{death, domain};
use state_machine::StateMachine;

use crate::core::Replica;
use crate::encoder::Encoder;
use crate::error::Fatal;
use crate::runtime::Runtime;
use crate::spec::{ReplicaSpec, Start, Storage};

/// The largest message of consensus but for snapshots. A batch of inputs must
/// fit in.
const MESSAGE_BYTES: usize = 256 * 1024;
/// More than the replica ever has in flight, see `core`.
const UNCOMMITTED_BYTES: usize = 64 * 1024 * 1024;
/// Ticks between a leader's heartbeats: they only carry the commit index, the
/// host watches for deaths.
const HEARTBEAT_TICKS: usize = 5;

/// Shorter than the host's: a replica that is woken runs at once, and the host
/// goes on when it sleeps again.
const TIME_SLICE: Duration = Duration::from_micros(100);

/// Runs a replica of `M` on the descriptors that the host left to this process.
/// Comes back only when it must stop; why is also in its page, for the host.
#[must_use]
pub fn start<M: StateMachine + 'static>(spec: &ReplicaSpec) -> Fatal {
    let fabric = match attach(spec) {
        Ok(fabric) => fabric,
        Err(fatal) => return fatal,
    };
    let page = fabric.page().clone();
    let Err(fatal) = run::<M>(spec, fabric);
    page.mark_crashed(fatal.to_string().as_bytes());
    fatal
}

fn attach(spec: &ReplicaSpec) -> Result<ReplicaFabric, Fatal> {
    let slot = spec.slot_id().ok_or_else(|| Fatal::Ring(format!("no slot {}", spec.slot)))?;
    let descriptors =
        domain::inherited_descriptors().map_err(|error| Fatal::Ring(error.to_string()))?;
    ReplicaFabric::attach(descriptors, slot, spec.replica_id())
        .map_err(|error| Fatal::Ring(error.to_string()))
}

fn run<M: StateMachine + 'static>(
    spec: &ReplicaSpec,
    fabric: ReplicaFabric,
) -> Result<std::convert::Infallible, Fatal> {
    let os = |what| move |source| Fatal::Os { what, source };
    death::mark_crashes(fabric.page()).map_err(os("marking crashes"))?;
    death::arm(fabric.page()).map_err(os("arming the death notice"))?;
    let files = match &spec.storage {
        Storage::Volatile => FileAccess::Nothing,
        Storage::Process { directory } | Storage::Power { directory } => {
            std::fs::create_dir_all(directory).map_err(os("making the replica's directory"))?;
            FileAccess::Directory(directory.clone())
        }
    };
    // A kernel that knows no such thing schedules as it does.
    let _ = set_time_slice(TIME_SLICE);
    let nap = Nap::new(fabric.doorbell_fd(), spec.beat()).map_err(os("making a timer"))?;
    // Before the first thread is started: it must not escape.
    sandbox::enter(&files)?;
    let mut store = open_store(&spec.storage)?;
    let peer = make_peer(spec, &mut *store)?;
    let encoder = Encoder::start()?;
    let replica = Replica::<M>::new(spec.replica_id(), peer);
    Runtime::new(spec, replica, fabric, store, encoder, nap).run()
}

fn open_store(storage: &Storage) -> Result<Box<dyn LogStore>, Fatal> {
    let (directory, sync) = match storage {
        Storage::Volatile => return Ok(Box::new(MemoryStore)),
        Storage::Process { directory } => (directory, false),
        Storage::Power { directory } => (directory, true),
    };
    Ok(Box::new(RocksStore::open(directory, sync)?))
}

fn make_peer(spec: &ReplicaSpec, store: &mut dyn LogStore) -> Result<Peer, Fatal> {
    let ticks = usize::try_from(spec.election_ms / spec.beat_ms.max(1)).unwrap_or(usize::MAX);
    let config = PeerConfig {
        ack: spec.ack.into(),
        election_ticks: ticks.max(HEARTBEAT_TICKS + 1),
        heartbeat_ticks: HEARTBEAT_TICKS,
        max_message_bytes: MESSAGE_BYTES,
        max_uncommitted_bytes: UNCOMMITTED_BYTES,
        ..PeerConfig::new(PeerId(spec.id))
    };
    Ok(match &spec.start {
        Start::Bootstrap { voters } => {
            let voters: Vec<_> = voters.iter().map(|id| PeerId(*id)).collect();
            Peer::bootstrap(config, &voters)?
        }
        Start::Join => Peer::join(config)?,
        Start::Recover => match store.load()? {
            Some(state) => Peer::recover(config, state)?,
            None => return Err(Fatal::Ring("nothing on disk to recover from".into())),
        },
    })
}
