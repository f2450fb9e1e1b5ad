//! Requests in, answers out, for ever.

use alloc::vec::Vec;

use guest::Exchange;
use state_machine::StateMachine;
use state_machine::executor::{Executor, Sink};

/// What answers requests.
pub trait Handler {
    /// Answers `request`, in as many pieces as it likes.
    fn handle(&mut self, request: &[u8], answer: &mut dyn Sink);
}

impl<M: StateMachine> Handler for Executor<M> {
    fn handle(&mut self, request: &[u8], answer: &mut dyn Sink) {
        self.execute(request, answer);
    }
}

/// Hands an answer over, a part whenever there is no more room.
struct Parts<'a, E> {
    exchange: &'a mut E,
    len: usize,
    is_over: bool,
}

impl<E: Exchange> Sink for Parts<'_, E> {
    fn begin(&mut self, command: u64) {
        self.exchange.note_command(command);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_over {
            let room = &mut self.exchange.answer()[self.len..];
            let fits = bytes.len().min(room.len());
            room[..fits].copy_from_slice(&bytes[..fits]);
            self.len += fits;
            bytes = &bytes[fits..];
            if !bytes.is_empty() {
                self.is_over = self.exchange.hand_over(self.len, true).is_break();
                self.len = 0;
            }
        }
    }
}

/// Answers the requests of an exchange until nobody comes back with one. Begins
/// with an empty answer to no request: the sign that the program is there. An empty
/// request gets an empty answer from a handler that has nothing to say to it.
pub fn serve(exchange: &mut impl Exchange, handler: &mut impl Handler) {
    let mut request = Vec::new();
    let mut len = 0;
    while exchange.hand_over(len, false).is_continue() {
        request.clear();
        request.extend_from_slice(exchange.request());
        let mut parts = Parts { exchange: &mut *exchange, len: 0, is_over: false };
        handler.handle(&request, &mut parts);
        if parts.is_over {
            return;
        }
        len = parts.len;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::ops::ControlFlow;

    use quickcheck::QuickCheck;

    use super::*;

    /// A monitor with requests to make, and small room for answers.
    struct Monitor {
        requests: Vec<Vec<u8>>,
        request: Vec<u8>,
        room: Vec<u8>,
        /// Answers, with the lengths of their parts.
        answers: Vec<(Vec<u8>, Vec<usize>)>,
        is_within: bool,
        /// Commands that were noted, each with the answers that were there by then.
        noted: Vec<(u64, usize)>,
        /// Leaves after so many calls.
        patience: usize,
    }

    impl Monitor {
        fn new(requests: &[Vec<u8>], room: usize) -> Self {
            Self {
                requests: requests.iter().rev().cloned().collect(),
                request: vec![],
                room: vec![0; room],
                answers: vec![],
                is_within: false,
                noted: vec![],
                patience: usize::MAX,
            }
        }
    }

    impl Exchange for Monitor {
        fn request(&self) -> &[u8] {
            assert!(!self.is_within, "a request is there once its answer is whole");
            &self.request
        }

        fn answer(&mut self) -> &mut [u8] {
            &mut self.room
        }

        fn note_command(&mut self, command: u64) {
            self.noted.push((command, self.answers.len()));
        }

        fn hand_over(&mut self, len_bytes: usize, more: bool) -> ControlFlow<()> {
            if !self.is_within {
                self.answers.push((vec![], vec![]));
            }
            let (answer, parts) = self.answers.last_mut().unwrap();
            answer.extend_from_slice(&self.room[..len_bytes]);
            parts.push(len_bytes);
            self.is_within = more;
            self.patience -= 1;
            if self.patience == 0 {
                return ControlFlow::Break(());
            }
            if !more {
                match self.requests.pop() {
                    Some(request) => self.request = request,
                    None => return ControlFlow::Break(()),
                }
            }
            ControlFlow::Continue(())
        }
    }

    /// Says everything twice, in odd pieces, each of which is a command to it.
    struct Echo;

    impl Handler for Echo {
        fn handle(&mut self, request: &[u8], answer: &mut dyn Sink) {
            answer.put(request);
            for (index, piece) in (0..).zip(request.chunks(3)) {
                answer.begin(index);
                answer.put(piece);
            }
        }
    }

    #[test]
    fn commands_are_noted_before_they_are_answered() {
        let requests = [b"abcdefg".to_vec(), vec![], b"h".to_vec()];
        let mut monitor = Monitor::new(&requests, 100);
        serve(&mut monitor, &mut Echo);
        // One answer says that the program is there.
        assert_eq!(monitor.noted, [(0, 1), (1, 1), (2, 1), (0, 3)]);
    }

    #[test]
    fn it_is_ready_and_then_answers() {
        let mut monitor = Monitor::new(&[b"ab".to_vec(), vec![], b"c".to_vec()], 100);
        serve(&mut monitor, &mut Echo);
        let wanted = [&b""[..], b"abab", b"", b"cc"].map(|text| (text.to_vec(), vec![text.len()]));
        assert_eq!(monitor.answers, wanted);
    }

    #[test]
    fn an_answer_that_does_not_fit_goes_in_full_parts() {
        let mut monitor = Monitor::new(&[b"abcdefgh".to_vec(), b"ij".to_vec()], 4);
        serve(&mut monitor, &mut Echo);
        let whole = (b"abcdefghabcdefgh".to_vec(), vec![4, 4, 4, 4]);
        assert_eq!(monitor.answers[1..], [whole, (b"ijij".to_vec(), vec![4])]);
    }

    #[test]
    fn it_ends_when_nobody_comes_back_even_within_an_answer() {
        for patience in 1..8 {
            let mut monitor = Monitor::new(&[b"abcdefgh".to_vec(), b"ij".to_vec()], 4);
            monitor.patience = patience;
            serve(&mut monitor, &mut Echo);
            let calls: usize = monitor.answers.iter().map(|(_, parts)| parts.len()).sum();
            assert_eq!(calls, patience.min(6));
        }
    }

    #[test]
    fn answers_are_whole_whatever_the_room() {
        fn property(requests: Vec<Vec<u8>>, room: u8) -> bool {
            let mut monitor = Monitor::new(&requests, usize::from(room) + 1);
            serve(&mut monitor, &mut Echo);
            let answers = monitor.answers[1..].iter().map(|(answer, _)| answer.clone());
            answers.eq(requests.iter().map(|request| [&request[..], request].concat()))
        }
        QuickCheck::new().quickcheck(property as fn(Vec<Vec<u8>>, u8) -> bool);
    }
}
