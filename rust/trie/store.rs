//! The bytes that a trie lies in, which are those of its file: own memory, or a file that is mapped.
//!
//! Numbers are little-endian, and read as arrays of bytes: on every machine of today that is a plain
//! load, it needs no `unsafe` and no alignment, and what was mapped need not be copied.

use std::ops::Range;
use std::sync::Arc;

use crate::codes::{CodeSpace, MAX_LEVELS};
use crate::error::Result;
use crate::memory::zeros;

/// Bytes of the header before the arrays; `trie_file` knows what it says.
pub(crate) const HEADER_BYTES: usize = 192;
/// Every array starts at a multiple of this: what a cache line holds, and enough for any dtype.
pub(crate) const ALIGNMENT: usize = 64;

/// The bytes of a trie's file, whoever holds them.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A number of 32 bits.
pub(crate) type Word = [u8; 4];

pub(crate) fn words(bytes: &[u8]) -> &[Word] {
    bytes.as_chunks().0
}

pub(crate) fn words_mut(bytes: &mut [u8]) -> &mut [Word] {
    bytes.as_chunks_mut().0
}

pub(crate) fn read(word: Word) -> u32 {
    u32::from_le_bytes(word)
}

/// A code as it is stored: one byte where every level has at most 256 codes, two otherwise.
pub(crate) trait Code: Copy + Send + Sync {
    const BYTES: usize;
    fn slice(bytes: &[u8]) -> &[Self];
    fn slice_mut(bytes: &mut [u8]) -> &mut [Self];
    fn put(code: u16) -> Self;
    fn get(self) -> u16;
}

impl Code for u8 {
    const BYTES: usize = 1;
    fn slice(bytes: &[u8]) -> &[Self] {
        bytes
    }
    fn slice_mut(bytes: &mut [u8]) -> &mut [Self] {
        bytes
    }
    fn put(code: u16) -> Self {
        code as u8
    }
    fn get(self) -> u16 {
        u16::from(self)
    }
}

impl Code for [u8; 2] {
    const BYTES: usize = 2;
    fn slice(bytes: &[u8]) -> &[Self] {
        bytes.as_chunks().0
    }
    fn slice_mut(bytes: &mut [u8]) -> &mut [Self] {
        bytes.as_chunks_mut().0
    }
    fn put(code: u16) -> Self {
        code.to_le_bytes()
    }
    fn get(self) -> u16 {
        u16::from_le_bytes(self)
    }
}

/// What a trie is besides its arrays, and where these lie.
///
/// Of the trie drawn at `CodeTrie`, with its three items and K = (2, 3):
///
/// ```text
/// n_rows      3
/// levels      0 1 3 6
/// code_bytes  1
/// offsets     192..208      4 words
/// codes       256..261      5 codes
/// rows        320..332      3 words
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) space: CodeSpace,
    pub(crate) n_rows: u32,
    pub(crate) levels: Vec<u32>,
}

impl Shape {
    pub(crate) fn code_bytes(&self) -> usize {
        let narrow = self.space.n_codes().iter().all(|&k| k <= 1 << u8::BITS);
        if narrow {
            u8::BYTES
        } else {
            <[u8; 2]>::BYTES
        }
    }

    pub(crate) fn first_leaf(&self) -> usize {
        self.levels[self.space.n_levels()] as usize
    }

    pub(crate) fn n_nodes(&self) -> usize {
        self.levels[self.space.n_levels() + 1] as usize
    }

    pub(crate) fn n_items(&self) -> usize {
        self.n_nodes() - self.first_leaf()
    }

    pub(crate) fn n_edges(&self) -> usize {
        self.n_nodes() - 1
    }

    /// The edges of a level, as places in `codes`.
    pub(crate) fn edges(&self, level: usize) -> Range<usize> {
        self.levels[level + 1] as usize - 1..self.levels[level + 2] as usize - 1
    }

    pub(crate) fn offsets(&self) -> Range<usize> {
        HEADER_BYTES..HEADER_BYTES + 4 * (self.first_leaf() + 1)
    }

    pub(crate) fn codes(&self) -> Range<usize> {
        let start = self.offsets().end.next_multiple_of(ALIGNMENT);
        start..start + self.code_bytes() * self.n_edges()
    }

    pub(crate) fn rows(&self) -> Range<usize> {
        let start = self.codes().end.next_multiple_of(ALIGNMENT);
        start..start + 4 * self.n_items()
    }

    /// Bytes of header and arrays; a multiple of `ALIGNMENT`.
    pub(crate) fn n_bytes(&self) -> usize {
        self.rows().end.next_multiple_of(ALIGNMENT)
    }
}

/// Memory of our own, in which every array starts at a multiple of `ALIGNMENT`.
///
/// With an allocation at address 0x7010 of which the trie takes 448 bytes:
///
/// ```text
/// buffer  448 + 64 bytes
/// start   48                so that it begins at 0x7040
/// ```
pub(crate) struct Owned {
    buffer: Vec<u8>,
    start: usize,
}

impl Owned {
    pub(crate) fn zeroed(n_bytes: usize) -> Result<Self> {
        let buffer: Vec<u8> = zeros(n_bytes + ALIGNMENT)?;
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self { buffer, start })
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let end = self.start + self.buffer.len() - ALIGNMENT;
        &mut self.buffer[self.start..end]
    }

    /// The arrays offsets, codes and rows, to be filled.
    pub(crate) fn arrays_mut<C: Code>(
        &mut self,
        shape: &Shape,
    ) -> (&mut [Word], &mut [C], &mut [Word]) {
        let (codes, rows) = (shape.codes(), shape.rows());
        let bytes = &mut self.bytes_mut()[..rows.end];
        let (bytes, row_bytes) = bytes.split_at_mut(rows.start);
        let (bytes, code_bytes) = bytes.split_at_mut(codes.start);
        let offset_bytes = &mut bytes[shape.offsets()];
        let code_bytes = &mut code_bytes[..codes.len()];
        (words_mut(offset_bytes), C::slice_mut(code_bytes), words_mut(row_bytes))
    }
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.buffer.len() - ALIGNMENT]
    }
}

/// The most cells of a table for small tries, 16 KiB.
const SMALL_TABLE: usize = 1 << 12;
/// The most cells of a table per item beyond that.
const CELLS_PER_ITEM: usize = 4;

/// The node after the first one or two codes, by one read: as many levels as the table stays small.
///
/// Of the trie drawn at `CodeTrie`, with K = (2, 3); 0 means that no item begins so:
///
/// ```text
/// depth  2
/// width  3           K of the second level, 1 if there is one level
/// nodes  0 0 3 | 4 0 5
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) depth: usize,
    pub(crate) width: usize,
    pub(crate) nodes: Vec<u32>,
}

impl Table {
    /// An empty table for a shape.
    pub(crate) fn new(shape: &Shape) -> Result<Self> {
        let n_codes = shape.space.n_codes();
        let limit = SMALL_TABLE.max(CELLS_PER_ITEM.saturating_mul(shape.n_items()));
        // 65,536 squared is more than a `usize` of 32 bits.
        let (depth, width, cells) = match n_codes[0].checked_mul(n_codes[1]) {
            Some(cells) if cells <= limit => (2, n_codes[1], cells),
            _ if n_codes[0] <= limit => (1, 1, n_codes[0]),
            _ => (0, 1, 0),
        };
        Ok(Self { depth, width, nodes: zeros(cells)? })
    }

    pub(crate) fn set(&mut self, codes: [u16; 2], node: u32) {
        let cell = usize::from(codes[0]) * self.width + usize::from(codes[1]);
        if let Some(cell) = self.nodes.get_mut(cell) {
            *cell = node;
        }
    }

    /// The node after the first codes, of which there are at least `depth`; None where no item is.
    pub(crate) fn get(&self, codes: &[u16]) -> Option<u32> {
        let cell = match (self.depth, codes) {
            (0, _) => return Some(0),
            (1, &[first, ..]) => usize::from(first),
            (_, &[first, second, ..]) if usize::from(second) < self.width => {
                usize::from(first) * self.width + usize::from(second)
            }
            _ => return None,
        };
        self.nodes.get(cell).copied().filter(|&node| node != 0)
    }
}

/// Which codes follow the nodes of the first levels, as 256 bits each: with the number of bits below
/// it, a code leads to its node by one read, where a search among so many children would take eight
/// reads and as many branches that nobody can predict. Nodes further down have few children.
///
/// Of the trie drawn at `CodeTrie`, if nodes had 4 bits, the lowest being that of code 0:
///
/// ```text
/// 0b0011 0b0100 0b0101     of the nodes 0, 1, 2
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks(Vec<[u64; 4]>);

/// The deepest nodes that have marks.
const MARKED_DEPTH: usize = 2;
/// The most bytes of marks for small tries.
const SMALL_MARKS: usize = 1 << 14;
/// The most bytes of marks per item beyond that.
const MARK_BYTES_PER_ITEM: usize = 4;

impl Marks {
    /// No marks yet, for as many nodes as shall have some.
    pub(crate) fn new(shape: &Shape) -> Result<Self> {
        let limit = SMALL_MARKS.max(MARK_BYTES_PER_ITEM.saturating_mul(shape.n_items()));
        let levels = shape.space.n_codes().iter().zip(&shape.levels[1..]).take(MARKED_DEPTH + 1);
        let fits = levels.take_while(|&(&k, &end)| k <= 256 && end as usize <= limit / 32);
        Ok(Self(zeros(fits.last().map_or(0, |(_, &end)| end as usize))?))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn nbytes(&self) -> usize {
        32 * self.0.len()
    }

    pub(crate) fn get(&self, node: u32) -> Option<&[u64; 4]> {
        self.0.get(node as usize)
    }

    /// Mark a code below 256 after a node that has marks.
    pub(crate) fn set(&mut self, node: u32, code: u16) {
        let word = self.0.get_mut(node as usize);
        if let Some(word) = word.and_then(|bits| bits.get_mut(usize::from(code / 64))) {
            *word |= 1 << (code % 64);
        }
    }
}

/// How many codes below this one are marked; None if it is not marked itself.
pub(crate) fn rank(bits: &[u64; 4], code: u16) -> Option<u32> {
    let (word, bit) = (usize::from(code / 64), code % 64);
    if bits.get(word)? >> bit & 1 == 0 {
        return None;
    }
    let whole = bits[..word].iter().map(|word| word.count_ones()).sum::<u32>();
    Some(whole + (bits[word] & ((1 << bit) - 1)).count_ones())
}

/// Levels of an array on the stack.
pub(crate) type PerLevel = [usize; MAX_LEVELS];
