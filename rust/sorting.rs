//! Rows in the order of their codes, and the rows that share them: by several threads, always the
//! same.
//!
//! Codes and row are packed into one 64-bit word where they fit, as in any real catalog. Every thread
//! spreads its share of the rows over parts by their highest bits; then every part, small enough for
//! a core's cache, is sorted on its own.

use std::ops::Range;
use std::sync::Mutex;

use crate::codes::{CodeSpace, Codes};
use crate::error::Result;
use crate::interrupt::{Interrupt, STEP};
use crate::memory;
use crate::suspects::Suspects;
use crate::threads::{in_threads, run_in_threads, useful_threads};

/// Rows of a part: 32 KiB of words, what the fastest cache holds.
const ROWS_PER_PART: usize = 1 << 12;
/// The most bytes per row that finding those takes which share their codes: the same, the groups,
/// and the rows in these.
const SHARING_BYTES: usize = 72;
/// More parts than this fall out of the caches while rows are spread over them.
const MAX_PART_BITS: u32 = 11;
/// The most bytes that sorting takes per row: a word of 128 bits and the row.
const SORTING_BYTES: usize = 32;

/// Rows in the order of their codes, equal ones by row.
///
/// Of three items (1, 1), (0, 2), (1, 1) with K = (2, 4), 2 bits being enough for a row:
///
/// ```text
/// Narrow  0b010_01 0b101_00 0b101_10     packed codes and row; row_bits 2
/// Wide    (0b010, 1) (0b101, 0) (0b101, 2)
/// ```
#[derive(Debug)]
pub(crate) enum Sorted {
    Narrow { entries: Vec<u64>, row_bits: u32 },
    Wide(Vec<(u128, usize)>),
}

impl Sorted {
    /// Sort the rows of a checked table. O(N L + N log N).
    ///
    /// # Errors
    /// If it was asked to end, or there is not enough memory.
    pub(crate) fn new(
        codes: Codes<'_>,
        space: &CodeSpace,
        n_threads: usize,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        memory::expect(codes.n_rows(), SORTING_BYTES)?;
        let Some(packing) = Packing::of(codes, space) else {
            let packed = (0..codes.n_rows()).map(|row| (space.first_word(codes.row(row)), row));
            let mut entries: Vec<(u128, usize)> = packed.collect();
            interrupt.sort(&mut entries); // all differ, so there is one outcome
            interrupt.check()?;
            return Ok(Self::Wide(entries));
        };
        let n_threads = useful_threads(n_threads, codes.n_rows());
        let parts = Parts::new(codes, &packing, n_threads, interrupt);
        interrupt.check()?;
        let mut entries = vec![0; codes.n_rows()];
        parts.copy_to(&mut entries, n_threads, |part| interrupt.sort(part));
        interrupt.check()?;
        Ok(Self::Narrow { entries, row_bits: packing.row_bits })
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Narrow { entries, .. } => entries.len(),
            Self::Wide(entries) => entries.len(),
        }
    }

    /// Packed codes of the entry at a place.
    pub(crate) fn word(&self, place: usize) -> u128 {
        match self {
            Self::Narrow { entries, row_bits } => u128::from(entries[place] >> row_bits),
            Self::Wide(entries) => entries[place].0,
        }
    }

    /// Row of the entry at a place.
    pub(crate) fn row(&self, place: usize) -> usize {
        match self {
            Self::Narrow { entries, row_bits } => (entries[place] & ((1 << row_bits) - 1)) as usize,
            Self::Wide(entries) => entries[place].1,
        }
    }

    /// The first place at or after `from` whose word, without its lowest `shift` bits, is another.
    pub(crate) fn next_prefix(&self, from: usize, shift: u32) -> usize {
        let prefix = |place: usize| self.word(place).checked_shr(shift).unwrap_or(0);
        let own = prefix(from);
        // Steps that double, then halves: short runs are the rule, long ones must not cost more.
        let (mut low, mut step) = (from, 1);
        while low + step < self.len() && prefix(low + step) == own {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(self.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if prefix(middle) == own {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// Runs of equal words in a range, those of a single row too.
    pub(crate) fn runs(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut start = range.start;
        std::iter::from_fn(move || {
            let first = (start < range.end).then_some(start)?;
            let word = self.word(first);
            start += 1;
            while start < range.end && self.word(start) == word {
                start += 1;
            }
            Some(first..start)
        })
    }
}

/// The rows that share their codes with another: (word, row) in the order of codes, then rows.
/// O(N L), and a sort of those alone.
///
/// # Errors
/// If it was asked to end, or there is not enough memory.
pub(crate) fn sharing(
    codes: Codes<'_>,
    space: &CodeSpace,
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Sorted> {
    memory::expect(codes.n_rows(), SHARING_BYTES)?;
    let Some(packing) = Packing::of(codes, space) else {
        let Sorted::Wide(all) = Sorted::new(codes, space, n_threads, interrupt)? else {
            return Ok(Sorted::Wide(Vec::new()));
        };
        let groups = all.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
        return Ok(Sorted::Wide(groups.flatten().copied().collect()));
    };
    let n_threads = useful_threads(n_threads, codes.n_rows());
    let suspects = Suspects::new(codes, n_threads, interrupt)?;
    let work = shares_of(codes, n_threads);
    let found = in_threads(work, n_threads, |(first_row, data)| {
        suspects.of(data, codes.n_levels(), interrupt, |place, codes| {
            packing.entry(packing.word(codes), first_row + place)
        })
    });
    let n = found.iter().map(Vec::len).sum();
    let parts = Parts::of(n, &packing, (n_threads, interrupt), found, |entries| entries);
    interrupt.check()?;
    let alike = |a: &u64, b: &u64| a >> packing.row_bits == b >> packing.row_bits;
    let entries = parts.collect(n_threads, |part, sorted: &mut Vec<u64>, found| {
        sorted.clear();
        sorted.extend_from_slice(part);
        interrupt.sort(sorted);
        for group in sorted.chunk_by(alike).filter(|group| group.len() > 1) {
            found.extend_from_slice(group);
        }
    });
    interrupt.check()?;
    Ok(Sorted::Narrow { entries, row_bits: packing.row_bits })
}

/// The first row and the codes of each thread's share of the rows.
pub(crate) fn shares_of(codes: Codes<'_>, n_threads: usize) -> Vec<(usize, &[u16])> {
    let rows_each = codes.n_rows().div_ceil(n_threads).max(1);
    let shares = codes.data().chunks(rows_each * codes.n_levels());
    (0..).step_by(rows_each).zip(shares).collect()
}

/// The number of parts for so many rows, as a power of two.
pub(crate) fn part_bits(n_rows: usize) -> u32 {
    (usize::BITS - (n_rows / ROWS_PER_PART).leading_zeros()).min(MAX_PART_BITS)
}

/// How codes and row share a 64-bit word.
///
/// For K = (2, 4) and three rows: `word_bits` 3, `row_bits` 2, of which each part has one
/// value of the highest `part_bits`.
struct Packing {
    shifts: Vec<u32>,
    word_bits: u32,
    row_bits: u32,
}

impl Packing {
    fn of(codes: Codes<'_>, space: &CodeSpace) -> Option<Self> {
        let row_bits = usize::BITS - codes.n_rows().leading_zeros();
        let word_bits = space.word_bits();
        if word_bits + row_bits > u64::BITS {
            return None;
        }
        let shifts = (0..space.n_levels()).map(|level| space.bits_below(level + 1)).collect();
        Some(Self { shifts, word_bits, row_bits })
    }

    fn word(&self, codes: &[u16]) -> u64 {
        let placed = codes.iter().zip(&self.shifts).map(|(&code, &shift)| u64::from(code) << shift);
        placed.fold(0, |word, part| word | part)
    }

    fn entry(&self, word: u64, row: usize) -> u64 {
        word.checked_shl(self.row_bits).unwrap_or(0) | row as u64
    }

    /// Entries of a table with a known number of levels, which the compiler then unrolls.
    fn entries<const L: usize>(&self, codes: &[u16], first_row: usize, out: &mut Vec<u64>) {
        let shifts: [u32; L] = std::array::from_fn(|level| self.shifts[level]);
        let rows = codes.as_chunks::<L>().0.iter().zip(first_row..);
        out.extend(rows.map(|(codes, row)| {
            let placed = codes.iter().zip(shifts).map(|(&code, shift)| u64::from(code) << shift);
            self.entry(placed.fold(0, |word, part| word | part), row)
        }));
    }

    /// Entries of rows from `first_row` on.
    fn pack(&self, codes: &[u16], first_row: usize, interrupt: &Interrupt) -> Vec<u64> {
        let n_levels = self.shifts.len();
        let mut out = Vec::with_capacity(codes.len() / n_levels);
        let pieces = interrupt.pieces(codes, STEP * n_levels);
        for (codes, first_row) in pieces.zip((first_row..).step_by(STEP)) {
            match n_levels {
                3 => self.entries::<3>(codes, first_row, &mut out),
                4 => self.entries::<4>(codes, first_row, &mut out),
                _ => {
                    let rows = codes.chunks_exact(n_levels).zip(first_row..);
                    out.extend(rows.map(|(codes, row)| self.entry(self.word(codes), row)));
                }
            }
        }
        out
    }
}

/// Rows spread over parts by the highest bits of their words, in the order of their numbers.
///
/// Five rows in two parts, by two threads of which the first had three rows:
///
/// ```text
/// shares[0]  entries 0 2 | 1     starts 0 2 3
/// shares[1]  entries 4 | 3       starts 0 1 2
/// ```
struct Parts {
    shares: Vec<Share>,
    n_parts: usize,
}

/// What one thread spread: part p is `entries[starts[p]..starts[p + 1]]`, as drawn at `Parts`.
struct Share {
    entries: Vec<u64>,
    starts: Vec<usize>,
}

impl Parts {
    fn new(codes: Codes<'_>, packing: &Packing, n_threads: usize, interrupt: &Interrupt) -> Self {
        let pack = |(first_row, data): (usize, &[u16])| packing.pack(data, first_row, interrupt);
        let shares = shares_of(codes, n_threads);
        Self::of(codes.n_rows(), packing, (n_threads, interrupt), shares, pack)
    }

    /// Spread the `n` entries that are made of some shares of the work.
    fn of<T: Send>(
        n: usize,
        packing: &Packing,
        (n_threads, interrupt): (usize, &Interrupt),
        work: Vec<T>,
        entries: impl Fn(T) -> Vec<u64> + Sync,
    ) -> Self {
        let part_bits = part_bits(n).min(packing.word_bits);
        let shift = packing.word_bits - part_bits + packing.row_bits;
        let spread = |share: T| Share::new(&entries(share), shift, 1 << part_bits, interrupt);
        Self { shares: in_threads(work, n_threads, spread), n_parts: 1 << part_bits }
    }

    fn len(&self, part: usize) -> usize {
        self.shares.iter().map(|share| share.part(part).len()).sum()
    }

    /// Copy every part to its place in `out`, and do something with it there.
    fn copy_to(&self, out: &mut [u64], n_threads: usize, work: impl Fn(&mut [u64]) + Sync) {
        let mut rest = out;
        let mut slices = Vec::with_capacity(self.n_parts);
        for part in 0..self.n_parts {
            let (slice, after) = rest.split_at_mut(self.len(part));
            slices.push((part, slice));
            rest = after;
        }
        let queue = Mutex::new(slices.into_iter());
        let next = || queue.lock().ok().and_then(|mut queue| queue.next());
        run_in_threads(n_threads, || {
            while let Some((part, slice)) = next() {
                let mut start = 0;
                for share in &self.shares {
                    let entries = share.part(part);
                    slice[start..start + entries.len()].copy_from_slice(entries);
                    start += entries.len();
                }
                work(slice);
            }
        });
    }

    /// Do something with every part that adds to a list, and join the lists in the parts' order.
    fn collect<S: Default>(
        &self,
        n_threads: usize,
        work: impl Fn(&[u64], &mut S, &mut Vec<u64>) + Sync,
    ) -> Vec<u64> {
        let parts_each = self.n_parts.div_ceil(n_threads * 8);
        let ranges = (0..self.n_parts).step_by(parts_each);
        let ranges = ranges.map(|start| start..(start + parts_each).min(self.n_parts)).collect();
        let lists = in_threads(ranges, n_threads, |range: Range<usize>| {
            let (mut state, mut found, mut joined) = (S::default(), Vec::new(), Vec::new());
            for part in range {
                if let [share] = &self.shares[..] {
                    work(share.part(part), &mut state, &mut found);
                    continue;
                }
                joined.clear();
                for share in &self.shares {
                    joined.extend_from_slice(share.part(part));
                }
                work(&joined, &mut state, &mut found);
            }
            found
        });
        lists.concat()
    }
}

impl Share {
    /// Spread entries over parts.
    fn new(words: &[u64], shift: u32, n_parts: usize, interrupt: &Interrupt) -> Self {
        let mut starts = vec![0; n_parts + 1];
        let part = |word: u64| word.checked_shr(shift).unwrap_or(0) as usize;
        for &word in interrupt.pieces(words, STEP).flatten() {
            starts[part(word) + 1] += 1;
        }
        for place in 1..starts.len() {
            starts[place] += starts[place - 1];
        }
        let mut next = starts.clone();
        let mut entries = vec![0; words.len()];
        for &word in interrupt.pieces(words, STEP).flatten() {
            let place = &mut next[part(word)];
            entries[*place] = word;
            *place += 1;
        }
        Self { entries, starts }
    }

    fn part(&self, part: usize) -> &[u64] {
        &self.entries[self.starts[part]..self.starts[part + 1]]
    }
}

#[cfg(test)]
mod tests;
