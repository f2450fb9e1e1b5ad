//! Reading the little-endian framing that inputs, outputs and snapshots share.

use alloc::string::String;

/// Bytes that are not what their frame promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the field does.
    #[error("truncated: {wanted} bytes wanted, {left} left")]
    Truncated {
        /// Bytes the field needs.
        wanted: usize,
        /// Bytes that remain.
        left: usize,
    },
    /// A tag that no variant has.
    #[error("unknown tag {0}")]
    UnknownTag(u8),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// Bytes remain after the last field.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
}

/// Takes fields off the front of a byte slice; never panics.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        if len > self.rest.len() {
            return Err(CodecError::Truncated { wanted: len, left: self.rest.len() });
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian 16-bit number.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian 32-bit number.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian 64-bit number.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes behind a 32-bit length.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when the length exceeds what is left.
    pub fn block(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()? as usize;
        self.bytes(len)
    }

    /// UTF-8 text behind a 32-bit length.
    ///
    /// # Errors
    /// As [`Self::block`], and [`CodecError::NotUtf8`].
    pub fn text(&mut self) -> Result<String, CodecError> {
        core::str::from_utf8(self.block()?).map(String::from).map_err(|_| CodecError::NotUtf8)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CodecError::TrailingBytes`] when something is left.
    pub fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(CodecError::TrailingBytes(left)),
        }
    }
}

/// Appends `bytes` behind a 32-bit length; the counterpart of [`Reader::block`].
pub(crate) fn put_block(out: &mut alloc::vec::Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("frames are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}
