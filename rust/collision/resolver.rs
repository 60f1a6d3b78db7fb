//! How the rows of each bucket are ranked, moved and placed.

use std::ops::Range;

use super::ladder::Ladder;
use super::{Keep, Plan, Policy, Reassign, RowRules};
use crate::assignment::FIRST_LISTED;
use crate::codes::{CodeSpace, Codes, Id};
use crate::distances::Distances;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::occupancy::Occupancy;
use crate::search::{Found, Search};
use crate::sorting::Sorted;
use crate::threads::in_threads;

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

/// What was found in some buckets before any row moved.
///
/// ```text
/// frozen     (3, 8)    the lowest two frozen rows that share their codes
/// bad        5         the lowest row that cannot be ranked
/// n_sharing  70        rows that share their codes
/// ```
struct Faults {
    frozen: Option<(usize, usize)>,
    bad: Option<usize>,
    n_sharing: usize,
}

/// What a thread keeps from bucket to bucket.
pub(super) struct Desk<'a, D: Distances> {
    pub(super) occupancy: Occupancy<'a>,
    pub(super) search: Search<'a, D>,
    ladders: Vec<Ladder>,
}

/// A row that shares its codes, ranked among those it shares them with.
///
/// ```text
/// rank    negative loss, or distance to the last code: the least keeps the codes
/// listed  its nearest free semantic IDs, where they were needed for the rank
/// ```
pub(super) struct Ranked {
    rank: f64,
    key: u64,
    pub(super) row: usize,
    pub(super) listed: Vec<Found>,
}

impl<'a, D: Distances> Resolver<'a, D> {
    pub(super) fn desk(&self) -> Desk<'a, D> {
        Desk {
            occupancy: Occupancy::new(self.space, self.distances.kinds()),
            search: Search::new(self.distances, self.space, self.interrupt),
            ladders: vec![Ladder::default(); self.codes.n_levels()],
        }
    }

    pub(super) fn write(&self, resolved: &mut [u16], row: usize, codes: &Id) {
        let n_levels = self.codes.n_levels();
        resolved[row * n_levels..][..n_levels].copy_from_slice(&codes[..n_levels]);
    }

    pub(super) fn rows(&self, run: Range<usize>) -> impl Iterator<Item = usize> + 'a {
        let sorted = self.sorted;
        run.map(move |place| sorted.row(place))
    }

    /// Check all groups before any row moves, and name the lowest bad row of all. Returns how many
    /// rows share their codes.
    pub(super) fn check(&self, pieces: Vec<Range<usize>>, n_threads: usize) -> Result<usize> {
        let faults = in_threads(pieces, n_threads, |piece| self.faults(piece));
        self.interrupt.check()?;
        if let Some((first, second)) = faults.iter().filter_map(|faults| faults.frozen).min() {
            return Err(Error::FrozenCollision { first, second });
        }
        if let Some(row) = faults.iter().filter_map(|faults| faults.bad).min() {
            self.distances.check(row)?;
        }
        Ok(faults.iter().map(|faults| faults.n_sharing).sum())
    }

    fn faults(&self, piece: Range<usize>) -> Faults {
        let (mut frozen_pair, mut bad, mut n_sharing) = (None, None, 0);
        let goes_on = |_: &Range<usize>| !self.interrupt.is_asked();
        for run in self.sorted.runs(piece).take_while(goes_on).filter(|run| run.len() > 1) {
            n_sharing += run.len();
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
        Faults { frozen: frozen_pair, bad, n_sharing }
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
        desk.ladders.iter_mut().for_each(Ladder::forget);
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
            for run in movers.chunk_by(|a, b| self.distances.alike(a.row, b.row)) {
                if run.len() > 1 && self.plan.policy == Policy::Nearest {
                    self.take_nearest(run, prefix, desk, outcome);
                } else {
                    self.take_turns(run, depth, desk, outcome);
                }
            }
        }
    }

    pub(super) fn own(&self, row: usize) -> Id {
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
        let mut before: Option<(usize, Vec<Found>)> = None;
        let mut ranked: Vec<Ranked> = rows
            .take_while(|_| !self.interrupt.is_asked())
            .map(|row| {
                let listed = match before.take() {
                    Some((twin, listed)) if n_listed > 0 && self.distances.alike(twin, row) => {
                        listed
                    }
                    _ => self.list(row, prefix, n_listed, desk),
                };
                before = Some((row, listed.clone()));
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
        // -0.0 is as near as 0.0.
        let order = |a: &Ranked, b: &Ranked| {
            let rank = (a.rank + 0.0).total_cmp(&(b.rank + 0.0));
            rank.then((a.key, a.row).cmp(&(b.key, b.row)))
        };
        ranked.sort_unstable_by(order);
        ranked
    }

    /// The first `n` of the semantic IDs that a row would take.
    pub(super) fn list(
        &self,
        row: usize,
        prefix: &[u16],
        n: usize,
        desk: &mut Desk<'a, D>,
    ) -> Vec<Found> {
        match (self.plan.policy, n) {
            (_, 0) => Vec::new(),
            (Policy::Paper, _) => self.stepwise(row, prefix.len(), desk).into_iter().collect(),
            _ => desk.search.nearest(row, prefix, n, &mut desk.occupancy).to_vec(),
        }
    }

    /// The `n` nearest free semantic IDs below a prefix, or as many as there are, taken.
    pub(super) fn take(
        &self,
        row: usize,
        prefix: &[u16],
        n: usize,
        desk: &mut Desk<'a, D>,
    ) -> Vec<Id> {
        let n_free = desk.occupancy.n_free_below(prefix);
        let n = n.min(usize::try_from(n_free).unwrap_or(usize::MAX));
        let found = desk.search.nearest(row, prefix, n, &mut desk.occupancy);
        let found: Vec<Id> = found.iter().map(|found| found.codes).collect();
        found.iter().for_each(|codes| desk.occupancy.take(codes));
        found
    }

    /// What movers that are alike take one after the other lies in the list of the first.
    fn take_nearest(
        &self,
        movers: &[Ranked],
        prefix: &[u16],
        desk: &mut Desk<'a, D>,
        outcome: &mut Outcome,
    ) {
        let found = self.take(movers[0].row, prefix, movers.len(), desk);
        let (placed, left_over) = movers.split_at(found.len().min(movers.len()));
        outcome.moved.extend(placed.iter().map(|mover| mover.row).zip(found));
        outcome.left_over.extend(left_over.iter().map(|mover| mover.row));
    }

    /// Each mover takes the first of its list that is still free, or looks again.
    fn take_turns(
        &self,
        movers: &[Ranked],
        depth: usize,
        desk: &mut Desk<'a, D>,
        outcome: &mut Outcome,
    ) {
        for mover in movers.iter().take_while(|_| !self.interrupt.is_asked()) {
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

    /// The published rule: keep as many of a row's codes, at least `depth`, as leave room below them;
    /// from there down, the nearest codes with room.
    pub(super) fn stepwise(
        &self,
        row: usize,
        depth: usize,
        desk: &mut Desk<'a, D>,
    ) -> Option<Found> {
        let n_levels = self.codes.n_levels();
        let mut codes = self.own(row);
        let has_room = |&kept: &usize| desk.occupancy.has_room(&codes[..kept]);
        let kept = (depth..n_levels).rev().find(has_room)?;
        codes[kept..].fill(0);
        for level in kept..n_levels {
            codes[level] = self.next_code(row, &codes, level, desk)?;
        }
        Some(Found { error: self.distances.error(row, &codes[..n_levels]), codes })
    }

    /// The nearest code of a level below which there is room, the lower one of two as near.
    fn next_code(
        &self,
        row: usize,
        codes: &Id,
        level: usize,
        desk: &mut Desk<'a, D>,
    ) -> Option<u16> {
        let (ladder, occupancy) = (&mut desk.ladders[level], &mut desk.occupancy);
        let mut candidate = *codes;
        let has_room = |code: u16| {
            candidate[level] = code;
            if level + 1 < self.codes.n_levels() {
                occupancy.has_room(&candidate[..=level])
            } else {
                occupancy.is_free(&candidate)
            }
        };
        if ladder.is_for(&codes[..level], |twin| self.distances.alike(twin, row)) {
            return ladder.next(has_room);
        }
        self.distances.fill(row, &codes[..level], ladder.reset(row, &codes[..level]));
        ladder.first(has_room)
    }
}
