//! Movers of a bucket that are assigned together.

use super::resolver::{Desk, Outcome, Ranked, Resolver};
use crate::assignment::{self, Seeker, FIRST_LISTED};
use crate::codes::Id;
use crate::distances::Distances;

/// Movers of a bucket that are assigned together at most: the time for items that all contend with
/// each other grows with the cube of their number.
const BLOCK: usize = 1024;

impl<'a, D: Distances> Resolver<'a, D> {
    /// All movers together, or block by block.
    pub(super) fn assign(
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
        let (mut rest, mut is_first) = (&mut seekers[..], true);
        while !rest.is_empty() && !self.interrupt.is_asked() {
            let n_alike = self.n_alike(rest);
            let block;
            (block, rest) =
                rest.split_at_mut(if n_alike > 0 { n_alike } else { BLOCK.min(rest.len()) });
            let found = if n_alike > 0 {
                self.take(block[0].row, prefix, n_alike, desk).into_iter().map(Some).collect()
            } else {
                self.assign_block(block, prefix, is_first, desk)
            };
            is_first = false;
            let found = found.into_iter().chain(std::iter::repeat(None));
            for (seeker, codes) in block.iter().zip(found) {
                match codes {
                    None => outcome.left_over.push(seeker.row),
                    Some(codes) if codes == self.own(seeker.row) => {}
                    Some(codes) => outcome.moved.push((seeker.row, codes)),
                }
            }
        }
    }

    /// How many of the first are alike, in whole blocks: they share their nearest semantic IDs among
    /// them in any order.
    fn n_alike(&self, seekers: &[Seeker]) -> usize {
        let n = seekers.iter().take_while(|s| self.distances.alike(seekers[0].row, s.row)).count();
        if n == seekers.len() {
            n
        } else {
            n / BLOCK * BLOCK
        }
    }

    /// Take the semantic IDs of the least total error.
    fn assign_block(
        &self,
        seekers: &mut [Seeker],
        prefix: &[u16],
        is_first: bool,
        desk: &mut Desk<'a, D>,
    ) -> Vec<Option<Id>> {
        let mut kinds = Vec::with_capacity(seekers.len());
        for place in 0..seekers.len() {
            let (before, rest) = seekers.split_at_mut(place);
            let Some(seeker) = rest.first_mut() else { break };
            let twin = before.last().filter(|twin| self.distances.alike(twin.row, seeker.row));
            kinds.push(kinds.last().map_or(0, |kind| kind + usize::from(twin.is_none())));
            if !is_first || seeker.listed.is_empty() {
                seeker.listed = match twin {
                    Some(twin) => twin.listed.clone(),
                    None => self.list(seeker.row, prefix, FIRST_LISTED, desk),
                };
            }
        }
        let (search, occupancy) = (&mut desk.search, &mut desk.occupancy);
        let found = assignment::assign(seekers, kinds, prefix, search, occupancy);
        found.iter().flatten().for_each(|codes| desk.occupancy.take(codes));
        found
    }
}
