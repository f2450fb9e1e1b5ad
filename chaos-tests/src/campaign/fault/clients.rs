//! Clients that do what no client should.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use xenstore::wire::{Header, MessageType};

use super::{FaultError, Planned, Scene};
use crate::client::{Client, Tx};
use crate::report::record::Component;

/// A crowd beyond this would end us first.
const MAX_CROWD: u64 = 4096;
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much each stuck client asks for, bytes.
const FLOOD: usize = 4 << 20;

/// Connections that do nothing.
pub(super) fn crowd(socket: &Path, count: u64) -> Vec<UnixStream> {
    (0..count.min(MAX_CROWD)).filter_map(|_| UnixStream::connect(socket).ok()).collect()
}

/// Gone in the middle of a transaction and of a frame.
pub(super) fn vanish(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let mut rng = fault.rng.clone();
    for number in 0..fault.count {
        let mut client =
            Client::connect(scene.socket).map_err(|e| FaultError::client("connecting", &e))?;
        client.set_timeout(TIMEOUT);
        // Any of this may be refused; it is about what is left of it.
        if let Ok(tx) = client.start() {
            let path = format!("/chaos-guests/{number}");
            let _ = client.write(tx, &path, b"never committed");
            let _ = client.watch(&path, "gone");
        }
        let frame =
            Header { kind: MessageType::Write.to_u32(), req_id: 9, tx_id: Tx::NONE.0, len: 100 };
        let bytes = [frame.encode().as_slice(), b"/chaos-guests/half"].concat();
        let cut = rng.below(bytes.len()).max(1);
        let _ = client.transport().stream().write_all(&bytes[..cut]);
    }
    let parameters = [("clients", fault.count.to_string())];
    scene.injected(Component::Client, format!("{} clients", fault.count), &parameters);
    Ok(())
}

/// Ask, and do not read.
pub(super) fn stick(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let frame =
        Header { kind: MessageType::Directory.to_u32(), req_id: 1, tx_id: Tx::NONE.0, len: 2 };
    let frame = [frame.encode().as_slice(), b"/\0"].concat();
    let requests = frame.repeat(512);
    let mut stuck = Vec::new();
    for _ in 0..fault.count {
        let stream = UnixStream::connect(scene.socket)
            .map_err(|error| FaultError::Missed(format!("connecting: {error}")))?;
        let _ = stream.set_nonblocking(true);
        for _ in 0..FLOOD / requests.len() {
            // Part of a frame may have been taken: whatever, it is never read.
            if (&stream).write_all(&requests).is_err() {
                break;
            }
        }
        stuck.push(stream);
    }
    scene.injected(
        Component::Client,
        format!("{} clients", fault.count),
        &[("for_ms", fault.hold.as_millis().to_string()), ("clients", fault.count.to_string())],
    );
    scene.stop.sleep(fault.hold);
    drop(stuck);
    scene.healed();
    Ok(())
}
