//! Which rows may share their codes with another, without sorting all rows.
//!
//! Hashes of 32 bits, half of what an entry with its row takes, are spread over parts that fit a core's
//! cache; there, those that occur twice are marked in one bitmap for all parts. Rows that are not
//! marked share nothing. Of the others, a few are marked for nothing: sorting tells.

use std::ops::Range;

use crate::codes::Codes;
use crate::error::Result;
use crate::interrupt::{Interrupt, STEP};
use crate::sorting::{part_bits, shares_of};
use crate::threads::in_threads;

/// Bits of a word of the bitmaps, as a power of two.
const WORD: u32 = u64::BITS.trailing_zeros();

/// Rows whose marks are looked up before what is made of them.
const BLOCK: usize = 1 << 10;

/// Marks of hashes that occur twice.
///
/// Two of five rows with the same hash, in a bitmap of eight bits, by the hash's highest three:
///
/// ```text
/// hashes  0b010.. 0b111.. 0b001.. 0b010.. 0b000..
/// marks   0b00000100
/// shift   29
/// ```
pub(crate) struct Suspects {
    marks: Vec<u64>,
    shift: u32,
}

impl Suspects {
    /// O(N L).
    ///
    /// # Errors
    /// If it was asked to end.
    pub(crate) fn new(codes: Codes<'_>, n_threads: usize, interrupt: &Interrupt) -> Result<Self> {
        let n_rows = codes.n_rows();
        let part_bits = part_bits(n_rows);
        let work = shares_of(codes, n_threads);
        let spread =
            |(_, data): (usize, &[u16])| Hashes::new(data, codes.n_levels(), part_bits, interrupt);
        let shares = in_threads(work, n_threads, spread);
        interrupt.check()?;
        // One or two bits for every row, and whole words for every part.
        let bits = (usize::BITS - n_rows.leading_zeros()).max(part_bits + WORD).min(u32::BITS);
        let mut marks = vec![0; 1 << (bits - WORD)];
        let parts_each = (1_usize << part_bits).div_ceil(n_threads * 8);
        let words_each = parts_each << (bits - WORD - part_bits);
        let ranges = (0..1_usize << part_bits).step_by(parts_each);
        let ranges = ranges.map(|start| start..(start + parts_each).min(1 << part_bits));
        let work = ranges.zip(marks.chunks_mut(words_each)).collect();
        let shift = u32::BITS - bits;
        in_threads(work, n_threads, |(parts, marks): (Range<usize>, &mut [u64])| {
            let (mut seen, first) = (Seen::default(), parts.start << (bits - part_bits));
            for part in parts {
                seen.count(&shares, part);
                for &hash in shares.iter().flat_map(|share| share.part(part)) {
                    let place = (hash >> shift) as usize - first;
                    marks[place >> WORD] |= seen.twice(hash) << (place % 64);
                }
            }
        });
        Ok(Self { marks, shift })
    }

    /// What is made of the marked rows of a share, in their order, given place and codes. O(N L).
    pub(crate) fn of(
        &self,
        data: &[u16],
        n_levels: usize,
        interrupt: &Interrupt,
        make: impl Fn(usize, &[u16]) -> u64,
    ) -> Vec<u64> {
        let (mut found, mut places) = (Vec::new(), [0; BLOCK]);
        let blocks = interrupt.pieces(data, BLOCK * n_levels);
        for (first, block) in (0..).step_by(BLOCK).zip(blocks) {
            // Every place is written, and kept or not: no branch, which would be guessed wrong.
            let mut n = 0;
            for_each_hash(block, n_levels, |place, hash| {
                let bit = (hash >> self.shift) as usize;
                places[n % BLOCK] = place;
                n += (self.marks[bit >> WORD] >> (bit % 64) & 1) as usize;
            });
            let marked = places[..n].iter();
            let codes = |place: usize| &block[place * n_levels..][..n_levels];
            found.extend(marked.map(|&place| make(first + place, codes(place))));
        }
        found
    }
}

/// Hashes of one thread's rows, spread over parts by their highest bits.
///
/// Three hashes in two parts:
///
/// ```text
/// hashes  0b010.. 0b001.. | 0b111..
/// starts  0 2 3
/// ```
struct Hashes {
    hashes: Vec<u32>,
    starts: Vec<usize>,
}

impl Hashes {
    fn new(data: &[u16], n_levels: usize, part_bits: u32, interrupt: &Interrupt) -> Self {
        let part = |hash: u32| hash.checked_shr(u32::BITS - part_bits).unwrap_or(0) as usize;
        let mut starts = vec![0; (1 << part_bits) + 1];
        for data in interrupt.pieces(data, STEP * n_levels) {
            for_each_hash(data, n_levels, |_, hash| starts[part(hash) + 1] += 1);
        }
        for place in 1..starts.len() {
            starts[place] += starts[place - 1];
        }
        let (mut next, mut hashes) = (starts.clone(), vec![0; data.len() / n_levels]);
        for data in interrupt.pieces(data, STEP * n_levels) {
            for_each_hash(data, n_levels, |_, hash| {
                let place = &mut next[part(hash)];
                hashes[*place] = hash;
                *place += 1;
            });
        }
        Self { hashes, starts }
    }

    fn part(&self, part: usize) -> &[u32] {
        &self.hashes[self.starts[part]..self.starts[part + 1]]
    }
}

/// Two bits for each of some places that the hashes of a part go to, "seen" and "seen again".
///
/// After the hashes 5, 9, 5 at the places 1, 3, 1 of four:
///
/// ```text
/// once   0b1010
/// twice  0b0010
/// ```
#[derive(Default)]
struct Seen {
    once: Vec<u64>,
    twice: Vec<u64>,
}

impl Seen {
    /// Begin anew with the hashes of a part.
    fn count(&mut self, shares: &[Hashes], part: usize) {
        let n: usize = shares.iter().map(|share| share.part(part).len()).sum();
        // 16 to 32 places for every hash.
        let n_words = 1_usize << (usize::BITS - n.leading_zeros() + 4).max(WORD) >> WORD;
        for bitmap in [&mut self.once, &mut self.twice] {
            bitmap.clear();
            bitmap.resize(n_words, 0);
        }
        for &hash in shares.iter().flat_map(|share| share.part(part)) {
            let (word, bit) = place_of(hash, n_words);
            self.twice[word] |= self.once[word] & (1 << bit);
            self.once[word] |= 1 << bit;
        }
    }

    /// 1 if a hash went to a place where another went, otherwise 0.
    fn twice(&self, hash: u32) -> u64 {
        let (word, bit) = place_of(hash, self.twice.len());
        self.twice[word] >> bit & 1
    }
}

fn place_of(hash: u32, n_words: usize) -> (usize, u32) {
    ((hash >> WORD) as usize & (n_words - 1), hash % 64)
}

/// Hash every row, with a known number of levels where the compiler can then unroll. O(N L).
fn for_each_hash(data: &[u16], n_levels: usize, mut work: impl FnMut(usize, u32)) {
    match n_levels {
        3 => data.as_chunks::<3>().0.iter().enumerate().for_each(|(i, row)| work(i, hash(row))),
        4 => data.as_chunks::<4>().0.iter().enumerate().for_each(|(i, row)| work(i, hash(row))),
        _ => data.chunks_exact(n_levels).enumerate().for_each(|(i, row)| work(i, hash(row))),
    }
}

/// Rows with other codes rarely have the same hash: about once in four billion times.
fn hash(row: &[u16]) -> u32 {
    let hashed = row.chunks(4).fold(0_u64, |hashed, codes| {
        // The first code lowest, as in memory, so that four of them are one read.
        let word = codes.iter().rev().fold(0, |word, &code| word << 16 | u64::from(code));
        (hashed.rotate_left(32) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (hashed >> 32) as u32
}
