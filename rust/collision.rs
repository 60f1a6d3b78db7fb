//! Collisions: items that share a semantic ID, and how each gets one of its own.
//!
//! The rule is the paper's. Of the items that share a semantic ID, the one nearest to its last code
//! keeps it; every other takes the nearest last-level code that no item holds; when its prefix has
//! none left, it takes the nearest code one level higher below which there is room, and the nearest
//! free codes from there down; and so on upwards. So all items get semantic IDs of their own whenever
//! there are at least as many as items, and no item moves that did not share its own.
//!
//! The order is part of the result, since a code is taken once: groups in the order of their codes,
//! in a group the nearest first. Ties go to the lower code, then the lower key, then the lower row.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::codes::{CodeSpace, Codes};
use crate::distances::Distances;
use crate::error::{Error, Result};

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

/// Find the rows that share a semantic ID. O(N L + N log N).
pub fn find_collisions(codes: Codes<'_>) -> Groups {
    let sorted = CodeSpace::around(codes).sorted(codes);
    let mut groups = Groups { offsets: vec![0], rows: Vec::new() };
    for group in shared(&sorted) {
        groups.rows.extend(group.iter().map(|&(_, row)| row));
        groups.offsets.push(groups.rows.len());
    }
    groups
}

/// Runs of two or more equal words.
fn shared(sorted: &[(u128, usize)]) -> impl Iterator<Item = &[(u128, usize)]> {
    sorted.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1)
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
/// to K codes and O(log N) for each nearer code that is taken.
///
/// # Errors
/// If codes or rules do not fit the space, two frozen rows share codes, a row that has to be ranked
/// has numbers that cannot be, or there are more rows than semantic IDs.
pub fn resolve_collisions(
    codes: Codes<'_>,
    space: &CodeSpace,
    distances: &impl Distances,
    rules: RowRules<'_>,
) -> Result<Resolution> {
    space.check(codes)?;
    rules.check(codes.n_rows())?;
    check_extent(distances.extent(), (codes.n_rows(), space.n_codes()))?;
    let capacity = space.capacity(0);
    let too_many = Error::TooManyItems { n_items: codes.n_rows(), capacity };
    if codes.n_rows() as u128 > capacity {
        return Err(too_many);
    }
    let mut sorted = space.sorted(codes);
    let movers = movers(&sorted, codes, distances, rules)?;
    sorted.dedup_by_key(|&mut (word, _)| word);
    let mut occupied = Occupied::new(space, sorted.iter().map(|&(word, _)| word).collect());
    drop(sorted);

    let mut resolved = codes.data().to_vec();
    let mut buffer = Vec::new();
    for &row in &movers {
        let found = occupied.nearest_free(row, codes.row(row), distances, &mut buffer);
        let found = found.ok_or_else(|| too_many.clone())?;
        occupied.take(&found);
        resolved[row * codes.n_levels()..][..codes.n_levels()].copy_from_slice(&found);
    }
    Ok(with_costs(resolved, movers, codes, distances))
}

fn check_extent(got: (usize, &[usize]), expected: (usize, &[usize])) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
    Err(Error::Shape { what: "distances".to_owned(), expected, got })
}

fn with_costs(
    resolved: Vec<u16>,
    mut moved: Vec<usize>,
    codes: Codes<'_>,
    distances: &impl Distances,
) -> Resolution {
    moved.sort_unstable();
    let n_levels = codes.n_levels();
    let cost = |&row: &usize| {
        let new = &resolved[row * n_levels..][..n_levels];
        distances.cost(row, codes.row(row), new) as f32
    };
    let costs = moved.iter().map(cost).collect();
    Resolution { codes: resolved, moved, costs }
}

/// The rows that have to move, in the order in which they choose.
fn movers(
    sorted: &[(u128, usize)],
    codes: Codes<'_>,
    distances: &impl Distances,
    rules: RowRules<'_>,
) -> Result<Vec<usize>> {
    check_rankable(sorted, distances, rules)?;
    let mut movers = Vec::new();
    for group in shared(sorted) {
        let rows = group.iter().map(|&(_, row)| row).filter(|&row| !rules.is_frozen(row));
        let mut ranked: Vec<(f64, u64, usize)> =
            rows.map(|row| (distances.last(row, codes.row(row)), rules.key(row), row)).collect();
        // Checked to be finite, so they compare; and not by total_cmp, since -0.0 is as near as 0.0.
        ranked.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        // A frozen row holds the place of the nearest one, so then nobody else keeps the codes.
        let keepers = usize::from(ranked.len() == group.len());
        movers.extend(ranked.iter().skip(keepers).map(|&(_, _, row)| row));
    }
    Ok(movers)
}

/// Check all groups before any row moves, and name the lowest bad row of all, not of the first group.
fn check_rankable(
    sorted: &[(u128, usize)],
    distances: &impl Distances,
    rules: RowRules<'_>,
) -> Result<()> {
    let mut frozen_pair = None;
    let mut bad = None;
    for group in shared(sorted) {
        let (frozen, free): (Vec<usize>, Vec<usize>) =
            group.iter().map(|&(_, row)| row).partition(|&row| rules.is_frozen(row));
        if let [first, second, ..] = frozen[..] {
            let pair = (first, second);
            frozen_pair = Some(frozen_pair.map_or(pair, |lowest: (usize, usize)| lowest.min(pair)));
        }
        if let Some(row) = free.into_iter().find(|&row| distances.check(row).is_err()) {
            bad = Some(bad.map_or(row, |lowest: usize| lowest.min(row)));
        }
    }
    if let Some((first, second)) = frozen_pair {
        return Err(Error::FrozenCollision { first, second });
    }
    bad.map_or(Ok(()), |row| distances.check(row))
}

/// Which codes are held, and how many below each prefix: a sorted list of those held from the start,
/// and counts of those taken since.
///
/// Three items (1, 1), (0, 2), (1, 1) with K = (2, 4), packed as in `CodeSpace`; the last took (1, 0):
///
/// ```text
/// start  0b0_10 0b1_01                   the distinct ones, sorted
/// taken  [0] {0b0_00: 1}                 below the empty prefix
///        [1] {0b1_00: 1}                 below (1)
///        [2] {0b1_00: 1}                 (1, 0) itself
/// ```
struct Occupied<'a> {
    space: &'a CodeSpace,
    start: Vec<u128>,
    taken: Vec<BTreeMap<u128, u128>>,
    capacity: Vec<u128>,
}

impl<'a> Occupied<'a> {
    fn new(space: &'a CodeSpace, start: Vec<u128>) -> Self {
        let depths = 0..=space.n_levels();
        Self {
            space,
            start,
            taken: depths.clone().map(|_| BTreeMap::new()).collect(),
            capacity: depths.map(|depth| space.capacity(depth)).collect(),
        }
    }

    /// Those of `words`, sorted, that begin with this prefix. O(L + log of their number).
    fn below<'w>(&self, words: &'w [u128], prefix: &[u16]) -> &'w [u128] {
        let first = self.space.first_word(prefix);
        let last = self.space.last_word(first, prefix.len());
        let from = words.partition_point(|&word| word < first);
        let n = words[from..].partition_point(|&word| word <= last);
        &words[from..from + n]
    }

    /// Is any semantic ID below this prefix free? `words` are those of the start that may lie there:
    /// all, or, to search fewer, those below a shorter prefix. O(L + log N).
    fn has_room(&self, words: &[u128], prefix: &[u16]) -> bool {
        let held = self.below(words, prefix).len() as u128;
        let taken = self.taken[prefix.len()].get(&self.space.first_word(prefix));
        held + taken.copied().unwrap_or(0) < self.capacity[prefix.len()]
    }

    fn take(&mut self, codes: &[u16]) {
        for (depth, taken) in self.taken.iter_mut().enumerate() {
            *taken.entry(self.space.first_word(&codes[..depth])).or_insert(0) += 1;
        }
    }

    /// Keep as many of a row's codes as leave room below them; from there down, the nearest codes.
    fn nearest_free(
        &self,
        row: usize,
        own: &[u16],
        distances: &impl Distances,
        buffer: &mut Vec<f64>,
    ) -> Option<Vec<u16>> {
        let kept = (0..own.len()).rev().find(|&depth| self.has_room(&self.start, &own[..depth]))?;
        let mut codes = own[..kept].to_vec();
        while codes.len() < own.len() {
            distances.fill(row, &codes, buffer);
            let code = self.nearest_with_room(&codes, buffer)?;
            codes.push(code);
        }
        Some(codes)
    }

    /// The nearest code after a prefix, the lower one of two as near. The tree is asked only about
    /// codes that would be nearer than the best so far: about log K of them, and those in the way.
    fn nearest_with_room(&self, prefix: &[u16], distances: &[f64]) -> Option<u16> {
        let words = self.below(&self.start, prefix);
        let mut candidate = [prefix, &[0]].concat();
        let mut best = None;
        for (code, &distance) in (0..=u16::MAX).zip(distances) {
            if best.is_some_and(|(nearest, _)| distance >= nearest) {
                continue;
            }
            candidate[prefix.len()] = code;
            if self.has_room(words, &candidate) {
                best = Some((distance, code));
            }
        }
        best.map(|(_, code)| code)
    }
}

#[cfg(test)]
mod tests;
