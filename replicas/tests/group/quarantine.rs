//! Queries that are quarantined.

use consensus::{LogIndex, MemoryStore, Peer, PeerConfig, PeerId};
use hypervisor::{Generation, ReplicaId};
use replica::core::{Link, Replica, Role};
use replica::executor::Local;
use replica::outbox::Watermarks;
use replica::protocol::{FromReplica, ToReplica};
use state_machine::{ConnId, Digest, Input, InputNo, Output};

use crate::machine::{Board, GET, PUT};
use crate::world::Desk;

const QUERY: InputNo = InputNo(1);
const COMMAND: InputNo = InputNo(2);

/// What was said to the host.
#[derive(Default)]
struct Ear(Vec<FromReplica>);

impl Link for Ear {
    fn to_host(&mut self, bytes: &[u8]) {
        self.0.push(FromReplica::decode(bytes).expect("a message").1);
    }

    fn to_peer(&mut self, _: ReplicaId, _: &[u8]) -> bool {
        true
    }

    fn show_digest(&mut self, _: LogIndex, _: Digest) {}
}

fn turn(replica: &mut Replica<Local<Board>>, ear: &mut Ear) {
    let marks = Watermarks::default();
    while replica.turn(&mut MemoryStore, marks, false, ear).expect("sound") {}
}

fn lead(
    replica: &mut Replica<Local<Board>>,
    generation: u64,
    quarantine: Vec<InputNo>,
    ear: &mut Ear,
) {
    let generation = Generation(generation);
    let isolate = ToReplica::Isolate { generation, certificate: 0, fenced: Vec::new() };
    for message in [isolate, ToReplica::Promote { generation, quarantine }] {
        replica.on_control(message).expect("it goes on");
        turn(replica, ear);
    }
    assert_eq!(replica.role(), Role::Primary);
}

/// A primary has answered a query that the host did not read, and logged a later
/// command; then the query kills others. It is not in the log, so it is not among
/// what was applied.
#[test]
fn a_query_is_refused_though_later_inputs_are_logged() {
    let peer = Peer::bootstrap(PeerConfig::new(PeerId(1)), &[PeerId(1)]).expect("sound");
    let mut replica = Replica::new(ReplicaId(1), peer, Local::new(Box::new(Desk::default())));
    let mut ear = Ear::default();
    let conn = ConnId(7);
    let query = Input::Request { conn, frame: &[GET, 1, 0] };
    lead(&mut replica, 1, Vec::new(), &mut ear);
    replica.on_inputs(&[(QUERY, query)], &mut ear).expect("sound");
    let command = Input::Request { conn: ConnId(8), frame: &[PUT, 1, 5] };
    replica.on_inputs(&[(COMMAND, command)], &mut ear).expect("sound");
    turn(&mut replica, &mut ear);
    replica.on_control(ToReplica::Drain).expect("it goes on");
    turn(&mut replica, &mut ear);
    assert_eq!(replica.role(), Role::Drained);

    lead(&mut replica, 2, vec![QUERY], &mut ear);
    ear.0.clear();
    let before = replica.progress();
    replica.on_inputs(&[(QUERY, query)], &mut ear).expect("sound");
    turn(&mut replica, &mut ear);
    let frame = Box::from(&b"quarantined"[..]);
    let answer = FromReplica::Output(Output::Reply { input: QUERY, conn, frame });
    assert_eq!(ear.0, [answer, FromReplica::Released(QUERY)]);
    assert_eq!(replica.progress(), before, "and is not logged");
}
