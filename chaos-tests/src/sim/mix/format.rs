//! A recording as bytes: numbers of variable length, little groups first.

use super::{Mix, Said, TxOf};

const MAGIC: &[u8; 8] = b"rvmmmix1";

/// Bytes that are no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// They begin otherwise.
    #[error("not a recording")]
    Magic,
    /// They end too early, or a number is too long.
    #[error("a damaged recording, at byte {0}")]
    Damaged(usize),
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn encode(mix: &Mix) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, mix.name().as_bytes());
    put(&mut out, mix.talks().len() as u64);
    for talk in mix.talks() {
        put(&mut out, talk.len() as u64);
        for said in talk {
            put(&mut out, said.pause_us.into());
            put(&mut out, said.due.into());
            put(&mut out, said.kind.into());
            let (tag, number) = match said.tx {
                TxOf::None => (0, 0),
                TxOf::Start(number) => (1, number),
                TxOf::Raw(id) => (2, id),
            };
            put(&mut out, tag);
            if tag != 0 {
                put(&mut out, number.into());
            }
            put_bytes(&mut out, &said.payload);
        }
    }
    out
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, MixError> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(MixError::Damaged(self.at))?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(MixError::Damaged(self.at))
    }

    fn small(&mut self) -> Result<u32, MixError> {
        let at = self.at;
        u32::try_from(self.number()?).map_err(|_| MixError::Damaged(at))
    }

    fn bytes(&mut self) -> Result<&'a [u8], MixError> {
        let at = self.at;
        let len = usize::try_from(self.number()?).map_err(|_| MixError::Damaged(at))?;
        let end = self.at.checked_add(len).ok_or(MixError::Damaged(at))?;
        let bytes = self.bytes.get(self.at..end).ok_or(MixError::Damaged(at))?;
        self.at = end;
        Ok(bytes)
    }

    fn said(&mut self) -> Result<Said, MixError> {
        let (pause_us, due, kind) = (self.small()?, self.small()?, self.small()?);
        let at = self.at;
        let tx = match self.number()? {
            0 => TxOf::None,
            1 => TxOf::Start(self.small()?),
            2 => TxOf::Raw(self.small()?),
            _ => return Err(MixError::Damaged(at)),
        };
        Ok(Said { pause_us, due, kind, tx, payload: self.bytes()?.to_vec() })
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Mix, MixError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(MixError::Magic)?;
    let mut reader = Reader { bytes, at: 0 };
    let name = String::from_utf8_lossy(reader.bytes()?).into_owned();
    let mut talks = Vec::new();
    for _ in 0..reader.number()? {
        let mut talk = Vec::new();
        for _ in 0..reader.number()? {
            talk.push(reader.said()?);
        }
        talks.push(talk);
    }
    if reader.at != bytes.len() {
        return Err(MixError::Damaged(reader.at));
    }
    Ok(Mix::new(&name, talks))
}
