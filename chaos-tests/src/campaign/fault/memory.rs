//! Bits that flip, and a replica that writes garbage into what it shares.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::maps::{self, Mapping};
use super::victim::Victim;
use super::{FaultError, Planned, Scene};
use crate::rng::Rng;

/// The page on which a replica tells how it is, and the one with the positions
/// of its rings; their data lies behind these.
const PAGE: u64 = 4096;
/// So much garbage at a time.
const GARBAGE: usize = 4096;
/// How often a place is looked for that is in use.
const TRIES: usize = 10_000;

/// `rvmm fault corrupt`.
pub(super) fn corrupt(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    for _ in 0..fault.count {
        scene.daemon.fault("corrupt", &victim.id.to_string(), None, None)?;
    }
    scene.damaged(&victim, &[("bits", fault.count.to_string())]);
    Ok(())
}

/// A process's memory.
pub(super) struct Memory {
    file: File,
    maps: Vec<Mapping>,
}

impl Memory {
    pub(super) fn open(victim: &Victim) -> Result<Self, FaultError> {
        let maps = maps::parse(&victim.read_proc("maps")?);
        let path = victim.proc("mem");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|e| FaultError::system(&path.display().to_string(), e))?;
        Ok(Self { file, maps })
    }

    /// What it has allocated for itself.
    pub(super) fn heap(&self) -> Vec<Mapping> {
        self.maps.iter().filter(|map| map.is_heap()).cloned().collect()
    }

    /// The part of the own region that `way` names.
    fn region(&self, way: &str) -> Result<Vec<Mapping>, FaultError> {
        let region = self.maps.iter().find(|map| map.is_own_region());
        let region = region
            .filter(|region| region.len() > 2 * PAGE)
            .ok_or_else(|| FaultError::Missed("the replica has no region of its own yet".into()))?;
        let start = region.range.start;
        let range = match way {
            "page" => start..start + PAGE,
            "lines" => start + PAGE..start + 2 * PAGE,
            _ => start + 2 * PAGE..region.range.end,
        };
        Ok(vec![Mapping { range, ..region.clone() }])
    }

    /// Whether there was something to be read.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> bool {
        self.file.read_exact_at(bytes, at).is_ok()
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), FaultError> {
        self.file.write_all_at(bytes, at).map_err(|e| FaultError::system("writing memory", e))
    }

    /// Some place within `maps` whose page is in use: most that is mapped was
    /// never touched.
    fn place(&self, maps: &[Mapping], rng: &mut Rng) -> Option<u64> {
        let total: u64 = maps.iter().map(Mapping::len).sum();
        if total == 0 {
            return None;
        }
        for _ in 0..TRIES {
            let mut offset = rng.next_u64() % total;
            let map = maps.iter().find(|map| {
                let here = offset < map.len();
                if !here {
                    offset -= map.len();
                }
                here
            })?;
            let at = map.range.start + offset;
            let mut around = [0; 64];
            if self.read(at & !63, &mut around) && around.iter().any(|byte| *byte != 0) {
                return Some(at);
            }
        }
        None
    }

    /// Flips bits; where, for the report.
    fn flip(&self, maps: &[Mapping], count: u64, rng: &mut Rng) -> Result<String, FaultError> {
        let mut places = Vec::new();
        for _ in 0..count {
            let nothing = || FaultError::Missed("nothing there is in use".into());
            let at = self.place(maps, rng).ok_or_else(nothing)?;
            let bit = rng.below(8);
            let mut byte = [0];
            if self.read(at, &mut byte) {
                self.write(at, &[byte[0] ^ 1 << bit])?;
            }
            if places.len() < 8 {
                places.push(format!("{at:#x}.{bit}"));
            }
        }
        Ok(places.join(" "))
    }
}

/// Bits anywhere in the heap.
pub(super) fn flip_heap(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let memory = Memory::open(&victim)?;
    let places = memory.flip(&memory.heap(), fault.count, &mut fault.rng.clone())?;
    scene.damaged(&victim, &[("bits", fault.count.to_string()), ("at", places)]);
    Ok(())
}

/// Bits in what the replica shares.
pub(super) fn flip_ring(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let memory = Memory::open(&victim)?;
    let region = memory.region(fault.way)?;
    let places = memory.flip(&region, fault.count, &mut fault.rng.clone())?;
    scene.damaged(
        &victim,
        &[("how", fault.way.to_owned()), ("bits", fault.count.to_string()), ("at", places)],
    );
    Ok(())
}

/// Garbage over what the replica shares.
pub(super) fn garble_ring(scene: &mut Scene<'_>, fault: &Planned) -> Result<(), FaultError> {
    let victim = scene.victim(fault)?;
    let memory = Memory::open(&victim)?;
    let mut rng = fault.rng.clone();
    let (mut bytes, mut garbage) = (0, [0; GARBAGE]);
    for part in memory.region(fault.way)? {
        let mut at = part.range.start;
        while at < part.range.end {
            garbage
                .chunks_mut(8)
                .for_each(|word| word.copy_from_slice(&rng.next_u64().to_le_bytes()));
            memory.write(at, &garbage)?;
            at += GARBAGE as u64;
            bytes += GARBAGE;
        }
    }
    scene.damaged(&victim, &[("how", fault.way.to_owned()), ("bytes", bytes.to_string())]);
    Ok(())
}
