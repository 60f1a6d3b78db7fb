//! A trie as bytes: little-endian, versioned, and checked so that what is read is a trie or an error.
//!
//! The trie drawn at `CodeTrie`, with its three items and K = (2, 3):
//!
//! ```text
//! bytes        content
//! 0..7         "MQLTRIE"
//! 7            version, 1
//! 8..16        L = 2
//! 16..24       n_rows = 3
//! 24..40       n_codes = 2 3           L numbers
//! 40..72       levels = 0 1 3 6        L + 2 numbers; they tell how long the arrays are
//! 72..88       offsets = 0 2 3 5       32 bits each
//! 88..98       codes = 0 1 2 0 2       16 bits each
//! 98..110      rows = 1 2 0            32 bits each
//! 110..118     checksum of all before  FNV-1a
//! ```
//!
//! Numbers are of 64 bits where nothing else is said.

use crate::codes::{CodeSpace, MAX_LEVELS, MIN_LEVELS};
use crate::error::{Error, Result};
use crate::trie::CodeTrie;

const MAGIC: &[u8; 7] = b"MQLTRIE";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

impl CodeTrie {
    /// Write the trie as bytes. O(N L).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        let mut number = |number: u64| bytes.extend(number.to_le_bytes());
        number(self.n_levels() as u64);
        number(u64::from(self.n_rows));
        self.n_codes().iter().for_each(|&k| number(k as u64));
        self.levels.iter().for_each(|&start| number(u64::from(start)));
        bytes.extend(self.offsets.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.codes.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.rows.iter().flat_map(|value| value.to_le_bytes()));
        seal(bytes)
    }

    /// Read a trie from bytes. O(N L).
    ///
    /// # Errors
    /// If the bytes are no trie, of another version, of a wrong length, changed, or contradictory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Some((magic, &[version, ..])) = bytes.split_at_checked(MAGIC.len()) else {
            return Err(Error::NotATrie);
        };
        if magic != MAGIC {
            return Err(Error::NotATrie);
        }
        if version != VERSION {
            return Err(Error::FileVersion { expected: VERSION, got: version });
        }
        let mut reader = Reader { bytes, at: MAGIC.len() + 1 };
        let trie = reader.trie()?;
        let (expected, got) = (reader.number()?, checksum(&bytes[..bytes.len() - CHECKSUM_BYTES]));
        if expected != got {
            return Err(Error::Checksum { expected, got });
        }
        trie.check()?;
        Ok(trie)
    }

    /// Check everything that the methods rely on. O(N L).
    fn check(&self) -> Result<()> {
        let ensure =
            |holds: bool, what| if holds { Ok(()) } else { Err(Error::Inconsistent { what }) };
        let ascending = |values: &[u32]| values.windows(2).all(|pair| pair[0] < pair[1]);
        let starts_right = self.levels.starts_with(&[0, 1]);
        let is_empty = self.rows.is_empty();
        let grows = self.levels.windows(2).all(|pair| pair[0] <= pair[1]);
        ensure(starts_right && grows, "levels that start with one root and never shrink")?;
        ensure(is_empty == self.codes.is_empty(), "leaves, unless the root is alone")?;
        let ends = (self.offsets.first(), self.offsets.last().map(|&end| end as usize));
        ensure(
            ends == (Some(&0), Some(self.codes.len())),
            "offsets from 0 to the number of codes",
        )?;
        ensure(is_empty || ascending(&self.offsets), "offsets that give every inner node a child")?;
        for (level, &n_codes) in self.n_codes().iter().enumerate() {
            let nodes = self.levels[level] as usize..self.levels[level + 1] as usize;
            let ends = (self.offsets[nodes.start], self.offsets[nodes.end]);
            let expected = (self.levels[level + 1] - 1, self.levels[level + 2] - 1);
            ensure(ends == expected, "offsets whose children lie one level deeper")?;
            for node in nodes {
                let children =
                    &self.codes[self.offsets[node] as usize..self.offsets[node + 1] as usize];
                let fits = children.iter().all(|&code| usize::from(code) < n_codes);
                let sorted = children.windows(2).all(|pair| pair[0] < pair[1]);
                ensure(fits && sorted, "ascending codes below the K of their level")?;
            }
        }
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        let fits = rows.last().is_none_or(|&row| row < self.n_rows);
        ensure(fits && ascending(&rows), "a row of its own for every item")
    }
}

/// A place in the bytes of a file, which are never read beyond their end.
///
/// In a file of three numbers, after the first was read:
///
/// ```text
/// bytes  01 00 00 00 00 00 00 00 | 02 00 .. | 03 00 ..
/// at                               8
/// ```
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8]> {
        let expected = (self.at as u128) + (n_bytes as u128);
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((taken, _)) = rest.split_at_checked(n_bytes) else {
            return Err(Error::FileLength { expected, got: self.bytes.len() });
        };
        self.at += n_bytes;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
    }

    fn numbers(&mut self, n: usize) -> Result<Vec<u64>> {
        (0..n).map(|_| self.number()).collect()
    }

    fn array<T>(&mut self, n: usize, n_bytes: usize, read: impl Fn(&[u8]) -> T) -> Result<Vec<T>> {
        Ok(self.take(n * n_bytes)?.chunks_exact(n_bytes).map(read).collect())
    }

    /// The file's length is checked against the header before anything is read that it describes.
    fn trie(&mut self) -> Result<CodeTrie> {
        let n_levels = self.number()? as usize;
        if !(MIN_LEVELS..=MAX_LEVELS).contains(&n_levels) {
            return Err(Error::Inconsistent { what: "2 to 8 levels" });
        }
        let n_rows = self.small()?;
        let n_codes: Vec<usize> = self.numbers(n_levels)?.iter().map(|&k| k as usize).collect();
        let levels = (0..n_levels + 2).map(|_| self.small()).collect::<Result<Vec<u32>>>()?;
        let (first_leaf, end) = (levels[n_levels] as usize, levels[n_levels + 1] as usize);
        let n_edges = end.saturating_sub(1);
        let n_items = end.saturating_sub(first_leaf);
        let arrays = 4 * (first_leaf as u128 + 1) + 2 * n_edges as u128 + 4 * n_items as u128;
        let expected = self.at as u128 + arrays + CHECKSUM_BYTES as u128;
        if expected != self.bytes.len() as u128 {
            return Err(Error::FileLength { expected, got: self.bytes.len() });
        }
        let space = CodeSpace::new(&n_codes)
            .map_err(|_| Error::Inconsistent { what: "1 to 65536 codes per level" })?;
        Ok(CodeTrie {
            space,
            n_rows,
            levels,
            offsets: self.array(first_leaf + 1, 4, as_u32)?,
            codes: self.array(n_edges, 2, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))?,
            rows: self.array(n_items, 4, as_u32)?,
        })
    }

    fn small(&mut self) -> Result<u32> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| Error::Inconsistent { what: "counts below 2^32" })
    }
}

fn as_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Append the checksum of what is there.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

/// FNV-1a of 64 bits: enough against a damaged disk, no guard against an attacker (nor need it be,
/// since `check` follows).
fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
