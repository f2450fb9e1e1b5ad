//! The operations of the protocol.

pub(crate) mod control;
pub(crate) mod domains;
pub(crate) mod limits;
pub(crate) mod nodes;
pub(crate) mod transactions;
pub(crate) mod watches;

use crate::wire::Errno;

/// The only argument of a request: it ends in its only NUL.
///
/// # Errors
/// `EINVAL` for anything else.
pub(crate) fn one_string(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::EINVAL),
    }
}

/// The first argument, and what follows its NUL.
///
/// # Errors
/// `EINVAL` without a NUL.
pub(crate) fn first_string(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let nul = payload.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
    Ok((&payload[..nul], &payload[nul + 1..]))
}

/// The NUL-terminated arguments, up to `N` of them, and how many there are in
/// all. As in Xen's daemon, bytes after the last NUL count for nothing.
pub(crate) fn strings<const N: usize>(payload: &[u8]) -> ([&[u8]; N], usize) {
    let mut found = [&payload[..0]; N];
    let (mut count, mut rest) = (0, payload);
    while let Ok((text, more)) = first_string(rest) {
        if let Some(slot) = found.get_mut(count) {
            *slot = text;
        }
        count += 1;
        rest = more;
    }
    (found, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(one_string(b"a\0"), Ok(&b"a"[..]));
        assert_eq!(one_string(b"\0"), Ok(&b""[..]));
        for bad in [&b""[..], b"a", b"a\0b", b"a\0b\0"] {
            assert_eq!(one_string(bad), Err(Errno::EINVAL));
        }
        assert_eq!(first_string(b"a\0b"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(strings::<2>(b"a\0b\0c\0junk"), ([&b"a"[..], b"b"], 3));
        assert_eq!(strings::<2>(b"junk"), ([&b""[..], b""], 0));
    }
}
