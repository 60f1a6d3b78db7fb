//! How the rows of each bucket are ranked, moved and placed.

use std::cmp::Ordering;
use std::ops::Range;

use super::{Keep, Plan, Policy, Reassign, RowRules};
use crate::assignment::{self, Seeker, FIRST_LISTED};
use crate::codes::{CodeSpace, Codes, Id};
use crate::distances::Distances;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::occupancy::Occupancy;
use crate::search::{Found, Search};
use crate::sorting::Sorted;
use crate::threads::in_threads;

/// Movers of a bucket that are assigned together at most: the time for items that all contend with
/// each other grows with the cube of their number.
const BLOCK: usize = 1024;

/// All that does not change while collisions are resolved.
pub(super) struct Resolver<'a, D> {
    pub(super) codes: Codes<'a>,
    pub(super) space: &'a CodeSpace,
    pub(super) distances: &'a D,
    pub(super) rules: RowRules<'a>,
    pub(super) plan: &'a Plan,
    pub(super) sorted: &'a Sorted,
    pub(super) interrupt: &'a Interrupt,
}

/// What came out of some buckets.
///
/// ```text
/// moved      (row 4, (0, 1)) (row 9, (0, 3))
/// left_over  7      its bucket was full
/// ```
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) moved: Vec<(usize, Id)>,
    pub(super) left_over: Vec<usize>,
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
            search: Search::new(self.distances, self.space, self.interrupt),
            buffer: Vec::new(),
        }
    }

    pub(super) fn write(&self, resolved: &mut [u16], row: usize, codes: &Id) {
        let n_levels = self.codes.n_levels();
        resolved[row * n_levels..][..n_levels].copy_from_slice(&codes[..n_levels]);
    }

    fn rows(&self, run: Range<usize>) -> impl Iterator<Item = usize> + 'a {
        let sorted = self.sorted;
        run.map(move |place| sorted.row(place))
    }

    /// Check all groups before any row moves, and name the lowest bad row of all.
    pub(super) fn check(&self, pieces: Vec<Range<usize>>, n_threads: usize) -> Result<()> {
        let faults = in_threads(pieces, n_threads, |piece| self.faults(piece));
        self.interrupt.check()?;
        let (frozen, bad): (Vec<_>, Vec<_>) = faults.into_iter().unzip();
        if let Some((first, second)) = frozen.into_iter().flatten().min() {
            return Err(Error::FrozenCollision { first, second });
        }
        bad.into_iter().flatten().min().map_or(Ok(()), |row| self.distances.check(row))
    }

    /// In some buckets, the lowest two frozen rows that share codes, and the lowest bad row.
    fn faults(&self, piece: Range<usize>) -> (Option<(usize, usize)>, Option<usize>) {
        let (mut frozen_pair, mut bad) = (None, None);
        let goes_on = |_: &Range<usize>| !self.interrupt.is_asked();
        for run in self.sorted.runs(piece).take_while(goes_on).filter(|run| run.len() > 1) {
            let mut frozen = None;
            for row in self.rows(run) {
                if self.interrupt.is_asked() {
                    break;
                }
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
    pub(super) fn pieces(&self, depth: usize, n_threads: usize) -> Vec<Range<usize>> {
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

    pub(super) fn piece(&self, piece: Range<usize>, depth: usize) -> Outcome {
        let shift = self.space.bits_below(depth);
        let (mut outcome, mut desk) = (Outcome::default(), self.desk());
        let mut start = piece.start;
        while start < piece.end && !self.interrupt.is_asked() {
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
            .take_while(|_| !self.interrupt.is_asked())
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
        for mover in movers.into_iter().take_while(|_| !self.interrupt.is_asked()) {
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
        let blocks = seekers.chunks_mut(BLOCK).take_while(|_| !self.interrupt.is_asked());
        for (block, seekers) in blocks.enumerate() {
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
    pub(super) fn place_left_over(
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
        let goes_on = |_: &Range<usize>| !self.interrupt.is_asked();
        let runs = self.sorted.runs(0..self.sorted.len()).take_while(goes_on);
        let before = runs.filter(is_held);
        let mut held: Vec<u128> = before.map(|run| self.sorted.word(run.start)).collect();
        let word = |&row: &usize| self.space.first_word(&resolved[row * n_levels..][..n_levels]);
        held.extend(moved.iter().map(word));
        self.interrupt.sort(&mut held);
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
        rows.iter().take_while(|_| !self.interrupt.is_asked()).map(&mut place).collect()
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
