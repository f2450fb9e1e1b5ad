//! What must hold in every state, and what must be found in some.

use hypervisor::decision::{Phase, Standing};
use replica::core::Role;
use stateright::Property;

use crate::world::{State, World};

/// A rule that a step has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// A client got another answer, or event, than the inputs' order allows.
    Answer,
    /// A client got the same thing twice.
    Twice,
    /// An event never came.
    Gap,
    /// An input was freed that nobody had answered.
    Freed,
    /// Something of an older generation had an effect.
    OldGeneration,
    /// Somebody was promoted before all survivors had acknowledged.
    Hasty,
    /// Two replicas committed different entries at the same place.
    Committed,
    /// A commit index went back.
    CommitWentBack,
    /// A new primary lacks what was answered or committed.
    Lost,
    /// A replica had to stop though nothing was wrong with it.
    Fatal,
    /// The host gave up a group that could have gone on.
    GivenUp,
}

fn primaries(state: &State) -> impl Iterator<Item = (hypervisor::ReplicaId, u64)> + '_ {
    state.nodes.iter().filter_map(|(&id, node)| {
        let progress = node.local.progress;
        matches!(progress.role, Role::Primary | Role::Draining)
            .then_some((id, progress.generation.0))
    })
}

/// Whoever takes inputs is the one that the host listens to, in its generation.
fn one_primary(_: &World, state: &State) -> bool {
    let heard = state.maker.listens_to();
    primaries(state)
        .all(|(id, generation)| heard == Some(id) && generation == state.maker.generation().0)
}

/// Logs that agree on an entry's term agree on all up to it.
fn logs_match(_: &World, state: &State) -> bool {
    let logs: Vec<_> = state.nodes.values().map(|node| &node.local.log).collect();
    logs.iter().enumerate().all(|(place, one)| {
        logs[..place].iter().all(|other| {
            one.iter().zip(*other).all(|(a, b)| a.term != b.term || a.chain == b.chain)
        })
    })
}

/// Who has applied the same entries is in the same state.
fn states_agree(_: &World, state: &State) -> bool {
    let shown: Vec<_> = state
        .nodes
        .values()
        .filter_map(|node| {
            let (index, digest) = node.local.digest?;
            let place = usize::try_from(index.0).expect("small").checked_sub(1)?;
            Some((node.local.log.get(place)?.chain, digest))
        })
        .collect();
    shown
        .iter()
        .all(|(chain, digest)| shown.iter().all(|(other, seen)| chain != other || digest == seen))
}

/// When nothing is left to happen, everything is answered.
fn comes_to_rest(world: &World, state: &State) -> bool {
    if state.flaw.is_some() || !world.is_quiet(state) {
        return true;
    }
    match state.maker.phase() {
        Phase::Lost { .. } => true,
        // Untaken inputs are still to be taken.
        _ if world.is_at_rest(state) => world.takes(state).is_some() || state.ledger.is_done(),
        _ => state.beats < world.scope.beats,
    }
}

/// At rest, everybody alive has a vote, or is not wanted.
fn is_whole(world: &World, state: &State) -> bool {
    let is_calm = state.flaw.is_none() && world.is_quiet(state) && world.is_at_rest(state);
    !is_calm
        || !world.scope.rebuild
        || matches!(state.maker.phase(), Phase::Lost { .. })
        || state.maker.members().filter(|(_, _, s)| *s == Standing::Voter).count()
            == usize::from(world.scope.replicas)
}

macro_rules! never {
    ($name:expr, $flaw:ident) => {
        Property::always($name, |_: &World, state: &State| state.flaw != Some(Flaw::$flaw))
    };
}

pub(crate) const ONE_PRIMARY: &str = "at most one unfenced primary, and the host listens to it";
pub(crate) const AT_REST: &str = "all inputs are answered in the end";
pub(crate) const OLD_GENERATION: &str = "an older generation has no effect";
pub(crate) const TWICE: &str = "nothing is delivered twice";
pub(crate) const HASTY: &str = "promoted only when all survivors have acknowledged";
pub(crate) const FATAL: &str = "no sound replica has to stop";
/// To be found.
pub(crate) const ANSWERED_AFTER_LAST_DEATH: &str = "an input is answered after the last failure";
/// To be found.
pub(crate) const TAUGHT: &str = "a learner gets its vote";

pub(crate) fn properties(world: &World) -> Vec<Property<World>> {
    let mut all = vec![
        Property::always(ONE_PRIMARY, one_primary),
        Property::always("logs match", logs_match),
        Property::always("equal logs, equal states", states_agree),
        Property::always(AT_REST, comes_to_rest),
        Property::always("the group becomes whole", is_whole),
        never!("answers follow the order of inputs", Answer),
        never!(TWICE, Twice),
        never!("no event is missing", Gap),
        never!("only what is answered is freed", Freed),
        never!(OLD_GENERATION, OldGeneration),
        never!(HASTY, Hasty),
        never!("committed entries stay", Committed),
        never!("commit indexes only grow", CommitWentBack),
        never!("a new primary has all that was answered and committed", Lost),
        never!(FATAL, Fatal),
        never!("given up only what is lost", GivenUp),
    ];
    if world.survives() {
        all.push(Property::sometimes(ANSWERED_AFTER_LAST_DEATH, |world: &World, state: &State| {
            state.failures_left == 0
                && state
                    .answered_at_last_failure
                    .is_some_and(|before| before < state.ledger.answered())
                && state.flaw.is_none()
                && world.scope.failures > 0
        }));
    }
    if world.scope.rebuild {
        all.push(Property::sometimes(TAUGHT, |world: &World, state: &State| {
            let first = u64::from(world.scope.replicas);
            let mut members = state.maker.members();
            members.any(|(id, _, standing)| id.0 > first && standing == Standing::Voter)
        }));
    }
    all
}
