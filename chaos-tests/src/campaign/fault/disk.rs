//! A disk without room.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::{FaultError, Planned, Scene, own_name};
use crate::report::record::Component;

/// A file that takes all the room; removed when this is dropped.
struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        // It fails when the file system is gone, and the file with it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// More than any file system has that we were given.
const MOST: usize = 8 << 30;

/// Takes all the room for a while.
pub(super) fn fill(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let dir = scene.disk.ok_or_else(|| {
        FaultError::Unavailable("the state is not on a file system of its own".into())
    })?;
    let ballast = Ballast(dir.join(own_name("ballast")));
    let mut file = File::create(&ballast.0)
        .map_err(|error| FaultError::system(&ballast.0.display().to_string(), error))?;
    let mut bytes = 0;
    // Down to the last page: a large piece that does not fit leaves room behind.
    for piece in [1 << 20, 4096, 512] {
        let zeros = vec![0; piece];
        while bytes < MOST && file.write_all(&zeros).is_ok() {
            bytes += piece;
        }
    }
    scene.injected(
        Component::Disk,
        "the state directory",
        &[("for_ms", fault.hold.as_millis().to_string()), ("bytes", bytes.to_string())],
    );
    scene.stop.sleep(fault.hold);
    drop((file, ballast));
    scene.healed();
    Ok(())
}
