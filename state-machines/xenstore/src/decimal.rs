//! Numbers as the protocol writes and reads them.

use alloc::vec::Vec;

use state_machine::DomId;

use crate::wire::Errno;

/// Appends `number` in decimal.
pub(crate) fn put(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// What C's `atoi` makes of `text`: an optional sign and the digits that
/// follow, 0 if there are none.
pub(crate) fn atoi(text: &[u8]) -> i32 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let mut number: i64 = 0;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        number = number.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    }
    // `atoi` is `strtol` cut to 32 bits.
    (if negative { number.wrapping_neg() } else { number }) as i32
}

/// A whole number and nothing else.
///
/// # Errors
/// `EINVAL` for anything else and for numbers above `max`.
pub(crate) fn number(text: &[u8], max: u32) -> Result<u32, Errno> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Errno::EINVAL);
    }
    let number = text.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    u32::try_from(number).ok().filter(|number| *number <= max).ok_or(Errno::EINVAL)
}

/// A domain id. Unlike C 4.17, which takes garbage for 0, and like its
/// successors, garbage is refused.
///
/// # Errors
/// `EINVAL`.
pub(crate) fn domid(text: &[u8]) -> Result<DomId, Errno> {
    let number = number(text, u32::from(u16::MAX))?;
    Ok(DomId(u16::try_from(number).map_err(|_| Errno::EINVAL)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let mut out = Vec::new();
        for number in [0, 7, 10, 65535, u64::MAX] {
            out.clear();
            put(number, &mut out);
            assert_eq!(out, alloc::format!("{number}").into_bytes());
        }
        assert_eq!((atoi(b" 12x"), atoi(b"-3"), atoi(b"x"), atoi(b"")), (12, -3, 0, 0));
        assert_eq!(atoi(b"99999999999999999999"), -1);
        assert_eq!(domid(b"65535"), Ok(DomId(65535)));
        for bad in [&b""[..], b"65536", b"-1", b"1x", b"99999999999"] {
            assert_eq!(domid(bad), Err(Errno::EINVAL));
        }
    }
}
