//! A script that shows whether the image does on some machine what the same code
//! does in a process.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use state_machine::executor::{Answer, Command, Sink, State};
use state_machine::{ConnId, DomId, Input, InputNo, Mixer, Numbered, Output, Reader};
use xenstore::Xenstore;
use xenstore::wire::{MessageType, frame, split};

/// Writes of a request that is to be large, and the bytes of each.
const BULK: (u64, usize) = (300, 3000);
/// Requests of that kind.
const BULKS: u64 = 4;
/// Parts of a snapshot that are asked for at once: too many for one part of an
/// answer, and not all there are.
const PARTS_AT_ONCE: usize = 6;
/// Bytes of a snapshot that go back in one request.
const PART_BYTES: usize = 900 * 1024;
/// Steps after which the script is over in any case: the last part of a snapshot
/// may never come.
const STEPS_MAX: u64 = 50;

/// Plays the monitor of an executor of [`xenstore::Xenstore`], and writes what it
/// sees: a line each answer, or one for many.
#[derive(Debug)]
pub struct Rehearsal<W> {
    transcript: W,
    step: u64,
    last_input: u64,
    answer: Vec<u8>,
    parts: u32,
    /// The state that was told of last.
    state: Option<State>,
    /// What is there of the machine's encoding.
    encoding: Vec<u8>,
    /// The whole snapshot, and the step that brought the last part of it.
    snapshot: Option<(Vec<u8>, u64)>,
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
            state: None,
            encoding: Vec::new(),
            snapshot: None,
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
            step if step == bulks.end => {
                Command::Scrub { budget: 1 }.encode(out);
                Command::Scrub { budget: u64::MAX }.encode(out);
                Command::Freeze.encode(out);
            }
            STEPS_MAX.. => return None,
            step => match &self.snapshot {
                None => {
                    // What is written between two parts is in neither.
                    self.ask(MessageType::Write, b"/later\0value", out);
                    (0..PARTS_AT_ONCE).for_each(|_| Command::EncodeSnapshot.encode(out));
                }
                Some((_, encoded)) => return self.request_after(step - encoded),
            },
        }
        Some(core::mem::take(out))
    }

    /// The request this many steps after the last part of the snapshot has come.
    fn request_after(&mut self, step: u64) -> Option<Vec<u8>> {
        let out = &mut Vec::new();
        let (snapshot, _) = self.snapshot.as_ref()?;
        let mut parts = snapshot.chunks(PART_BYTES);
        let after = step.checked_sub(parts.len() as u64);
        match after {
            None | Some(0) => {
                Command::RestorePart { bytes: parts.nth(step as usize - 1)? }.encode(out);
                if after.is_some() {
                    Command::RestoreEnd { digest: self.state?.digest }.encode(out);
                }
            }
            Some(1) => {
                self.ask(MessageType::Read, b"/later\0", out);
                self.ask(MessageType::Directory, b"/bulk\0", out);
                Command::FlipBit { seed: 3 }.encode(out);
                Command::Scrub { budget: u64::MAX }.encode(out);
            }
            Some(2) => out.extend_from_slice(b"\xff garbage"),
            Some(_) => return None,
        }
        Some(core::mem::take(out))
    }

    fn note(&mut self) -> fmt::Result {
        let Self { transcript, step, answer, parts, state, encoding, snapshot, .. } = self;
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
                Ok(Answer::State(told)) => {
                    *state = Some(told);
                    writeln!(transcript, "  {told:?}")?;
                }
                Ok(Answer::Snapshot { last, bytes }) => {
                    let mixed = mixed(&bytes);
                    let len = bytes.len();
                    writeln!(transcript, "  snapshot, last {last}: {len} bytes {mixed:x}")?;
                    encoding.extend_from_slice(&bytes);
                    if let (true, Some(state)) = (last, &state) {
                        let mut framed = Vec::new();
                        let State { last_input, last_output, .. } = *state;
                        Numbered::<Xenstore>::frame(last_input, last_output, encoding, &mut framed);
                        *snapshot = Some((framed, *step));
                    }
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
