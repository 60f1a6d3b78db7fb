//! Collisions: items that share a semantic ID, and how each gets one of its own.
//!
//! Items that share nothing never move. Of those that share a semantic ID, one keeps it; the others
//! move, within the items that share the first L - 2 codes (or fewer, as the plan says), by one of
//! three policies. Where that room is full, earlier levels open up. So all items get semantic IDs of
//! their own whenever there are at least as many as items.
//!
//! The order is part of the result, since a code is taken once: buckets one by one, in a bucket the
//! groups in the order of their codes, in a group by rank. Ties go to the lower code, then the lower
//! key, then the lower row. Buckets know nothing of each other, so threads make no difference.

mod blocks;
mod ladder;
mod left_over;
mod resolver;

use resolver::Resolver;

use crate::codes::{CodeSpace, Codes, MAX_LEVELS};
use crate::distances::Distances;
use crate::error::{Error, Result};
use crate::interrupt::{Interrupt, STEP};
use crate::memory;
use crate::sorting::{sharing, Sorted};
use crate::threads::{in_threads, useful_threads};

/// How items that have to move find a free semantic ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The published rule: the nearest free code of the last level, or, where there is none, the
    /// nearest code one level higher below which there is room, and the nearest from there down.
    #[default]
    Paper,
    /// One item after the other takes the free semantic ID with the least exact error.
    Nearest,
    /// All movers of a bucket together, with the least total error: exact for up to 1,024 movers; a
    /// bucket with more is done in blocks of so many, each the best after those before it.
    Optimal,
}

/// Which of the items that share a semantic ID keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// The one nearest to its last code, as published.
    #[default]
    Nearest,
    /// The one whose error would grow most by moving.
    MaxLoss,
}

/// Which items `Policy::Optimal` may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reassign {
    /// As few as have to move.
    #[default]
    Movers,
    /// All that share a semantic ID; they may get their own again.
    Colliding,
}

/// How collisions are resolved.
///
/// ```text
/// policy       Paper
/// keep         Nearest
/// reassign     Movers
/// open_levels  2         the last two levels may change before anything is full
/// n_threads    1         no difference but time
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How items that have to move find a free semantic ID.
    pub policy: Policy,
    /// Which item of a group keeps its codes.
    pub keep: Keep,
    /// Which items may move; other than `Movers` with `Policy::Optimal` only.
    pub reassign: Reassign,
    /// How many of the last levels may change from the start, 2 to 8.
    pub open_levels: usize,
    /// How many threads work, at least 1.
    pub n_threads: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            keep: Keep::default(),
            reassign: Reassign::default(),
            open_levels: 2,
            n_threads: 1,
        }
    }
}

impl Plan {
    fn check(&self) -> Result<()> {
        if !(2..=MAX_LEVELS).contains(&self.open_levels) {
            let (what, expected) = ("open_levels", "2 to 8");
            return Err(Error::Choice { what, expected, got: self.open_levels.to_string() });
        }
        if self.reassign == Reassign::Colliding && self.policy != Policy::Optimal {
            let (what, expected) = ("reassign", "'movers' unless `policy` is 'optimal'");
            return Err(Error::Choice { what, expected, got: "'colliding'".to_owned() });
        }
        Ok(())
    }
}

/// Groups of rows that share a semantic ID, in the order of their codes, rows ascending.
///
/// Of five items with codes (1, 1), (0, 2), (1, 1), (3, 0), (0, 2):
///
/// ```text
/// rows     1 4 | 0 2      those with (0, 2), then those with (1, 1); row 3 shares nothing
/// offsets  0     2     4  group g is rows[offsets[g]..offsets[g + 1]]
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Where each group starts in `rows`, and where the last ends.
    pub offsets: Vec<usize>,
    /// The rows, group after group.
    pub rows: Vec<usize>,
}

/// Find the rows that share a semantic ID. O(N L), and a sort of those rows alone.
///
/// # Errors
/// If it was asked to end, or there is not enough memory.
pub fn find_collisions(
    codes: Codes<'_>,
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Groups> {
    let shared = sharing(codes, &CodeSpace::around(codes), n_threads, interrupt)?;
    let mut groups =
        Groups { offsets: memory::room(shared.len() / 2 + 1)?, rows: memory::room(shared.len())? };
    groups.offsets.push(0);
    for run in shared.runs(0..shared.len()).take_while(|_| !interrupt.is_asked()) {
        groups.rows.extend(run.map(|place| shared.row(place)));
        groups.offsets.push(groups.rows.len());
    }
    interrupt.check()?;
    Ok(groups)
}

/// Count the distinct prefixes of 1 to L codes, (L). O(N L + N log N).
///
/// # Errors
/// If it was asked to end, or there is not enough memory.
pub fn count_prefixes(
    codes: Codes<'_>,
    n_threads: usize,
    interrupt: &Interrupt,
) -> Result<Vec<usize>> {
    let space = CodeSpace::around(codes);
    let sorted = Sorted::new(codes, &space, n_threads, interrupt)?;
    let mut counts = vec![0; codes.n_levels()];
    let mut last = None;
    for place in 0..sorted.len() {
        if place % STEP == 0 {
            interrupt.check()?;
        }
        let word = sorted.word(place);
        for (level, count) in counts.iter_mut().enumerate() {
            let shift = space.bits_below(level + 1);
            let prefix = |word: u128| word.checked_shr(shift).unwrap_or(0);
            if last.is_none_or(|last| prefix(last) != prefix(word)) {
                *count += 1;
            }
        }
        last = Some(word);
    }
    Ok(counts)
}

/// What a caller can lay down about single rows.
///
/// For three items, of which the last may never move:
///
/// ```text
/// keys    70 20 50          among equally near items, the second goes first
/// frozen  false false true
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RowRules<'a> {
    /// Order among equally near items of a group, (N); the row numbers if absent. With distinct
    /// keys, the result does not depend on the order of the rows.
    pub keys: Option<&'a [u64]>,
    /// Rows that keep their codes whatever happens, (N); none if absent.
    pub frozen: Option<&'a [bool]>,
}

impl RowRules<'_> {
    fn check(&self, n_rows: usize) -> Result<()> {
        let lengths =
            [("keys", self.keys.map(<[u64]>::len)), ("frozen", self.frozen.map(<[bool]>::len))];
        for (what, len) in lengths {
            if let Some(len) = len.filter(|&len| len != n_rows) {
                let (expected, got) = (format!("({n_rows},)"), format!("({len},)"));
                return Err(Error::Shape { what: what.to_owned(), expected, got });
            }
        }
        Ok(())
    }

    fn key(&self, row: usize) -> u64 {
        self.keys.map_or(row as u64, |keys| keys[row])
    }

    fn is_frozen(&self, row: usize) -> bool {
        self.frozen.is_some_and(|frozen| frozen[row])
    }
}

/// Bytes for each row that shares its codes: its rank, the semantic IDs listed for it, where it went.
const MOVING_BYTES: usize = 256;

/// Semantic IDs without collisions.
///
/// Of three items (1, 1), (1, 1), (0, 2), the second moved to (1, 0):
///
/// ```text
/// codes  1 1 | 1 0 | 0 2
/// moved  1
/// costs  0.25
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// Codes of all rows, (N, L) in row order.
    pub codes: Vec<u16>,
    /// The rows whose codes changed, ascending, (M).
    pub moved: Vec<usize>,
    /// Squared error that each of them gained, (M).
    pub costs: Vec<f32>,
}

/// Give every row codes of its own.
///
/// O(N L + N log N) for the search, and for each row that moves, in a space with room, the distances
/// to K codes of two levels and O(K) for each code of the last but one that has to be looked into.
///
/// # Errors
/// If codes, rules or plan do not fit, two frozen rows share codes, a row that has to be ranked
/// has numbers that cannot be, there are more rows than semantic IDs, it was asked to
/// end, or there is not enough memory.
pub fn resolve_collisions<D: Distances>(
    codes: Codes<'_>,
    space: &CodeSpace,
    distances: &D,
    rules: RowRules<'_>,
    plan: &Plan,
    interrupt: &Interrupt,
) -> Result<Resolution> {
    plan.check()?;
    space.check(codes)?;
    rules.check(codes.n_rows())?;
    check_extent(distances.extent(), (codes.n_rows(), space.n_codes()))?;
    let capacity = space.capacity(0);
    let too_many = Error::TooManyItems { n_items: codes.n_rows(), capacity };
    if codes.n_rows() as u128 > capacity {
        return Err(too_many);
    }
    let sorted = Sorted::new(codes, space, plan.n_threads, interrupt)?;
    let resolver = Resolver { codes, space, distances, rules, plan, sorted: &sorted, interrupt };
    let depth = space.n_levels().saturating_sub(plan.open_levels);
    let n_threads = useful_threads(plan.n_threads, codes.n_rows());
    let pieces = resolver.pieces(depth, n_threads);
    memory::expect(resolver.check(pieces.clone(), n_threads)?, MOVING_BYTES)?;
    let moves = in_threads(pieces, n_threads, |piece| resolver.piece(piece, depth));
    interrupt.check()?;

    let mut resolved = memory::copied(codes.data())?;
    let mut left_over = Vec::new();
    let mut moved = Vec::new();
    for piece in moves {
        left_over.extend(piece.left_over);
        for (row, codes) in piece.moved {
            resolver.write(&mut resolved, row, &codes);
            moved.push(row);
        }
    }
    if !left_over.is_empty() {
        let placed = resolver.place_left_over(&left_over, depth, &resolved, &moved);
        interrupt.check()?;
        for (row, codes) in placed {
            let codes = codes.ok_or_else(|| too_many.clone())?;
            resolver.write(&mut resolved, row, &codes);
            moved.push(row);
        }
    }
    drop(sorted);
    moved.sort_unstable();
    let n_levels = codes.n_levels();
    let rows_each = moved.len().div_ceil(n_threads).max(1);
    let shares: Vec<&[usize]> = moved.chunks(rows_each).collect();
    let costs = in_threads(shares, n_threads, |rows| {
        let new = |row: usize| &resolved[row * n_levels..][..n_levels];
        let cost = |&row: &usize| distances.cost(row, codes.row(row), new(row)) as f32;
        interrupt.pieces(rows, STEP).flatten().map(cost).collect::<Vec<f32>>()
    });
    interrupt.check()?;
    let costs = costs.concat();
    Ok(Resolution { codes: resolved, moved, costs })
}

fn check_extent(got: (usize, &[usize]), expected: (usize, &[usize])) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
    Err(Error::Shape { what: "distances".to_owned(), expected, got })
}

#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod tests;
