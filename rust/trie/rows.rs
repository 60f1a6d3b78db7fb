//! Which rows are meant, in memory that what is at hand pays for: the number of rows that a file claims
//! may be four billion, and the file 384 bytes.

use crate::error::{Error, Result};
use crate::memory::{room, zeros};

/// Rows of a table of `n_rows`: a bit for each, or the few that are meant.
///
/// The rows 5 and 2 of 8, and of four billion:
///
/// ```text
/// Bits  0b00100100
/// List  2 5
/// ```
pub(crate) enum RowSet {
    Bits(Vec<u64>),
    List(Vec<u32>),
}

impl RowSet {
    /// Take the marks of all rows. O(N).
    pub(crate) fn of_marks(marks: &[bool]) -> Result<Self> {
        let word = |marks: &[bool]| {
            marks.iter().rev().fold(0, |bits, &mark| (bits << 1) | u64::from(mark))
        };
        let mut bits = room(marks.len().div_ceil(64))?;
        bits.extend(marks.chunks(64).map(word));
        Ok(Self::Bits(bits))
    }

    /// Take some of `n_rows` rows, in any order. `n_items` of a trie are looked for among them, which
    /// is to say how much memory is at hand. O(R log R) for R rows, or O(R + N).
    ///
    /// # Errors
    /// If a row is not below `n_rows`.
    pub(crate) fn of_rows(rows: &[i64], n_rows: usize, n_items: usize) -> Result<Self> {
        let fits = |row: i64| usize::try_from(row).is_ok_and(|row| row < n_rows);
        if let Some(&row) = rows.iter().find(|&&row| !fits(row)) {
            return Err(Error::RowRange { n_rows, row });
        }
        if n_rows / 64 > rows.len().saturating_add(n_items) {
            let mut list = room(rows.len())?;
            list.extend(rows.iter().map(|&row| row as u32));
            list.sort_unstable();
            return Ok(Self::List(list));
        }
        let mut bits = zeros(n_rows.div_ceil(64))?;
        for &row in rows {
            bits[row as usize / 64] |= 1_u64 << (row % 64);
        }
        Ok(Self::Bits(bits))
    }

    /// O(1), or O(log R).
    pub(crate) fn has(&self, row: u32) -> bool {
        match self {
            Self::Bits(bits) => {
                bits.get(row as usize / 64).is_some_and(|bits| bits >> (row % 64) & 1 == 1)
            }
            Self::List(rows) => rows.binary_search(&row).is_ok(),
        }
    }
}

/// Whether rows all differ and are below `n_rows`. O(N), or O(N log N) for few of many rows.
pub(crate) fn all_differ(
    mut rows: impl Iterator<Item = u32> + Clone,
    n_rows: usize,
) -> Result<bool> {
    let n = rows.clone().count();
    if rows.clone().any(|row| row as usize >= n_rows) {
        return Ok(false);
    }
    if n_rows / 64 > n {
        let mut list = room(n)?;
        list.extend(rows);
        list.sort_unstable();
        return Ok(list.windows(2).all(|pair| pair[0] < pair[1]));
    }
    let mut taken: Vec<u64> = zeros(n_rows.div_ceil(64))?;
    Ok(rows.all(|row| {
        let (word, bit) = (&mut taken[row as usize / 64], 1 << (row % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }))
}
