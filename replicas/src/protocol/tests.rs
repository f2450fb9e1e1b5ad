use quickcheck::{Arbitrary, Gen, QuickCheck};
use state_machine::ConnId;

use super::*;

fn words(g: &mut Gen) -> Vec<u64> {
    Vec::arbitrary(g)
}

fn replicas(g: &mut Gen) -> Vec<ReplicaId> {
    words(g).into_iter().map(ReplicaId).collect()
}

impl Arbitrary for ToReplica {
    fn arbitrary(g: &mut Gen) -> Self {
        let id = ReplicaId(u64::arbitrary(g));
        let generation = Generation(u64::arbitrary(g));
        match u8::arbitrary(g) % 10 {
            0 => Self::Isolate { generation, certificate: u32::arbitrary(g), fenced: replicas(g) },
            1 => Self::Introduce { id, slot: SlotId::new(u8::arbitrary(g) % 8).expect("in range") },
            2 => {
                let quarantine = words(g).into_iter().map(InputNo).collect();
                Self::Promote { generation, quarantine }
            }
            3 => Self::Drain,
            4 => Self::AddLearner(id),
            5 => Self::AddVoter(id),
            6 => Self::Remove(id),
            7 => Self::Export { ticket: u64::arbitrary(g) },
            8 => Self::Slow { delay_us: u64::arbitrary(g) },
            _ => Self::Corrupt { seed: u64::arbitrary(g) },
        }
    }
}

impl Arbitrary for FromReplica {
    fn arbitrary(g: &mut Gen) -> Self {
        let word = u64::arbitrary(g);
        let bytes: Vec<u8> = Vec::arbitrary(g);
        match u8::arbitrary(g) % 9 {
            0 => Self::Output(Output::Effect { no: OutputNo(word), bytes: bytes.into() }),
            1 => Self::Output(Output::Reply {
                input: InputNo(word),
                conn: ConnId(u64::arbitrary(g)),
                frame: bytes.into(),
            }),
            2 => Self::Output(Output::Event {
                no: OutputNo(word),
                conn: ConnId(u64::arbitrary(g)),
                frame: bytes.into(),
            }),
            3 => Self::Released(InputNo(word)),
            4 => Self::Promoted {
                last_input: InputNo(word),
                last_output: OutputNo(u64::arbitrary(g)),
            },
            5 => Self::Drained,
            6 => Self::CaughtUp(ReplicaId(word)),
            7 => {
                Self::Membership { voters: replicas(g), learners: replicas(g), logged: replicas(g) }
            }
            _ => Self::Exported { ticket: word, snapshot: bytes },
        }
    }
}

#[test]
fn what_the_host_says_comes_back() {
    fn holds(message: ToReplica) -> bool {
        let bytes = message.encode();
        // Shorter, it makes no sense; it never makes another message either.
        (0..bytes.len()).all(|len| ToReplica::decode(&bytes[..len]).is_err())
            && ToReplica::decode(&[&bytes[..], &[0]].concat()).is_err()
            && ToReplica::decode(&bytes) == Ok(message)
    }
    QuickCheck::new().tests(1000).quickcheck(holds as fn(ToReplica) -> bool);
}

#[test]
fn what_a_replica_says_comes_back() {
    fn holds(message: FromReplica, generation: u64) -> bool {
        let generation = Generation(generation);
        let mut bytes = Vec::new();
        message.encode(generation, &mut bytes);
        if let FromReplica::Output(output) = &message {
            let mut same = Vec::new();
            FromReplica::encode_output(output, generation, &mut same);
            assert_eq!(bytes, same);
        }
        let ends_itself = !matches!(message, FromReplica::Exported { .. });
        let truncated = |len| FromReplica::decode(&bytes[..len]).is_err();
        (!ends_itself || (0..bytes.len()).all(truncated))
            && FromReplica::decode(&bytes) == Ok((generation, message))
    }
    QuickCheck::new().tests(1000).quickcheck(holds as fn(FromReplica, u64) -> bool);
}

/// A hostile replica can write anything, lengths of any size included.
#[test]
fn bytes_that_are_no_message_are_refused() {
    fn survives(mut bytes: Vec<u8>, tag: u8, at: usize, count: u64) -> bool {
        bytes.resize(bytes.len().max(40), 0);
        bytes[8] = tag % 8;
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        let _ = FromReplica::decode(&bytes);
        let _ = ToReplica::decode(&bytes[8..]);
        true
    }
    QuickCheck::new().tests(5000).quickcheck(survives as fn(Vec<u8>, u8, usize, u64) -> bool);
    let huge = [&[0; 8][..], &[5], &u64::MAX.to_le_bytes()].concat();
    assert!(FromReplica::decode(&huge).is_err());
    assert_eq!(ToReplica::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 8]), Err(CodecError::UnknownTag(8)));
}
