//! Rows whose buckets were full.

use std::ops::Range;

use super::resolver::{Desk, Resolver};
use super::Policy;
use crate::codes::Id;
use crate::distances::Distances;

impl<'a, D: Distances> Resolver<'a, D> {
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
        if self.plan.policy != Policy::Paper {
            return self.place_nearest(rows, depth, &mut desk);
        }
        let mut place = |&row: &usize| {
            let found = self.stepwise(row, 0, &mut desk).map(|found| found.codes);
            if let Some(codes) = &found {
                desk.occupancy.take(codes);
            }
            (row, found)
        };
        rows.iter().take_while(|_| !self.interrupt.is_asked()).map(&mut place).collect()
    }

    /// Rows alike in codes and numbers together, below the longest prefix that has room.
    fn place_nearest(
        &self,
        rows: &[usize],
        depth: usize,
        desk: &mut Desk<'a, D>,
    ) -> Vec<(usize, Option<Id>)> {
        let mut placed = Vec::with_capacity(rows.len());
        let alike = |&a: &usize, &b: &usize| {
            self.codes.row(a) == self.codes.row(b) && self.distances.alike(a, b)
        };
        for run in rows.chunk_by(alike) {
            let (own, mut rest) = (self.own(run[0]), run);
            while let [first, ..] = rest {
                let kept = (0..depth).rev().find(|&kept| desk.occupancy.has_room(&own[..kept]));
                let kept = kept.filter(|_| !self.interrupt.is_asked());
                let found = kept.map(|kept| self.take(*first, &own[..kept], rest.len(), desk));
                let Some(found) = found.filter(|found| !found.is_empty()) else {
                    placed.extend(rest.iter().map(|&row| (row, None)));
                    break;
                };
                let (here, after) = rest.split_at(found.len());
                placed.extend(here.iter().copied().zip(found.into_iter().map(Some)));
                rest = after;
            }
        }
        placed
    }
}
