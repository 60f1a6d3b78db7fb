//! A trie as a file: little-endian, versioned, and laid out so that it can be mapped and used as it
//! is. What is read is a trie or an error.
//!
//! The trie drawn at `CodeTrie`, with its three items and K = (2, 3):
//!
//! ```text
//! bytes        content
//! 0..7         "MQLTRIE"
//! 7            version, 3
//! 8..16        L = 2
//! 16..24       n_rows = 3
//! 24..88       n_codes = 2 3 0 0 ...       8 numbers, those beyond L are 0
//! 88..168      levels = 0 1 3 6 0 0 ...    10 numbers, those beyond L + 2 are 0
//! 168..176     bytes of the file = 384
//! 176..184     checksum of the arrays      XXH3 of all from byte 192 on
//! 184..192     checksum of the header      of bytes 0..184
//! 192..208     offsets = 0 2 3 5           32 bits each
//! 256..261     codes = 0 1 2 0 2           8 bits each; 16 if a level has more than 256 codes
//! 320..332     rows = 1 2 0                32 bits each
//! ```
//!
//! Numbers are of 64 bits where nothing else is said; between and after the arrays there are zeros,
//! up to a multiple of 64 bytes. The header is always checked, also against the length of the file;
//! the arrays where one asks for it, as that reads the whole file. Arrays that were not verified can
//! give wrong answers, but nothing is ever read outside of them.

use crate::codes::{CodeSpace, MAX_LEVELS, MIN_LEVELS};
use crate::error::{Error, Result};
use crate::memory::room;
use crate::trie::rows::all_differ;
use crate::trie::store::{read, words, Bytes, Code, Shape, HEADER_BYTES};
use crate::trie::CodeTrie;

const MAGIC: &[u8; 7] = b"MQLTRIE";
const VERSION: u8 = 3;
/// Bytes of the header that its checksum covers.
const CHECKED_BYTES: usize = HEADER_BYTES - 8;

impl CodeTrie {
    /// Write the trie as a file's bytes: the header, and all that follows it. O(N L).
    pub fn to_parts(&self) -> (Vec<u8>, &[u8]) {
        let arrays = (*self.bytes).as_ref().get(HEADER_BYTES..).unwrap_or_default();
        let padded = |values: &mut dyn Iterator<Item = u64>, n| {
            let values: Vec<u64> = values.collect();
            values.into_iter().chain(std::iter::repeat(0)).take(n).collect::<Vec<u64>>()
        };
        let n_codes = padded(&mut self.n_codes().iter().map(|&k| k as u64), MAX_LEVELS);
        let levels = padded(&mut self.levels().iter().map(|&l| u64::from(l)), MAX_LEVELS + 2);
        let mut header = MAGIC.to_vec();
        header.push(VERSION);
        let sizes = [self.n_levels() as u64, self.n_rows() as u64];
        let sums = [self.shape.n_bytes() as u64, checksum(arrays)];
        for number in sizes.into_iter().chain(n_codes).chain(levels).chain(sums) {
            header.extend(number.to_le_bytes());
        }
        header.extend(checksum(&header).to_le_bytes());
        (header, arrays)
    }

    /// Take a trie from the bytes of its file. O(K^2), and O(N L) to verify the arrays.
    ///
    /// # Errors
    /// If the header is none, or of another version, or does not fit the number of bytes, or was
    /// changed; when verifying, also if the arrays were changed or contradict themselves.
    pub fn from_bytes(bytes: Bytes, verify: bool) -> Result<Self> {
        let content = (*bytes).as_ref();
        let header = Header::read(content)?;
        if !verify {
            return Self::around(header.shape, bytes);
        }
        let (expected, got) = (header.checksum, checksum(&content[HEADER_BYTES..]));
        if expected != got {
            return Err(Error::Checksum { part: "arrays", expected, got });
        }
        let trie = Self::around(header.shape, bytes)?;
        trie.check()?;
        Ok(trie)
    }

    /// Check everything that makes the answers right. O(N L).
    fn check(&self) -> Result<()> {
        let words_of_offsets = words(self.offset_bytes());
        let mut offsets = room(words_of_offsets.len())?;
        offsets.extend(words_of_offsets.iter().map(|&word| read(word)));
        let is_empty = self.n_items() == 0;
        ensure(is_empty || ascending(&offsets), "offsets that give every inner node a child")?;
        for level in 0..self.n_levels() {
            let edges = self.shape.edges(level);
            let ends = [level, level + 1].map(|l| offsets[self.levels()[l] as usize] as usize);
            let expected = [edges.start, edges.end];
            ensure(ends == expected, "offsets whose children lie one level deeper")?;
        }
        match self.code_bytes() {
            1 => self.check_codes(&offsets, u8::slice(self.code_array()))?,
            _ => self.check_codes(&offsets, <[u8; 2]>::slice(self.code_array()))?,
        }
        let rows = words(self.row_bytes()).iter().map(|&row| read(row));
        ensure(all_differ(rows, self.n_rows())?, "a row of its own for every item")
    }

    fn check_codes<C: Code>(&self, offsets: &[u32], codes: &[C]) -> Result<()> {
        for (level, &n_codes) in self.n_codes().iter().enumerate() {
            let nodes = self.levels()[level] as usize..self.levels()[level + 1] as usize;
            for pair in offsets[nodes.start..=nodes.end].windows(2) {
                let children = &codes[pair[0] as usize..pair[1] as usize];
                let fits = children.last().is_none_or(|code| usize::from(code.get()) < n_codes);
                let sorted = children.windows(2).all(|pair| pair[0].get() < pair[1].get());
                ensure(fits && sorted, "ascending codes below the K of their level")?;
            }
        }
        Ok(())
    }
}

/// What the first bytes of a file say.
///
/// Of the file drawn above:
///
/// ```text
/// shape     n_rows 3, levels 0 1 3 6, K = (2, 3)
/// checksum  of the arrays, as it should be
/// ```
struct Header {
    shape: Shape,
    checksum: u64,
}

impl Header {
    fn read(content: &[u8]) -> Result<Self> {
        let Some((magic, &[version, ..])) = content.split_at_checked(MAGIC.len()) else {
            return Err(Error::NotATrie);
        };
        if magic != MAGIC {
            return Err(Error::NotATrie);
        }
        if version != VERSION {
            return Err(Error::FileVersion { expected: VERSION, got: version });
        }
        let Some(header) = content.get(..HEADER_BYTES) else {
            return Err(Error::FileLength { expected: HEADER_BYTES as u64, got: content.len() });
        };
        let mut numbers = header[MAGIC.len() + 1..].as_chunks().0.iter().copied();
        let mut next = || numbers.next().map_or(0, u64::from_le_bytes);
        let (n_levels, n_rows) = (next(), next());
        let n_codes: [u64; MAX_LEVELS] = std::array::from_fn(|_| next());
        let levels: [u64; MAX_LEVELS + 2] = std::array::from_fn(|_| next());
        let (n_bytes, arrays, expected) = (next(), next(), next());
        let got = checksum(&header[..CHECKED_BYTES]);
        if expected != got {
            return Err(Error::Checksum { part: "header", expected, got });
        }
        if n_bytes != content.len() as u64 {
            return Err(Error::FileLength { expected: n_bytes, got: content.len() });
        }
        let shape = shape(n_levels, n_rows, (&n_codes, &levels))?;
        ensure(shape.n_bytes() as u64 == n_bytes, "arrays as long as its levels tell")?;
        Ok(Self { shape, checksum: arrays })
    }
}

fn shape(n_levels: u64, n_rows: u64, (n_codes, levels): (&[u64], &[u64])) -> Result<Shape> {
    let n_levels = usize::try_from(n_levels).unwrap_or(usize::MAX);
    ensure((MIN_LEVELS..=MAX_LEVELS).contains(&n_levels), "2 to 8 levels")?;
    let n_codes: Vec<usize> =
        n_codes[..n_levels].iter().map(|&k| usize::try_from(k).unwrap_or(usize::MAX)).collect();
    let space = CodeSpace::new(&n_codes)
        .map_err(|_| Error::Inconsistent { what: "1 to 65536 codes per level" })?;
    let small = |&number: &u64| {
        u32::try_from(number).map_err(|_| Error::Inconsistent { what: "counts below 2^32" })
    };
    let n_rows = small(&n_rows)?;
    let levels = levels[..n_levels + 2].iter().map(small).collect::<Result<Vec<u32>>>()?;
    let grows = levels.windows(2).all(|pair| pair[0] <= pair[1]);
    let what = "levels that start with one root and never shrink";
    ensure(levels.starts_with(&[0, 1]) && grows, what)?;
    let is_empty = levels[n_levels + 1] == levels[n_levels];
    ensure(!is_empty || levels[n_levels] == 1, "leaves, unless the root is alone")?;
    Ok(Shape { space, n_rows, levels })
}

fn ascending(values: &[u32]) -> bool {
    values.windows(2).all(|pair| pair[0] < pair[1])
}

fn ensure(holds: bool, what: &'static str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Inconsistent { what })
    }
}

/// XXH3 of 64 bits: damage goes unnoticed once in 2^64, at some bytes per clock. No guard against an
/// attacker, nor need it be: nothing that a file says leads to a read outside of it. O(bytes).
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
