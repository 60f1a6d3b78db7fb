//! The free semantic IDs nearest to an item, best first.
//!
//! Prefixes are opened in the order of a lower bound for all below them, until the bound of the next
//! is above the worst that was found. Bounds and errors are computed fast and slightly wrong, with a
//! known margin; whatever could be among the best within it is computed again exactly, so that the
//! result is that of a search through everything.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::codes::{CodeSpace, Id};
use crate::distances::{Distances, Probe};
use crate::occupancy::{is_set, Occupancy};

/// A free semantic ID and the error that a row would have with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    pub(crate) error: f64,
    pub(crate) codes: Id,
}

impl Found {
    fn order(&self, other: &Self) -> Ordering {
        // Errors are finite, so they compare; -0.0 does not occur, being a sum of squares or of
        // the same distances.
        self.error
            .partial_cmp(&other.error)
            .unwrap_or(Ordering::Equal)
            .then(self.codes.cmp(&other.codes))
    }
}

/// A prefix that may hold one of the best.
///
/// ```text
/// bound   what nothing below it is under, but for the margin
/// near    squared norm of what it leaves: who is near is looked at first
/// codes   its codes, the rest zero
/// depth   how many
/// parent  for a prefix of L - 1 codes: the node that knows its leaves
/// ```
struct Branch {
    bound: f32,
    near: f32,
    codes: Id,
    depth: usize,
    parent: usize,
}

impl PartialEq for Branch {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Branch {}

impl PartialOrd for Branch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest is the one to open next.
impl Ord for Branch {
    fn cmp(&self, other: &Self) -> Ordering {
        let bound = other.bound.total_cmp(&self.bound);
        bound.then(other.near.total_cmp(&self.near)).then_with(|| other.codes.cmp(&self.codes))
    }
}

/// Searches one after the other, with the same buffers.
///
/// Looking for the best two of K = (2, 4), with one branch open and one to go:
///
/// ```text
/// branches  (1) bound .3
/// leaves    .1 .9 .2 .5      errors of (0, 0) to (0, 3)
/// near      (.1, 0) (.2, 2)  those that may be among the best
/// best      (0, 0) .1, (0, 2) .2
/// ```
pub(crate) struct Search<'a, D: Distances + 'a> {
    distances: &'a D,
    space: &'a CodeSpace,
    probe: D::Probe<'a>,
    branches: BinaryHeap<Branch>,
    leaves: Vec<f32>,
    near: Vec<(f32, u16)>,
    best: Vec<Found>,
}

impl<'a, D: Distances> Search<'a, D> {
    pub(crate) fn new(distances: &'a D, space: &'a CodeSpace) -> Self {
        Self {
            distances,
            space,
            probe: distances.probe(),
            branches: BinaryHeap::new(),
            leaves: Vec::new(),
            near: Vec::new(),
            best: Vec::new(),
        }
    }

    /// The `n` free semantic IDs below a prefix with the least errors, ties to the lower codes; fewer
    /// if there are not as many. O(K E) for every branch of L - 2 codes that is opened, O(K) for every
    /// one of L - 1.
    pub(crate) fn nearest(
        &mut self,
        row: usize,
        prefix: &[u16],
        n: usize,
        occupancy: &mut Occupancy<'_>,
    ) -> &[Found] {
        let n_levels = self.space.n_levels();
        let depth = prefix.len().min(n_levels - 2);
        self.best.clear();
        self.branches.clear();
        self.probe.start(row, &prefix[..depth]);
        let mut codes = Id::default();
        codes[..depth].copy_from_slice(&prefix[..depth]);
        self.open(codes, depth, n);
        let margin = self.probe.margin();
        while let Some(branch) = self.branches.pop() {
            if f64::from(branch.bound) > self.limit(n) + margin {
                break;
            }
            if branch.depth < n_levels - 1 {
                if occupancy.has_room(&branch.codes[..branch.depth]) {
                    self.open(branch.codes, branch.depth, n);
                }
            } else {
                self.look(row, &branch, n, occupancy);
            }
        }
        &self.best
    }

    /// The error that one more has to stay under, or reach with lower codes.
    fn limit(&self, n: usize) -> f64 {
        let full = self.best.len() >= n;
        self.best.last().filter(|_| full).map_or(f64::INFINITY, |worst| worst.error)
    }

    /// Add the branches of a prefix that may hold one of the best.
    fn open(&mut self, codes: Id, depth: usize, n: usize) {
        let parent = self.probe.open(&codes[..depth]);
        let limit = (self.limit(n) + self.probe.margin()) as f32;
        let (near, bounds) = self.probe.bounds(parent);
        for ((code, &bound), &near) in (0..=u16::MAX).zip(bounds).zip(near) {
            if bound <= limit {
                let mut codes = codes;
                codes[depth] = code;
                self.branches.push(Branch { bound, near, codes, depth: depth + 1, parent });
            }
        }
    }

    /// Look at all leaves of a prefix of L - 1 codes.
    fn look(&mut self, row: usize, branch: &Branch, n: usize, occupancy: &mut Occupancy<'_>) {
        let last = branch.depth;
        let first_word = self.space.first_word(&branch.codes[..last]);
        let Some(held) = occupancy.held_bits(first_word) else { return };
        self.probe.leaves(branch.parent, branch.codes[last - 1], &mut self.leaves);
        let margin = self.probe.margin();
        let limit = (self.limit(n) + margin) as f32;
        if self.leaves.iter().copied().fold(f32::INFINITY, f32::min) > limit {
            return;
        }
        self.near.clear();
        for (code, &leaf) in (0..=u16::MAX).zip(&self.leaves) {
            if leaf <= limit && !is_set(held, usize::from(code)) {
                self.near.push((leaf, code));
            }
        }
        if self.near.len() > n {
            let (_, worst, _) = self.near.select_nth_unstable_by(n - 1, |a, b| a.0.total_cmp(&b.0));
            let limit = (f64::from(worst.0) + 2.0 * margin) as f32;
            self.near.retain(|&(leaf, _)| leaf <= limit);
        }
        for &(_, code) in &self.near {
            let mut codes = branch.codes;
            codes[last] = code;
            let error = self.distances.error(row, &codes[..=last]);
            let found = Found { error, codes };
            let place = self.best.partition_point(|other| other.order(&found) == Ordering::Less);
            if place < n {
                self.best.truncate(n - 1);
                self.best.insert(place, found);
            }
        }
    }
}
