//! What host and replica tell each other, besides inputs.
//!
//! [`ToReplica`] travels in the control ring, [`FromReplica`] in the output
//! ring. The host trusts nothing that comes out of a replica: every message
//! bears the generation under which it was written, and the host drops what is
//! not of the generation in force.

use consensus::PeerId;
use hypervisor::{Generation, ReplicaId, SlotId};
use state_machine::{CodecError, InputNo, Output, OutputNo, Reader};

/// A message of the host to one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToReplica {
    /// This generation is in force, and these replicas are dead for ever. The
    /// replica reads nothing of them any more, then acknowledges the generation
    /// in its page.
    Isolate {
        /// The generation in force.
        generation: Generation,
        /// Number of this certificate of deaths; grows with every death.
        certificate: u32,
        /// All the dead that may still be members anywhere.
        fenced: Vec<ReplicaId>,
    },
    /// This replica is at that slot.
    Introduce {
        /// Which.
        id: ReplicaId,
        /// Where.
        slot: SlotId,
    },
    /// Become the primary.
    Promote {
        /// Of this generation.
        generation: Generation,
        /// Inputs to be answered with an error, unexecuted.
        quarantine: Vec<InputNo>,
    },
    /// Finish what was begun, take no more inputs, and say so.
    Drain,
    /// As primary: have the log add a learner.
    AddLearner(ReplicaId),
    /// As primary: have the log give a learner its vote.
    AddVoter(ReplicaId),
    /// As primary: have the log take a member out.
    Remove(ReplicaId),
    /// As primary: hand out a snapshot of the state.
    Export {
        /// Repeated in the answer.
        ticket: u64,
    },
    /// Fault injection: sleep this long in every turn of the loop, until told 0.
    Slow {
        /// How long, microseconds.
        delay_us: u64,
    },
    /// Fault injection: flip a bit of the state.
    Corrupt {
        /// Which bit.
        seed: u64,
    },
}

/// A message of a replica to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromReplica {
    /// An output of the component, for delivery.
    Output(Output),
    /// Every input up to this one is answered, and logged where it had to be.
    Released(InputNo),
    /// Leads, has finished the log, and takes inputs.
    Promoted {
        /// The last input that the finished log holds.
        last_input: InputNo,
        /// The last output that those inputs have yielded.
        last_output: OutputNo,
    },
    /// Has nothing in flight and takes no more inputs.
    Drained,
    /// This learner is close behind.
    CaughtUp(ReplicaId),
    /// The membership, as the primary sees it.
    Membership {
        /// Those that may carry on alone: their vote counts, they know it, and
        /// they have all that is committed. The dead left out.
        voters: Vec<ReplicaId>,
        /// The other members, the dead left out.
        learners: Vec<ReplicaId>,
        /// All voters in the log, the dead included.
        logged: Vec<ReplicaId>,
    },
    /// The snapshot that was asked for.
    Exported {
        /// As it was asked.
        ticket: u64,
        /// The component's own snapshot encoding.
        snapshot: Vec<u8>,
    },
}

fn put_ids(out: &mut Vec<u8>, ids: impl ExactSizeIterator<Item = u64>) {
    out.extend_from_slice(&(ids.len() as u64).to_le_bytes());
    for id in ids {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

fn take_ids<T>(reader: &mut Reader<'_>, wrap: fn(u64) -> T) -> Result<Vec<T>, CodecError> {
    let count = reader.u64()?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(wrap(reader.u64()?));
    }
    Ok(ids)
}

fn slot(index: u8) -> Result<SlotId, CodecError> {
    SlotId::new(index).ok_or(CodecError::UnknownTag(index))
}

fn put(out: &mut Vec<u8>, tag: u8, word: u64) {
    out.push(tag);
    out.extend_from_slice(&word.to_le_bytes());
}

impl ToReplica {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Isolate { generation, certificate, fenced } => {
                put(&mut out, 0, generation.0);
                out.extend_from_slice(&certificate.to_le_bytes());
                put_ids(&mut out, fenced.iter().map(|id| id.0));
            }
            Self::Introduce { id, slot } => {
                put(&mut out, 1, id.0);
                out.push(slot.get());
            }
            Self::Promote { generation, quarantine } => {
                put(&mut out, 2, generation.0);
                put_ids(&mut out, quarantine.iter().map(|no| no.0));
            }
            Self::Drain => out.push(3),
            Self::AddLearner(id) => put(&mut out, 4, id.0),
            Self::AddVoter(id) => put(&mut out, 5, id.0),
            Self::Remove(id) => put(&mut out, 6, id.0),
            Self::Export { ticket } => put(&mut out, 7, *ticket),
            Self::Slow { delay_us } => put(&mut out, 8, *delay_us),
            Self::Corrupt { seed } => put(&mut out, 9, *seed),
        }
        out
    }

    /// The message that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Self::Isolate {
                generation: Generation(reader.u64()?),
                certificate: reader.u32()?,
                fenced: take_ids(&mut reader, ReplicaId)?,
            },
            1 => Self::Introduce { id: ReplicaId(reader.u64()?), slot: slot(reader.u8()?)? },
            2 => Self::Promote {
                generation: Generation(reader.u64()?),
                quarantine: take_ids(&mut reader, InputNo)?,
            },
            3 => Self::Drain,
            4 => Self::AddLearner(ReplicaId(reader.u64()?)),
            5 => Self::AddVoter(ReplicaId(reader.u64()?)),
            6 => Self::Remove(ReplicaId(reader.u64()?)),
            7 => Self::Export { ticket: reader.u64()? },
            8 => Self::Slow { delay_us: reader.u64()? },
            9 => Self::Corrupt { seed: reader.u64()? },
            tag => return Err(CodecError::UnknownTag(tag)),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl FromReplica {
    /// Appends the message and the generation under which it is said.
    pub fn encode(&self, generation: Generation, out: &mut Vec<u8>) {
        out.extend_from_slice(&generation.0.to_le_bytes());
        match self {
            Self::Output(output) => {
                out.push(0);
                output.encode(out);
            }
            Self::Released(no) => put(out, 1, no.0),
            Self::Promoted { last_input, last_output } => {
                put(out, 2, last_input.0);
                out.extend_from_slice(&last_output.0.to_le_bytes());
            }
            Self::Drained => out.push(3),
            Self::CaughtUp(id) => put(out, 4, id.0),
            Self::Membership { voters, learners, logged } => {
                out.push(5);
                put_ids(out, logged.iter().map(|id| id.0));
                put_ids(out, voters.iter().map(|id| id.0));
                put_ids(out, learners.iter().map(|id| id.0));
            }
            Self::Exported { ticket, snapshot } => {
                put(out, 6, *ticket);
                out.extend_from_slice(snapshot);
            }
        }
    }

    /// Appends an output, without taking it.
    pub fn encode_output(output: &Output, generation: Generation, out: &mut Vec<u8>) {
        out.extend_from_slice(&generation.0.to_le_bytes());
        out.push(0);
        output.encode(out);
    }

    /// The message that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<(Generation, Self), CodecError> {
        let mut reader = Reader::new(bytes);
        let generation = Generation(reader.u64()?);
        let message = match reader.u8()? {
            0 => Self::Output(Output::decode(&mut reader)?),
            1 => Self::Released(InputNo(reader.u64()?)),
            2 => Self::Promoted {
                last_input: InputNo(reader.u64()?),
                last_output: OutputNo(reader.u64()?),
            },
            3 => Self::Drained,
            4 => Self::CaughtUp(ReplicaId(reader.u64()?)),
            5 => Self::Membership {
                logged: take_ids(&mut reader, ReplicaId)?,
                voters: take_ids(&mut reader, ReplicaId)?,
                learners: take_ids(&mut reader, ReplicaId)?,
            },
            6 => {
                let ticket = reader.u64()?;
                let snapshot = reader.rest().to_vec();
                return Ok((generation, Self::Exported { ticket, snapshot }));
            }
            tag => return Err(CodecError::UnknownTag(tag)),
        };
        reader.finish()?;
        Ok((generation, message))
    }
}

/// A replica is its group's peer of the same number.
#[must_use]
pub fn peer_id(id: ReplicaId) -> PeerId {
    PeerId(id.0)
}

/// The replica that a peer is.
#[must_use]
pub fn replica_id(id: PeerId) -> ReplicaId {
    ReplicaId(id.0)
}

#[cfg(test)]
mod tests;
