//! Laying a trie out from sorted rows, by several threads: each counts the nodes that its share of
//! the rows adds, and then, knowing what the shares before it add, writes them to their places.

use std::ops::Range;

use super::store::{Code, Owned, PerLevel, Shape, Word};
use super::{node_id, CodeTrie};
use crate::codes::{CodeSpace, Codes, MAX_LEVELS};
use crate::error::{Error, Result};
use crate::interrupt::{Interrupt, NEVER};
use crate::sorting::Sorted;
use crate::threads::{in_threads, useful_threads};

/// Shares per thread, so that one which is held up does not hold up all.
const SHARES_PER_THREAD: usize = 4;

/// The most rows of a share, after each of which the work may be asked to end.
const MOST_ROWS: usize = 1 << 21;

/// Sorted rows, read by place: the packed codes, and the row's number.
struct Entries<'a, W, R> {
    word: W,
    row: R,
    space: &'a CodeSpace,
    interrupt: &'a Interrupt,
    /// How many codes two words share, by the bits of their difference.
    shared: [u8; 129],
}

/// What a share of the places adds to the trie.
///
/// Of the places 1 and 2 of the trie drawn at `CodeTrie`, (1, 0) and (1, 2):
///
/// ```text
/// places  1..3
/// edges   1 2      per level
/// ```
struct Share {
    places: Range<usize>,
    edges: PerLevel,
    twins: Option<(usize, usize)>,
}

/// Where a share writes: per level, the codes and (but for leaves) the offsets of the nodes that
/// they lead to, and the number of the first of these edges.
struct Slot<'a, C> {
    places: Range<usize>,
    codes: Vec<&'a mut [C]>,
    offsets: Vec<&'a mut [Word]>,
    rows: &'a mut [Word],
    edges: PerLevel,
}

impl CodeTrie {
    /// Build the trie of a table of distinct semantic IDs. O(N L + N log N).
    ///
    /// # Errors
    /// If the codes do not fit the space, two rows are alike, or there are over 2^32 - 1 nodes.
    pub fn new(codes: Codes<'_>, space: CodeSpace, n_threads: usize) -> Result<Self> {
        Self::new_until(codes, space, (n_threads, &NEVER))
    }

    /// Build as `new` does, unless asked to end before. O(N L + N log N).
    ///
    /// # Errors
    /// As `new`, or if the work was asked to end.
    pub fn new_until(
        codes: Codes<'_>,
        space: CodeSpace,
        (n_threads, interrupt): (usize, &Interrupt),
    ) -> Result<Self> {
        node_id(codes.n_rows())?;
        check(codes, &space, n_threads)?;
        match Sorted::new(codes, &space, n_threads, interrupt)? {
            Sorted::Narrow { entries, row_bits } => {
                let rows = (1 << row_bits) - 1;
                let word = |place: usize| u128::from(entries[place] >> row_bits);
                let row = |place: usize| (entries[place] & rows) as usize;
                Entries::new(word, row, (&space, interrupt)).lay(codes.n_rows(), n_threads)
            }
            Sorted::Wide(entries) => {
                let word = |place: usize| entries[place].0;
                let row = |place: usize| entries[place].1;
                Entries::new(word, row, (&space, interrupt)).lay(codes.n_rows(), n_threads)
            }
        }
    }
}

/// `CodeSpace::check` by several threads; the first row is told.
fn check(codes: Codes<'_>, space: &CodeSpace, n_threads: usize) -> Result<()> {
    let n_threads = useful_threads(n_threads, codes.n_rows());
    let rows_each = codes.n_rows().div_ceil(n_threads).max(1);
    let tables = codes.data().chunks(rows_each * codes.n_levels()).enumerate().collect();
    let checked = in_threads(tables, n_threads, |(index, data): (usize, &[u16])| {
        space.check(Codes::new(data, codes.n_levels())?).map_err(|error| match error {
            Error::CodeRange { row, level, code, n_codes } => {
                Error::CodeRange { row: row + index * rows_each, level, code, n_codes }
            }
            other => other,
        })
    });
    if codes.n_rows() == 0 {
        return space.check(codes);
    }
    checked.into_iter().collect()
}

impl<'a, W: Fn(usize) -> u128 + Sync, R: Fn(usize) -> usize + Sync> Entries<'a, W, R> {
    fn new(word: W, row: R, (space, interrupt): (&'a CodeSpace, &'a Interrupt)) -> Self {
        let shared = std::array::from_fn(|bits| {
            let same = |&level: &usize| bits as u32 <= space.bits_below(level + 1);
            (0..space.n_levels()).take_while(same).count() as u8
        });
        Self { word, row, space, interrupt, shared }
    }

    /// How many codes the entry at a place shares with the one before it.
    fn shared(&self, place: usize) -> usize {
        if place == 0 {
            return 0;
        }
        let difference = (self.word)(place - 1) ^ (self.word)(place);
        usize::from(self.shared[(u128::BITS - difference.leading_zeros()) as usize])
    }

    fn lay(&self, n_rows: usize, n_threads: usize) -> Result<CodeTrie> {
        let n_threads = useful_threads(n_threads, n_rows);
        let each = n_rows.div_ceil(n_threads * SHARES_PER_THREAD).clamp(1, MOST_ROWS);
        let places = (0..n_rows).step_by(each).map(|from| from..(from + each).min(n_rows));
        let shares = in_threads(places.collect(), n_threads, |places| self.count(places));
        self.interrupt.check()?;
        if let Some((first, second)) = shares.iter().filter_map(|share| share.twins).min() {
            return Err(Error::DuplicateRows { first, second });
        }
        let mut levels = vec![0, 1];
        let mut n_nodes = 1;
        for level in 0..self.space.n_levels() {
            n_nodes += shares.iter().map(|share| share.edges[level]).sum::<usize>();
            levels.push(node_id(n_nodes)?);
        }
        let shape = Shape { space: self.space.clone(), n_rows: node_id(n_rows)?, levels };
        let mut owned = Owned::zeroed(shape.n_bytes())?;
        match shape.code_bytes() {
            1 => self.fill::<u8>(&shape, &mut owned, (shares, n_threads)),
            _ => self.fill::<[u8; 2]>(&shape, &mut owned, (shares, n_threads)),
        }
        self.interrupt.check()?;
        CodeTrie::of(shape, owned)
    }

    fn count(&self, places: Range<usize>) -> Share {
        let n_levels = self.space.n_levels();
        let mut edges = [0; MAX_LEVELS];
        let mut twins = None;
        let now = if self.interrupt.is_asked() { 0..0 } else { places.clone() };
        for place in now {
            let shared = self.shared(place);
            match edges.get_mut(shared) {
                Some(n) if shared < n_levels => *n += 1,
                _ => {
                    let pair = Some(((self.row)(place - 1), (self.row)(place)));
                    twins = if twins.is_none() { pair } else { twins.min(pair) };
                }
            }
        }
        // An entry that shares the first codes adds an edge to every deeper level.
        for level in 1..n_levels {
            edges[level] += edges[level - 1];
        }
        Share { places, edges, twins }
    }

    fn fill<C: Code>(
        &self,
        shape: &Shape,
        owned: &mut Owned,
        (shares, n_threads): (Vec<Share>, usize),
    ) {
        let (offsets, codes, mut rows) = owned.arrays_mut::<C>(shape);
        let n_levels = self.space.n_levels();
        offsets[shape.first_leaf()] = (shape.n_edges() as u32).to_le_bytes();
        let (mut codes, mut offsets) = (codes, &mut offsets[1..]);
        let mut by_level: Vec<_> = (0..n_levels)
            .map(|level| {
                let n = shape.edges(level).len();
                let n_inner = if level + 1 < n_levels { n } else { 0 };
                (take(&mut codes, n), take(&mut offsets, n_inner))
            })
            .collect();
        let mut edges: PerLevel =
            std::array::from_fn(
                |level| if level < n_levels { shape.edges(level).start } else { 0 },
            );
        let mut slots = Vec::with_capacity(shares.len());
        for share in shares {
            let mut slot = Slot {
                rows: take(&mut rows, share.places.len()),
                places: share.places,
                codes: Vec::with_capacity(n_levels),
                offsets: Vec::with_capacity(n_levels),
                edges,
            };
            for (level, (codes, offsets)) in by_level.iter_mut().enumerate() {
                let n = share.edges[level];
                slot.codes.push(take(codes, n));
                slot.offsets.push(take(offsets, if level + 1 < n_levels { n } else { 0 }));
                edges[level] += n;
            }
            slots.push(slot);
        }
        in_threads(slots, n_threads, |slot| {
            if !self.interrupt.is_asked() {
                self.write(slot);
            }
        });
    }

    fn write<C: Code>(&self, mut slot: Slot<'_, C>) {
        let n_levels = self.space.n_levels();
        let shifts: PerLevel = std::array::from_fn(|l| self.space.bits_below(l + 1) as usize);
        let masks: [u128; MAX_LEVELS] = std::array::from_fn(|level| {
            let bits = self.space.bits_below(level) - self.space.bits_below(level + 1);
            (1 << bits) - 1
        });
        let mut n_done: PerLevel = [0; MAX_LEVELS];
        for (place, row) in slot.places.zip(slot.rows) {
            *row = ((self.row)(place) as u32).to_le_bytes();
            let word = (self.word)(place);
            for level in self.shared(place)..n_levels {
                let done = n_done[level];
                let code = (word >> shifts[level]) & masks[level];
                slot.codes[level][done] = C::put(code as u16);
                if level + 1 < n_levels {
                    let first_child = slot.edges[level + 1] + n_done[level + 1];
                    slot.offsets[level][done] = (first_child as u32).to_le_bytes();
                }
                n_done[level] += 1;
            }
        }
    }
}

/// Take the first entries of what is left.
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (taken, after) = std::mem::take(rest).split_at_mut(n);
    *rest = after;
    taken
}
