//! Messages between peers: framing, and the checks that a message must pass
//! before raft sees it. Raft trusts its messages and panics on some that make no
//! sense; a peer does not trust the process at the other end.

use prost_raft::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

use crate::{FenceEpoch, Members, PeerId, Term};

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The bytes are no message.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The message contradicts itself or what this peer knows for certain.
    #[error("nonsensical {kind} message: {what}")]
    Nonsense {
        /// The kind of the message.
        kind: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The sender was certified dead.
    #[error("message from {0}, which was certified dead")]
    Fenced(PeerId),
    /// The sender is no member, and only members may send this.
    #[error("message from {0}, which is no member")]
    NotMember(PeerId),
    /// The sender knows a certificate that this peer has not been told about.
    #[error("term {0} belongs to a later fence epoch than this peer knows")]
    LaterEpoch(Term),
    /// The sender stands for election without knowing the latest certificate.
    #[error("election in term {0}, which belongs to an earlier fence epoch")]
    EarlierEpoch(Term),
}

/// First byte of a frame: a message alone.
const PLAIN: u8 = 0;
/// First byte of a frame: a 32-bit length, a message of that length, and the
/// state of the snapshot that it announces.
const WITH_SNAPSHOT: u8 = 1;

/// No index or term of a real group comes near this. Keeps sums from wrapping.
const MAX_INDEX: u64 = 1 << 60;

/// Encodes `message`, with the state of the snapshot in it, into `out`, which is
/// cleared first.
pub(crate) fn encode(message: &Message, snapshot: Option<&[u8]>, out: &mut Vec<u8>) {
    out.clear();
    match snapshot {
        None => {
            out.push(PLAIN);
            message.encode_raw(out);
        }
        Some(state) => {
            out.push(WITH_SNAPSHOT);
            out.extend_from_slice(&(message.encoded_len() as u32).to_le_bytes());
            message.encode_raw(out);
            out.extend_from_slice(state);
        }
    }
}

/// Decodes a frame.
pub(crate) fn decode(frame: &[u8]) -> Result<Message, StepError> {
    let parse = |bytes: &[u8]| Message::decode(bytes).map_err(|_| StepError::Malformed("encoding"));
    match frame.split_first() {
        Some((&PLAIN, rest)) => {
            let message = parse(rest)?;
            if message.snapshot.is_some() {
                return Err(StepError::Malformed("snapshot in a plain frame"));
            }
            Ok(message)
        }
        Some((&WITH_SNAPSHOT, rest)) => {
            let (len, rest) = rest.split_first_chunk().ok_or(StepError::Malformed("truncated"))?;
            let len = u32::from_le_bytes(*len) as usize;
            let (head, state) =
                rest.split_at_checked(len).ok_or(StepError::Malformed("truncated"))?;
            let mut message = parse(head)?;
            match &mut message.snapshot {
                Some(snapshot) if snapshot.data.is_empty() => snapshot.data = state.to_vec(),
                _ => return Err(StepError::Malformed("no snapshot in a snapshot frame")),
            }
            Ok(message)
        }
        _ => Err(StepError::Malformed("unknown frame")),
    }
}

/// What a message is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) id: PeerId,
    pub(crate) epoch: FenceEpoch,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
}

/// The kind of a message that peers send to each other, with its name; `None`
/// for raft's local messages and those that this crate never sends.
fn kind_of(message: &Message) -> Option<(MessageType, &'static str)> {
    let kind = MessageType::from_i32(message.msg_type)?;
    let name = match kind {
        MessageType::MsgAppend => "append",
        MessageType::MsgAppendResponse => "append response",
        MessageType::MsgRequestVote => "vote",
        MessageType::MsgRequestVoteResponse => "vote response",
        MessageType::MsgRequestPreVote => "pre-vote",
        MessageType::MsgRequestPreVoteResponse => "pre-vote response",
        MessageType::MsgHeartbeat => "heartbeat",
        MessageType::MsgHeartbeatResponse => "heartbeat response",
        MessageType::MsgSnapshot => "snapshot",
        _ => return None,
    };
    Some((kind, name))
}

/// Refuses what would make raft panic, or lose its footing.
pub(crate) fn check(message: &Message, from: PeerId, to: Receiver) -> Result<(), StepError> {
    let Some((kind, name)) = kind_of(message) else {
        return Err(StepError::Malformed("kind"));
    };
    let ensure = |sound: bool, what: &'static str| {
        if sound { Ok(()) } else { Err(StepError::Nonsense { kind: name, what }) }
    };
    ensure(message.from == from.0, "it names another sender")?;
    ensure(message.to == to.id.0, "it names another receiver")?;
    // Term 0 is raft's mark of a local message.
    ensure(message.term > 0, "its term is 0")?;
    let numbers = [message.index, message.commit, message.reject_hint];
    ensure(numbers.iter().all(|&number| number < MAX_INDEX), "an index is out of range")?;
    ensure(message.request_snapshot == 0, "it requests a snapshot")?;
    ensure(message.priority == 0 && message.deprecated_priority == 0, "it has a priority")?;
    ensure(message.entries.is_empty() || kind == MessageType::MsgAppend, "it has entries")?;
    ensure(
        message.snapshot.is_some() == (kind == MessageType::MsgSnapshot),
        "its snapshot is out of place",
    )?;

    let epoch = FenceEpoch::of_term(message.term);
    if epoch > to.epoch {
        return Err(StepError::LaterEpoch(Term(message.term)));
    }
    let is_election = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
    if is_election && epoch < to.epoch {
        return Err(StepError::EarlierEpoch(Term(message.term)));
    }

    match kind {
        MessageType::MsgAppend => {
            // Raft takes term 0 for a match at any index beyond its log's end.
            let is_anchored = (message.index == 0) == (message.log_term == 0);
            ensure(is_anchored, "it hangs in the air")?;
            ensure(message.log_term <= message.term, "the term before is later")?;
            let (mut index, mut term) = (message.index, message.log_term);
            for entry in &message.entries {
                index += 1;
                ensure(entry.index == index, "its entries have gaps")?;
                ensure(term <= entry.term && entry.term > 0, "its terms decrease")?;
                ensure(EntryType::from_i32(entry.entry_type).is_some(), "unknown kind of entry")?;
                term = entry.term;
            }
            ensure(term <= message.term, "an entry is of a later term")
        }
        // Raft ignores what belongs to an earlier term, and the log may have been
        // cut since.
        _ if message.term < to.term => Ok(()),
        // Followers acknowledge, and leaders commit, nothing they do not know
        // the receiver to have.
        MessageType::MsgAppendResponse => {
            ensure(message.commit <= to.last_index, "it commits what is not there")?;
            ensure(
                message.reject || message.index <= to.last_index,
                "it acknowledges what is not there",
            )
        }
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            ensure(message.commit <= to.last_index, "it commits what is not there")
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let place = metadata.index > 0 && metadata.index < MAX_INDEX;
            ensure(place && metadata.term > 0, "it has no place in the log")?;
            ensure(metadata.term <= message.term, "it is of a later term")?;
            let members = Members::from_conf_state(metadata.get_conf_state());
            ensure(members.is_some_and(|members| members.contains(to.id)), "its members")
        }
        _ => Ok(()),
    }
}
