//! What the store has the host do.

use alloc::vec::Vec;

use state_machine::{CodecError, DomId, Reader};

/// Something for the host to do. The store does not wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A domain was introduced, again perhaps, or is still introduced after the
    /// host started anew: connect to its ring.
    DomainIntroduced {
        /// The domain.
        domid: DomId,
        /// The guest frame of its ring page, as the toolstack gave it.
        gfn: u64,
        /// The domain's event channel port.
        evtchn: u32,
    },
    /// A domain was released or is gone: disconnect from its ring. The store
    /// has forgotten its connections already.
    DomainReleased {
        /// The domain.
        domid: DomId,
    },
    /// `CONTROL log`: whether requests are to be logged.
    Log {
        /// On or off.
        on: bool,
    },
    /// `CONTROL logfile`: where to log to. The host may decline.
    LogFile {
        /// The name as the operator gave it.
        name: Vec<u8>,
    },
    /// `CONTROL print`: a line for the host's log.
    Print {
        /// The text as the operator gave it.
        text: Vec<u8>,
    },
}

impl Effect {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::DomainIntroduced { domid, gfn, evtchn } => {
                out.push(0);
                out.extend_from_slice(&domid.0.to_le_bytes());
                out.extend_from_slice(&gfn.to_le_bytes());
                out.extend_from_slice(&evtchn.to_le_bytes());
            }
            Self::DomainReleased { domid } => {
                out.push(1);
                out.extend_from_slice(&domid.0.to_le_bytes());
            }
            Self::Log { on } => out.extend_from_slice(&[2, u8::from(*on)]),
            Self::LogFile { name } => {
                out.push(3);
                out.extend_from_slice(name);
            }
            Self::Print { text } => {
                out.push(4);
                out.extend_from_slice(text);
            }
        }
    }

    /// The effect that `bytes` encode.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let effect = match reader.u8()? {
            0 => Self::DomainIntroduced {
                domid: DomId(reader.u16()?),
                gfn: reader.u64()?,
                evtchn: reader.u32()?,
            },
            1 => Self::DomainReleased { domid: DomId(reader.u16()?) },
            2 => Self::Log { on: reader.u8()? != 0 },
            3 => return Ok(Self::LogFile { name: reader.rest().into() }),
            4 => return Ok(Self::Print { text: reader.rest().into() }),
            tag => return Err(CodecError::UnknownTag(tag)),
        };
        reader.finish()?;
        Ok(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for effect in [
            Effect::DomainIntroduced { domid: DomId(5), gfn: u64::MAX, evtchn: 7 },
            Effect::DomainReleased { domid: DomId(6) },
            Effect::Log { on: true },
            Effect::LogFile { name: b"/tmp/x".to_vec() },
            Effect::Print { text: Vec::new() },
        ] {
            let mut bytes = Vec::new();
            effect.encode(&mut bytes);
            assert_eq!(Effect::decode(&bytes), Ok(effect));
        }
        assert!(Effect::decode(b"").is_err() && Effect::decode(b"\x09").is_err());
        assert!(Effect::decode(b"\x01\x05\x00\x00").is_err());
    }
}
