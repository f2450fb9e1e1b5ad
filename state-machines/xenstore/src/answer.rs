//! The reply that is being put together.

use alloc::vec::Vec;

use crate::wire::{Errno, HEADER_LEN, Header, MAX_PAYLOAD, MessageType};

/// A reply frame under construction: room for the header, then the payload.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    frame: Vec<u8>,
}

impl Answer {
    /// Begins anew, keeping the memory.
    pub(crate) fn begin(&mut self) {
        self.frame.clear();
        self.frame.resize(HEADER_LEN, 0);
    }

    /// Appends to the payload.
    pub(crate) fn payload(&mut self) -> &mut Vec<u8> {
        &mut self.frame
    }

    /// What was appended so far.
    pub(crate) fn written(&self) -> &[u8] {
        &self.frame[HEADER_LEN..]
    }

    /// Makes the payload the plain acknowledgement.
    pub(crate) fn acknowledge(&mut self) {
        self.frame.truncate(HEADER_LEN);
        self.frame.extend_from_slice(b"OK\0");
    }

    /// Completes the frame as the answer to `request`. A payload that is too
    /// long becomes `E2BIG`.
    pub(crate) fn finish(&mut self, request: &Header, result: Result<(), Errno>) -> &[u8] {
        let result = match self.written().len() > MAX_PAYLOAD {
            true => result.and(Err(Errno::E2BIG)),
            false => result,
        };
        let kind = match result {
            Ok(()) => request.kind,
            Err(errno) => {
                self.frame.truncate(HEADER_LEN);
                self.frame.extend_from_slice(errno.name().as_bytes());
                self.frame.push(0);
                MessageType::Error.to_u32()
            }
        };
        let len = u32::try_from(self.written().len()).unwrap_or(0);
        let header = Header { kind, len, ..*request };
        self.frame[..HEADER_LEN].copy_from_slice(&header.encode());
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::split;

    #[test]
    fn answers_are_frames() {
        let request = Header { kind: 2, req_id: 5, tx_id: 6, len: 77 };
        let mut answer = Answer::default();
        answer.begin();
        answer.payload().extend_from_slice(b"value");
        let (header, payload) = split(answer.finish(&request, Ok(()))).expect("a frame");
        assert_eq!((header, payload), (Header { len: 5, ..request }, &b"value"[..]));
        answer.begin();
        answer.payload().resize(HEADER_LEN + MAX_PAYLOAD + 1, b'x');
        let (header, payload) = split(answer.finish(&request, Ok(()))).expect("a frame");
        assert_eq!((header.kind, header.req_id, payload), (16, 5, &b"E2BIG\0"[..]));
        answer.begin();
        answer.acknowledge();
        let whole = answer.finish(&request, Ok(()));
        assert_eq!(split(whole).expect("a frame").1, b"OK\0");
    }
}
