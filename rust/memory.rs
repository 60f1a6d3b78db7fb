//! Memory that may not be there: asked for in a way that can be refused, so that a call which needs
//! too much ends with an error, never with the process.

use std::hint::black_box;

use crate::error::{Error, Result};

/// From so many bytes on, zeros come from the system page by page, when they are touched.
const LARGE: usize = 1 << 20;

/// An empty vector with room for `n` entries. O(1).
pub(crate) fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let n_bytes = n.saturating_mul(size_of::<T>());
    values.try_reserve_exact(n).map_err(|_| Error::Memory { n_bytes })?;
    Ok(values)
}

/// `n` equal entries. O(n).
pub(crate) fn filled<T: Clone>(value: T, n: usize) -> Result<Vec<T>> {
    let mut values = room(n)?;
    values.resize(n, value);
    Ok(values)
}

/// `n` zeros. O(n).
pub(crate) fn zeros<T: Clone + Default>(n: usize) -> Result<Vec<T>> {
    if n.saturating_mul(size_of::<T>()) < LARGE {
        return filled(T::default(), n);
    }
    expect(n, size_of::<T>())?;
    Ok(vec![T::default(); n])
}

/// A copy. O(n).
pub(crate) fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = room(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// Check that so much can be had before it is asked for bit by bit. O(1).
pub(crate) fn expect(n: usize, bytes_each: usize) -> Result<()> {
    // The black box keeps the compiler from leaving out memory that nobody uses.
    black_box(room::<u8>(n.saturating_mul(bytes_each))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused() {
        let n_bytes = usize::MAX / 2;
        assert_eq!(expect(1, n_bytes), Err(Error::Memory { n_bytes }));
        assert_eq!(zeros::<bool>(n_bytes), Err(Error::Memory { n_bytes }));
        assert_eq!(filled(7_u8, n_bytes), Err(Error::Memory { n_bytes }));
        assert_eq!(room::<u64>(usize::MAX), Err(Error::Memory { n_bytes: usize::MAX }));
    }

    #[test]
    fn what_can_be_had_is_had() -> Result<()> {
        assert_eq!(zeros::<u32>(3)?, [0; 3]);
        assert_eq!(zeros::<u8>(LARGE)?, vec![0; LARGE]);
        assert_eq!(filled(-1_i64, 2)?, [-1; 2]);
        Ok(())
    }
}
