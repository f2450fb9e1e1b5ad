//! A script that shows whether the image does on some machine what the same code
//! does in a process.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use state_machine::executor::{Answer, Command, Sink};
use state_machine::{ConnId, Digest, DomId, Input, InputNo, Mixer, Output, Reader};
use xenstore::wire::{MessageType, frame, split};

/// Writes of a request that is to be large, and the bytes of each.
const BULK: (u64, usize) = (300, 3000);
/// Requests of that kind: so many that a snapshot takes more than one part.
const BULKS: u64 = 4;
/// Bytes of a snapshot that go back in one request.
const PART_BYTES: usize = 900 * 1024;

/// Plays the monitor of an executor of [`xenstore::Xenstore`], and writes what it
/// sees: a line each answer, or one for many.
#[derive(Debug)]
pub struct Rehearsal<W> {
    transcript: W,
    step: u64,
    last_input: u64,
    answer: Vec<u8>,
    parts: u32,
    snapshot: Vec<u8>,
    digest: Digest,
}

/// Text of bytes.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn mixed(bytes: &[u8]) -> u64 {
    Mixer::new().bytes(bytes).finish()
}

impl<W: Write> Rehearsal<W> {
    /// A rehearsal that begins.
    pub const fn new(transcript: W) -> Self {
        Self {
            transcript,
            step: 0,
            last_input: 0,
            answer: Vec::new(),
            parts: 0,
            snapshot: Vec::new(),
            digest: Digest(0),
        }
    }

    /// The next step: takes a part of an answer, and writes the next request to
    /// `request`. Returns its length in bytes; `None` when the script is over.
    pub fn play(&mut self, answer: &[u8], more: bool, request: &mut [u8]) -> Option<usize> {
        self.answer.put(answer);
        self.parts += 1;
        if more {
            return Some(0);
        }
        // Nobody is to be told that there is no transcript.
        let _ = self.note();
        self.answer.clear();
        self.parts = 0;
        self.step += 1;
        let bytes = self.request()?;
        request.get_mut(..bytes.len())?.copy_from_slice(&bytes);
        Some(bytes.len())
    }

    fn apply(&mut self, input: Input<'_>, out: &mut Vec<u8>) {
        self.last_input += 1;
        Command::Apply { no: InputNo(self.last_input), quarantined: false, input }.encode(out);
    }

    fn ask(&mut self, kind: MessageType, payload: &[u8], out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        frame(kind, self.last_input as u32, 0, payload, &mut bytes);
        self.apply(Input::Request { conn: ConnId(1), frame: &bytes }, out);
    }

    /// The request of this step.
    fn request(&mut self) -> Option<Vec<u8>> {
        let out = &mut Vec::new();
        let bulks = 2..2 + BULKS;
        let frozen = bulks.end;
        let parts = self.snapshot.len().div_ceil(PART_BYTES) as u64;
        match self.step {
            1 => {
                self.apply(Input::Boot, out);
                self.apply(Input::Open { conn: ConnId(1), domid: DomId(0) }, out);
                self.ask(MessageType::Watch, b"/a\0token\0", out);
                self.ask(MessageType::Write, b"/a/b\0value", out);
                self.ask(MessageType::Read, b"/a/b\0", out);
                self.ask(MessageType::Directory, b"/a\0", out);
                self.ask(MessageType::Read, b"/nothing\0", out);
                self.ask(MessageType::Unwatch, b"/a\0token\0", out);
                Command::State.encode(out);
            }
            step if bulks.contains(&step) => {
                for no in 0..BULK.0 {
                    let mut payload = alloc::format!("/bulk/{step}/{no}\0").into_bytes();
                    payload.resize(payload.len() + BULK.1, no as u8);
                    self.ask(MessageType::Write, &payload, out);
                }
            }
            step if step == frozen => {
                Command::Scrub { budget: 1 }.encode(out);
                Command::Scrub { budget: u64::MAX }.encode(out);
                Command::Freeze.encode(out);
                Command::EncodeSnapshot.encode(out);
            }
            step if step <= frozen + parts => {
                let from = (step - frozen - 1) as usize * PART_BYTES;
                let bytes = &self.snapshot[from..self.snapshot.len().min(from + PART_BYTES)];
                Command::RestorePart { bytes }.encode(out);
                if step == frozen + parts {
                    Command::RestoreEnd { digest: self.digest }.encode(out);
                }
            }
            step if step == frozen + parts + 1 => {
                self.ask(MessageType::Directory, b"/bulk\0", out);
                Command::FlipBit { seed: 3 }.encode(out);
                Command::Scrub { budget: u64::MAX }.encode(out);
            }
            step if step == frozen + parts + 2 => out.extend_from_slice(b"\xff garbage"),
            _ => return None,
        }
        Some(core::mem::take(out))
    }

    fn note(&mut self) -> fmt::Result {
        let Self { transcript, step, answer, parts, snapshot, digest, .. } = self;
        writeln!(transcript, "step {step}: {} bytes in {parts} parts", answer.len())?;
        let mut reader = Reader::new(answer);
        let mut outputs = 0_u64;
        while !reader.is_empty() {
            match Answer::decode(&mut reader) {
                Ok(Answer::Outputs { outputs: some, .. }) if answer.len() > 10_000 => {
                    outputs += some.len() as u64;
                }
                Ok(Answer::Outputs { applied, outputs }) => {
                    writeln!(transcript, "  applied {applied}")?;
                    for output in &outputs {
                        match output {
                            Output::Reply { input, conn, frame } => {
                                let payload = split(frame).map_or(&frame[..], |(_, it)| it);
                                writeln!(transcript, "  {input} to {conn}: {}", shown(payload))?;
                            }
                            Output::Event { no, conn, frame } => {
                                writeln!(transcript, "  event {no} to {conn}: {}", shown(frame))?;
                            }
                            Output::Effect { no, bytes } => {
                                writeln!(transcript, "  effect {no}: {}", shown(bytes))?;
                            }
                        }
                    }
                }
                Ok(Answer::State(state)) => {
                    *digest = state.digest;
                    writeln!(transcript, "  {state:?}")?;
                }
                Ok(Answer::Snapshot(bytes)) => {
                    let mixed = mixed(&bytes);
                    writeln!(transcript, "  snapshot of {} bytes {mixed:x}", bytes.len())?;
                    *snapshot = bytes;
                }
                Ok(other) => writeln!(transcript, "  {other:?}")?,
                Err(error) => return writeln!(transcript, "  no answer: {error}"),
            }
        }
        if outputs > 0 {
            writeln!(transcript, "  {outputs} outputs {:x}", mixed(answer))?;
        }
        Ok(())
    }
}
