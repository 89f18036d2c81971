//! Intsets: sets whose members are all numbers. Size of a member (2, 4 or 8), their count, and the members in
//! ascending order; everything in little endian.

use crate::error::Fault;
use crate::listpack::take;

/// The members of an intset.
pub(crate) fn members(bytes: &[u8]) -> Result<impl Iterator<Item = i64>, Fault> {
    let mut rest = bytes;
    let head = take::<4>(&mut rest).zip(take::<4>(&mut rest));
    let (size, count) = head.ok_or(Fault::Broken("an intset is too short"))?;
    let (size, count) = (u32::from_le_bytes(*size) as usize, u32::from_le_bytes(*count));
    if !matches!(size, 2 | 4 | 8) {
        return Err(Fault::Broken("an intset's members have an unknown size"));
    }
    if u64::from(count) * size as u64 != rest.len() as u64 {
        return Err(Fault::Broken("an intset's length is not its own"));
    }
    let members = move || {
        rest.chunks_exact(size).map(move |bytes| {
            let mut all = [0; 8];
            all[..size].copy_from_slice(bytes);
            let spare = 64 - 8 * size as u32;
            i64::from_le_bytes(all) << spare >> spare
        })
    };
    if !members().is_sorted_by(|a, b| a < b) {
        return Err(Fault::Broken("an intset is not in order"));
    }
    Ok(members())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Vec<i64>> {
        members(bytes).ok().map(Iterator::collect)
    }

    #[test]
    fn members_of_each_size() {
        assert_eq!(read(b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0"), Some(vec![-1, 5]));
        assert_eq!(
            read(b"\x04\0\0\0\x01\0\0\0\0\0\0\x80"),
            Some(vec![i32::MIN.into()])
        );
        assert_eq!(
            read(b"\x08\0\0\0\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f"),
            Some(vec![i64::MAX])
        );
    }

    #[test]
    fn broken_ones_are_refused() {
        for bad in [
            &b"\x02\0\0\0\x02\0\0\0\x05\0\xff\xff"[..],
            b"\x02\0\0\0\x02\0\0\0\x05\0\x05\0",
            b"\x02\0\0\0\x02\0\0\0\x05\0",
            b"\x02\0\0\0\x01\0\0\0\x05\0\x06\0",
            b"\x03\0\0\0\x01\0\0\0\x05\0\x06",
            b"\x02\0\0\0\xff\xff\xff",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
