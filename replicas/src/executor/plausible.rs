//! What can be told from the outside of what an executor says.
//!
//! Damage to memory may make a wrong answer of a right one, before it is found by
//! whoever looks at the memory. What the damage has hit is often what all answers
//! have in common: numbers, addresses, headers. So these are checked where outputs
//! leave the executor, and a replica whose executor says what cannot be says nothing
//! more.

use state_machine::{ConnId, InputNo, Output, OutputNo, StateMachine};

use super::{Results, Task, Treatment};

/// What an executor said of an input cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("implausible: input {input} {what}")]
pub struct Implausible {
    /// The input.
    pub input: InputNo,
    what: &'static str,
}

impl Implausible {
    pub(super) const fn of(input: InputNo, what: &'static str) -> Self {
        Self { input, what }
    }
}

/// The last input that was applied, and the last output that got a number.
type Numbers = (InputNo, OutputNo);

impl Results {
    /// Checks what was said of `tasks` by who stood at `before` and stands at `after`.
    ///
    /// # Errors
    /// [`Implausible`]: the first thing that cannot be.
    pub(crate) fn check<M: StateMachine>(
        &self,
        tasks: &[Task<'_>],
        before: Numbers,
        after: Numbers,
    ) -> Result<(), Implausible> {
        let (mut last_input, mut last_output) = before;
        let mut begin = 0;
        for (task, &(applied, end)) in tasks.iter().zip(&self.each) {
            let says = |what| Err(Implausible::of(task.no, what));
            let (outputs, mut replies) = (&self.outputs[begin..end], 0);
            begin = end;
            let is_new = match task.treatment {
                Treatment::Apply | Treatment::Quarantine => task.no > last_input,
                Treatment::Query | Treatment::Refuse => false,
            };
            match (applied, is_new) {
                (true, true) => last_input = task.no,
                (true, false) => return says("was applied again, or without need"),
                (false, true) => return says("was not applied"),
                (false, false) => {}
            }
            for output in outputs {
                match output {
                    Output::Reply { input, conn, frame } => {
                        replies += 1;
                        if *input != task.no {
                            return says("has the answer to another input");
                        }
                        if *conn != task.input.conn().unwrap_or(ConnId::HOST) {
                            return says("is answered to another connection");
                        }
                        if !M::can_answer(&task.input, frame) {
                            return says("has an answer that does not fit");
                        }
                    }
                    Output::Event { no, frame, .. } => {
                        if *no != last_output.next() {
                            return says("has an event out of order");
                        }
                        last_output = *no;
                        if !M::can_be_event(frame) {
                            return says("has an event that is none");
                        }
                    }
                    Output::Effect { no, .. } => {
                        if *no != last_output.next() {
                            return says("has an effect out of order");
                        }
                        last_output = *no;
                    }
                }
            }
            let asks = matches!(task.treatment, Treatment::Query | Treatment::Refuse);
            if replies > 1 || (asks && outputs.len() != 1) {
                return says("is not answered once");
            }
            if !applied && !asks && !outputs.is_empty() {
                return says("has outputs of before");
            }
        }
        match tasks.last() {
            Some(task) if (last_input, last_output) != after => {
                Err(Implausible::of(task.no, "was followed by other numbers"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use state_machine::Input;
    use xenstore::Xenstore;
    use xenstore::wire::{MessageType, frame};

    use super::*;

    const CONN: ConnId = ConnId(5);

    fn bytes(kind: MessageType, req_id: u32, tx_id: u32) -> Box<[u8]> {
        let mut bytes = Vec::new();
        frame(kind, req_id, tx_id, b"a\0", &mut bytes);
        bytes.into()
    }

    fn reply(input: u64, conn: ConnId, kind: MessageType, req_id: u32, tx_id: u32) -> Output {
        Output::Reply { input: InputNo(input), conn, frame: bytes(kind, req_id, tx_id) }
    }

    fn event(no: u64, kind: MessageType) -> Output {
        Output::Event { no: OutputNo(no), conn: CONN, frame: bytes(kind, 0, 0) }
    }

    /// What is said of a write, input 8 of request 3 in transaction 0, by one who
    /// stood at input 7 and output 20.
    fn of_a_write(
        applied: bool,
        outputs: Vec<Output>,
        after: (u64, u64),
    ) -> Result<(), &'static str> {
        said(Treatment::Apply, MessageType::Write, applied, outputs, after)
    }

    fn of_a_read(outputs: Vec<Output>) -> Result<(), &'static str> {
        said(Treatment::Query, MessageType::Read, false, outputs, (7, 20))
    }

    fn said(
        treatment: Treatment,
        kind: MessageType,
        applied: bool,
        outputs: Vec<Output>,
        after: (u64, u64),
    ) -> Result<(), &'static str> {
        let request = bytes(kind, 3, 0);
        let input = Input::Request { conn: CONN, frame: &request };
        let task = Task { no: InputNo(8), input, treatment };
        let each = vec![(applied, outputs.len())];
        let results = Results { outputs, each };
        let (input, output) = after;
        let before = (InputNo(7), OutputNo(20));
        let checked =
            results.check::<Xenstore>(&[task], before, (InputNo(input), OutputNo(output)));
        checked.map_err(|implausible| implausible.what)
    }

    #[test]
    fn what_can_be_passes() {
        use MessageType::{Error, Read, WatchEvent, Write};
        let events =
            vec![reply(8, CONN, Write, 3, 0), event(21, WatchEvent), event(22, WatchEvent)];
        assert_eq!(of_a_write(true, events, (8, 22)), Ok(()));
        assert_eq!(of_a_write(true, vec![reply(8, CONN, Error, 3, 0)], (8, 20)), Ok(()));
        assert_eq!(of_a_read(vec![reply(8, CONN, Read, 3, 0)]), Ok(()));
    }

    #[test]
    fn what_cannot_be_does_not() {
        use MessageType::{Read, WatchEvent, Write};
        let good = || reply(8, CONN, Write, 3, 0);
        let write = |outputs, after, what| assert_eq!(of_a_write(true, outputs, after), Err(what));
        write(vec![reply(9, CONN, Write, 3, 0)], (8, 20), "has the answer to another input");
        let elsewhere = reply(8, ConnId(6), Write, 3, 0);
        write(vec![elsewhere], (8, 20), "is answered to another connection");
        for (kind, req_id, tx_id) in [(Write, 2, 0), (Write, 3, 1), (Read, 3, 0)] {
            let unfit = reply(8, CONN, kind, req_id, tx_id);
            write(vec![unfit], (8, 20), "has an answer that does not fit");
        }
        write(vec![good(), good()], (8, 20), "is not answered once");
        write(vec![good(), event(22, WatchEvent)], (8, 22), "has an event out of order");
        write(vec![good(), event(21, Write)], (8, 21), "has an event that is none");
        let effect = Output::Effect { no: OutputNo(20), bytes: Box::default() };
        write(vec![good(), effect], (8, 20), "has an effect out of order");
        write(vec![good()], (9, 20), "was followed by other numbers");
        write(vec![good()], (8, 21), "was followed by other numbers");
        assert_eq!(of_a_write(false, vec![], (7, 20)), Err("was not applied"));
        assert_eq!(of_a_read(vec![]), Err("is not answered once"));
        let applied = said(Treatment::Query, Read, true, vec![], (8, 20));
        assert_eq!(applied, Err("was applied again, or without need"));
    }
}
