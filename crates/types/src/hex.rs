//! Hexadecimal, in lower case.

const fn pair(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

/// The digits of each byte.
static PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = pair(byte as u8);
        byte += 1;
    }
    pairs
};

/// The digits of `bytes`, two each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = vec![0; 2 * bytes.len()];
    hex_into(bytes, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// The same without allocating, into a place for twice as many digits as there are bytes.
pub fn hex_into(bytes: &[u8], out: &mut [u8]) {
    for (two, byte) in out.chunks_exact_mut(2).zip(bytes) {
        two.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
}

/// Reads what [`hex`] wrote, capitals too; `None` for another length or anything that is no digit.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).map(|digit| digit as u8);
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        assert_eq!(hex(&[0, 15, 160, 255]), "000fa0ff");
        assert_eq!(unhex("000fA0ff"), Some([0, 15, 160, 255]));
        for wrong in ["000fa0f", "000fa0fg", "+00fa0ff", "000fa0ff00", "é00fa0f"] {
            assert_eq!(unhex::<4>(wrong), None, "{wrong}");
        }
    }
}
