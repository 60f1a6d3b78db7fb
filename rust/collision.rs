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

use std::cmp::Ordering;
use std::ops::Range;

use crate::assignment::{self, Seeker, FIRST_LISTED};
use crate::codes::{CodeSpace, Codes, Id, MAX_LEVELS};
use crate::distances::Distances;
use crate::error::{Error, Result};
use crate::occupancy::Occupancy;
use crate::search::{Found, Search};
use crate::sorting::{in_threads, sharing, useful_threads, Sorted};

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

/// Movers of a bucket that are assigned together at most: the time for items that all contend with
/// each other grows with the cube of their number.
const BLOCK: usize = 1024;

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
pub fn find_collisions(codes: Codes<'_>, n_threads: usize) -> Groups {
    let shared = sharing(codes, &CodeSpace::around(codes), n_threads);
    let mut groups = Groups { offsets: vec![0], rows: Vec::with_capacity(shared.len()) };
    for run in shared.runs(0..shared.len()) {
        groups.rows.extend(run.map(|place| shared.row(place)));
        groups.offsets.push(groups.rows.len());
    }
    groups
}

/// Count the distinct prefixes of 1 to L codes, (L). O(N L + N log N).
pub fn count_prefixes(codes: Codes<'_>, n_threads: usize) -> Vec<usize> {
    let space = CodeSpace::around(codes);
    let sorted = Sorted::new(codes, &space, n_threads);
    let mut counts = vec![0; codes.n_levels()];
    let mut last = None;
    for place in 0..sorted.len() {
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
    counts
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
/// to K codes of two levels and O(K) for each code of the last but one that has to be looked into.
///
/// # Errors
/// If codes, rules or plan do not fit, two frozen rows share codes, a row that has to be ranked
/// has numbers that cannot be, or there are more rows than semantic IDs.
pub fn resolve_collisions<D: Distances>(
    codes: Codes<'_>,
    space: &CodeSpace,
    distances: &D,
    rules: RowRules<'_>,
    plan: &Plan,
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
    let sorted = Sorted::new(codes, space, plan.n_threads);
    let resolver = Resolver { codes, space, distances, rules, plan, sorted: &sorted };
    let depth = space.n_levels().saturating_sub(plan.open_levels);
    let n_threads = useful_threads(plan.n_threads, codes.n_rows());
    let pieces = resolver.pieces(depth, n_threads);
    resolver.check(pieces.clone(), n_threads)?;
    let moves = in_threads(pieces, n_threads, |piece| resolver.piece(piece, depth));

    let mut resolved = codes.data().to_vec();
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
        for (row, codes) in resolver.place_left_over(&left_over, depth, &resolved, &moved) {
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
        rows.iter().map(cost).collect::<Vec<f32>>()
    });
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

/// All that does not change while collisions are resolved.
struct Resolver<'a, D> {
    codes: Codes<'a>,
    space: &'a CodeSpace,
    distances: &'a D,
    rules: RowRules<'a>,
    plan: &'a Plan,
    sorted: &'a Sorted,
}

/// What came out of some buckets.
///
/// ```text
/// moved      (row 4, (0, 1)) (row 9, (0, 3))
/// left_over  7      its bucket was full
/// ```
#[derive(Default)]
struct Outcome {
    moved: Vec<(usize, Id)>,
    left_over: Vec<usize>,
}

/// What a thread keeps from bucket to bucket.
struct Desk<'a, D: Distances> {
    occupancy: Occupancy<'a>,
    search: Search<'a, D>,
    buffer: Vec<f64>,
}

/// A row that shares its codes, ranked among those it shares them with.
///
/// ```text
/// rank    negative loss, or distance to the last code: the least keeps the codes
/// listed  its nearest free semantic IDs, where they were needed for the rank
/// ```
struct Ranked {
    rank: f64,
    key: u64,
    row: usize,
    listed: Vec<Found>,
}

impl<'a, D: Distances> Resolver<'a, D> {
    fn desk(&self) -> Desk<'a, D> {
        Desk {
            occupancy: Occupancy::new(self.space),
            search: Search::new(self.distances, self.space),
            buffer: Vec::new(),
        }
    }

    fn write(&self, resolved: &mut [u16], row: usize, codes: &Id) {
        let n_levels = self.codes.n_levels();
        resolved[row * n_levels..][..n_levels].copy_from_slice(&codes[..n_levels]);
    }

    fn rows(&self, run: Range<usize>) -> impl Iterator<Item = usize> + 'a {
        let sorted = self.sorted;
        run.map(move |place| sorted.row(place))
    }

    /// Check all groups before any row moves, and name the lowest bad row of all.
    fn check(&self, pieces: Vec<Range<usize>>, n_threads: usize) -> Result<()> {
        let faults = in_threads(pieces, n_threads, |piece| self.faults(piece));
        let (frozen, bad): (Vec<_>, Vec<_>) = faults.into_iter().unzip();
        if let Some((first, second)) = frozen.into_iter().flatten().min() {
            return Err(Error::FrozenCollision { first, second });
        }
        bad.into_iter().flatten().min().map_or(Ok(()), |row| self.distances.check(row))
    }

    /// In some buckets, the lowest two frozen rows that share codes, and the lowest bad row.
    fn faults(&self, piece: Range<usize>) -> (Option<(usize, usize)>, Option<usize>) {
        let (mut frozen_pair, mut bad) = (None, None);
        for run in self.sorted.runs(piece).filter(|run| run.len() > 1) {
            let mut frozen = None;
            for row in self.rows(run) {
                if self.rules.is_frozen(row) {
                    if let Some(first) = frozen.replace(row) {
                        let pair = (first, row);
                        frozen_pair =
                            Some(frozen_pair.map_or(pair, |p: (usize, usize)| p.min(pair)));
                    }
                } else if bad.is_none_or(|lowest| row < lowest)
                    && self.distances.check(row).is_err()
                {
                    bad = Some(row);
                }
            }
        }
        (frozen_pair, bad)
    }

    /// Ranges of whole buckets, several for each thread.
    fn pieces(&self, depth: usize, n_threads: usize) -> Vec<Range<usize>> {
        let n_rows = self.sorted.len();
        let shift = self.space.bits_below(depth);
        let rows_each = if n_threads > 1 { n_rows.div_ceil(n_threads * 64).max(1) } else { n_rows };
        let (mut pieces, mut start) = (Vec::new(), 0);
        while start < n_rows {
            let end = self.sorted.next_prefix((start + rows_each).min(n_rows) - 1, shift);
            pieces.push(start..end);
            start = end;
        }
        pieces
    }

    fn piece(&self, piece: Range<usize>, depth: usize) -> Outcome {
        let shift = self.space.bits_below(depth);
        let (mut outcome, mut desk) = (Outcome::default(), self.desk());
        let mut start = piece.start;
        while start < piece.end {
            let end = self.sorted.next_prefix(start, shift);
            let groups: Vec<Range<usize>> =
                self.sorted.runs(start..end).filter(|run| run.len() > 1).collect();
            if !groups.is_empty() {
                self.bucket((start..end, &groups), depth, &mut desk, &mut outcome);
            }
            start = end;
        }
        outcome
    }

    /// Resolve the groups of one bucket: the rows that share their first `depth` codes.
    fn bucket(
        &self,
        (bucket, groups): (Range<usize>, &[Range<usize>]),
        depth: usize,
        desk: &mut Desk<'a, D>,
        outcome: &mut Outcome,
    ) {
        let all_move = self.plan.reassign == Reassign::Colliding;
        let is_held = |run: &Range<usize>| {
            !all_move
                || run.len() == 1
                || self.rows(run.clone()).any(|row| self.rules.is_frozen(row))
        };
        let held = self.sorted.runs(bucket.clone()).filter(is_held);
        desk.occupancy.reset(held.map(|run| self.sorted.word(run.start)));
        let prefix = self.space.codes(self.sorted.word(bucket.start));
        let prefix = &prefix[..depth];

        let mut movers = Vec::new();
        for group in groups {
            let ranked = self.rank(group.clone(), prefix, desk);
            // A frozen row holds the place of the one that keeps, so then nobody else does.
            let keepers = usize::from(!all_move && ranked.len() == group.len());
            movers.extend(ranked.into_iter().skip(keepers));
        }
        if self.plan.policy == Policy::Optimal {
            self.assign(movers, prefix, desk, outcome);
        } else {
            self.take_turns(movers, depth, desk, outcome);
        }
    }

    fn own(&self, row: usize) -> Id {
        let mut own = Id::default();
        own[..self.codes.n_levels()].copy_from_slice(self.codes.row(row));
        own
    }

    /// Order the rows of a group that are not frozen; the first is the one to keep the codes.
    fn rank(&self, group: Range<usize>, prefix: &[u16], desk: &mut Desk<'a, D>) -> Vec<Ranked> {
        let n_listed = match (self.plan.keep, self.plan.policy) {
            (Keep::Nearest, _) => 0,
            (Keep::MaxLoss, Policy::Optimal) => FIRST_LISTED,
            (Keep::MaxLoss, _) => 1,
        };
        let rows = self.rows(group).filter(|&row| !self.rules.is_frozen(row));
        let mut ranked: Vec<Ranked> = rows
            .map(|row| {
                let listed = self.list(row, prefix, n_listed, desk);
                let rank = match self.plan.keep {
                    Keep::Nearest => self.distances.last(row, self.codes.row(row)),
                    Keep::MaxLoss => {
                        let own = self.distances.error(row, self.codes.row(row));
                        own - listed.first().map_or(f64::INFINITY, |found| found.error)
                    }
                };
                Ranked { rank, key: self.rules.key(row), row, listed }
            })
            .collect();
        // Finite or all infinite, so they compare; and not by total_cmp, since -0.0 is as near as 0.0.
        let order = |a: &Ranked, b: &Ranked| {
            let rank = a.rank.partial_cmp(&b.rank).unwrap_or(Ordering::Equal);
            rank.then((a.key, a.row).cmp(&(b.key, b.row)))
        };
        ranked.sort_unstable_by(order);
        ranked
    }

    /// The first `n` of the semantic IDs that a row would take.
    fn list(&self, row: usize, prefix: &[u16], n: usize, desk: &mut Desk<'a, D>) -> Vec<Found> {
        match (self.plan.policy, n) {
            (_, 0) => Vec::new(),
            (Policy::Paper, _) => self.stepwise(row, prefix.len(), desk).into_iter().collect(),
            _ => desk.search.nearest(row, prefix, n, &mut desk.occupancy).to_vec(),
        }
    }

    /// Each mover takes the first of its list that is still free, or looks again.
    fn take_turns(
        &self,
        movers: Vec<Ranked>,
        depth: usize,
        desk: &mut Desk<'a, D>,
        outcome: &mut Outcome,
    ) {
        for mover in movers {
            let listed = mover.listed.first().copied();
            let found = match listed.filter(|found| desk.occupancy.is_free(&found.codes)) {
                Some(found) => Some(found),
                None => self.list(mover.row, &self.own(mover.row)[..depth], 1, desk).pop(),
            };
            match found {
                Some(found) => {
                    desk.occupancy.take(&found.codes);
                    outcome.moved.push((mover.row, found.codes));
                }
                None => outcome.left_over.push(mover.row),
            }
        }
    }

    /// All movers together, or block by block.
    fn assign(
        &self,
        movers: Vec<Ranked>,
        prefix: &[u16],
        desk: &mut Desk<'a, D>,
        outcome: &mut Outcome,
    ) {
        let n_free = desk.occupancy.n_free_below(prefix);
        let n_placed = movers.len().min(usize::try_from(n_free).unwrap_or(usize::MAX));
        let mut seekers: Vec<Seeker> = movers
            .into_iter()
            .map(|mover| Seeker { row: mover.row, listed: mover.listed })
            .collect();
        outcome.left_over.extend(seekers.drain(n_placed..).map(|seeker| seeker.row));
        for (block, seekers) in seekers.chunks_mut(BLOCK).enumerate() {
            for seeker in &mut *seekers {
                if block > 0 || seeker.listed.is_empty() {
                    seeker.listed = self.list(seeker.row, prefix, FIRST_LISTED, desk);
                }
            }
            let found = assignment::assign(seekers, prefix, &mut desk.search, &mut desk.occupancy);
            for (seeker, codes) in seekers.iter().zip(found) {
                let Some(codes) = codes else {
                    outcome.left_over.push(seeker.row);
                    continue;
                };
                desk.occupancy.take(&codes);
                if codes != self.own(seeker.row) {
                    outcome.moved.push((seeker.row, codes));
                }
            }
        }
    }

    /// The published rule: keep as many of a row's codes, at least `depth`, as leave room below them;
    /// from there down, the nearest codes with room.
    fn stepwise(&self, row: usize, depth: usize, desk: &mut Desk<'a, D>) -> Option<Found> {
        let n_levels = self.codes.n_levels();
        let mut codes = self.own(row);
        let has_room = |&kept: &usize| desk.occupancy.has_room(&codes[..kept]);
        let kept = (depth..n_levels).rev().find(has_room)?;
        codes[kept..].fill(0);
        for level in kept..n_levels {
            self.distances.fill(row, &codes[..level], &mut desk.buffer);
            codes[level] = nearest_with_room(&codes, level, n_levels, desk)?;
        }
        Some(Found { error: self.distances.error(row, &codes[..n_levels]), codes })
    }

    /// Rows whose buckets were full, one after the other, in the room that is left anywhere.
    fn place_left_over(
        &self,
        rows: &[usize],
        depth: usize,
        resolved: &[u16],
        moved: &[usize],
    ) -> Vec<(usize, Option<Id>)> {
        let n_levels = self.codes.n_levels();
        // What a whole group gave up is free again; what those left over had is held by others.
        let stays = |row: usize| resolved[row * n_levels..][..n_levels] == *self.codes.row(row);
        let is_held = |run: &Range<usize>| run.len() == 1 || self.rows(run.clone()).any(stays);
        let before = self.sorted.runs(0..self.sorted.len()).filter(is_held);
        let mut held: Vec<u128> = before.map(|run| self.sorted.word(run.start)).collect();
        let word = |&row: &usize| self.space.first_word(&resolved[row * n_levels..][..n_levels]);
        held.extend(moved.iter().map(word));
        held.sort_unstable();
        held.dedup();
        let mut desk = self.desk();
        desk.occupancy.reset(held.into_iter());
        let mut place = |&row: &usize| {
            let found = self.anywhere(row, depth, &mut desk).map(|found| found.codes);
            if let Some(codes) = &found {
                desk.occupancy.take(codes);
            }
            (row, found)
        };
        rows.iter().map(&mut place).collect()
    }

    fn anywhere(&self, row: usize, depth: usize, desk: &mut Desk<'a, D>) -> Option<Found> {
        if self.plan.policy == Policy::Paper {
            return self.stepwise(row, 0, desk);
        }
        let own = self.own(row);
        let kept = (0..depth).rev().find(|&kept| desk.occupancy.has_room(&own[..kept]))?;
        desk.search.nearest(row, &own[..kept], 1, &mut desk.occupancy).first().copied()
    }
}

/// The nearest code at a level, below which there is room, the lower one of two as near. The
/// occupancy is asked only about codes that would be nearer than the best so far: about log K of
/// them, and those in the way.
fn nearest_with_room<D: Distances>(
    codes: &Id,
    level: usize,
    n_levels: usize,
    desk: &mut Desk<'_, D>,
) -> Option<u16> {
    let (mut candidate, mut best) = (*codes, None);
    for (code, &distance) in (0..=u16::MAX).zip(&desk.buffer) {
        if best.is_some_and(|(nearest, _)| distance >= nearest) {
            continue;
        }
        candidate[level] = code;
        let has_room = if level + 1 < n_levels {
            desk.occupancy.has_room(&candidate[..=level])
        } else {
            desk.occupancy.is_free(&candidate)
        };
        if has_room {
            best = Some((distance, code));
        }
    }
    best.map(|(_, code)| code)
}

#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod tests;
