//! The free semantic IDs nearest to an item, best first.
//!
//! Prefixes are opened in the order of a lower bound for all below them, until the bound of the next
//! is above the worst that was found. Bounds and errors are computed fast and slightly wrong, with a
//! known margin; whatever could be among the best within it is computed again exactly, so that the
//! result is that of a search through everything.

mod best;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use best::Best;

use crate::codes::{CodeSpace, Id};
use crate::distances::{Distances, Probe};
use crate::interrupt::Interrupt;
use crate::kinds::Kinds;
use crate::occupancy::{is_set, Occupancy};

/// A free semantic ID and the error that a row would have with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    pub(crate) error: f64,
    pub(crate) codes: Id,
}

impl Found {
    fn order(&self, other: &Self) -> Ordering {
        // -0.0 is as near as 0.0. Errors are finite, but for those of arrays that somebody writes
        // into meanwhile: then there has to be an order, too.
        (self.error + 0.0).total_cmp(&(other.error + 0.0)).then(self.codes.cmp(&other.codes))
    }
}

/// A prefix of at most L - 2 codes that may hold one of the best.
///
/// ```text
/// bound   what nothing below it is under, but for the margin
/// codes   its codes, the rest zero
/// depth   how many
/// ```
struct Branch {
    bound: f32,
    codes: Id,
    depth: usize,
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
        other.bound.total_cmp(&self.bound).then_with(|| other.codes.cmp(&self.codes))
    }
}

/// Searches one after the other, with the same buffers.
///
/// Where codes of a level are alike, a search looks at kinds of codes from the first level that may
/// change; only of a kind of semantic ID that is near enough, it lists the free ones. So a codebook
/// that collapsed takes no more time than one with as many codes as this one has kinds.
///
/// Looking for the best two of K = (2, 4), below (0), with (1) to go:
///
/// ```text
/// branches  empty            prefixes of at most L - 2 codes, with three levels or more
/// lines     .3 (1)           prefixes of L - 1 codes, after what nothing below them is under
/// leaves    .1 .9 .2 .5      errors of (0, 0) to (0, 3)
/// near      (.1, 0) (.2, 2)  those that may be among the best
/// best      (0, 0) .1, (0, 2) .2
/// ```
pub(crate) struct Search<'a, D: Distances + 'a> {
    distances: &'a D,
    space: &'a CodeSpace,
    interrupt: &'a Interrupt,
    kinds: Option<&'a Kinds>,
    from: usize,
    probe: D::Probe<'a>,
    branches: BinaryHeap<Branch>,
    lines: Vec<(f32, u16)>,
    leaves: Vec<f32>,
    near: Vec<(f32, u16)>,
    best: Best,
}

impl<'a, D: Distances> Search<'a, D> {
    pub(crate) fn new(distances: &'a D, space: &'a CodeSpace, interrupt: &'a Interrupt) -> Self {
        Self {
            distances,
            space,
            interrupt,
            kinds: distances.kinds(),
            from: 0,
            probe: distances.probe(),
            branches: BinaryHeap::new(),
            lines: Vec::new(),
            leaves: Vec::new(),
            near: Vec::new(),
            best: Best::default(),
        }
    }

    /// The `n` free semantic IDs below a prefix with the least errors, ties to the lower codes; fewer
    /// if there are not as many. O(K E + K K / 8) for every prefix of L - 2 codes that is opened, O(K)
    /// for every one of L - 1.
    pub(crate) fn nearest(
        &mut self,
        row: usize,
        prefix: &[u16],
        n: usize,
        occupancy: &mut Occupancy<'_>,
    ) -> &[Found] {
        if n == 0 {
            return &[];
        }
        let depth = prefix.len().min(self.space.n_levels() - 2);
        self.from = depth;
        self.best.reset(n);
        self.branches.clear();
        self.probe.start(row, &prefix[..depth]);
        let mut codes = Id::default();
        codes[..depth].copy_from_slice(&prefix[..depth]);
        self.branches.push(Branch { bound: f32::MIN, codes, depth });
        while let Some(Branch { bound, codes, depth }) = self.branches.pop() {
            if f64::from(bound) > self.limit() || self.interrupt.is_asked() {
                break;
            }
            if self.is_above(&codes[..depth]) || !occupancy.has_room_on(&codes[..depth], self.from)
            {
                continue;
            }
            if depth + 2 < self.space.n_levels() {
                self.open(codes, depth);
            } else {
                self.look_into(row, codes, n, occupancy);
            }
        }
        self.best.sorted()
    }

    /// The number that one more has to stay under, or reach with lower codes, margin included.
    fn limit(&self) -> f64 {
        self.best.worst().map_or(f64::INFINITY, |worst| worst.error + self.probe.margin())
    }

    /// Is nothing below a prefix among the best, as far as its least error is known exactly? Among
    /// many that are as near, this is what tells that no lower codes are to come.
    fn is_above(&self, prefix: &[u16]) -> bool {
        if self.best.worst().is_none() {
            return false;
        }
        let mut codes = Id::default();
        codes[..prefix.len()].copy_from_slice(prefix);
        let least = self.probe.least_error(prefix);
        least.is_some_and(|error| self.best.is_above(&Found { error, codes }))
    }

    /// Add the branches of a prefix that may hold one of the best.
    fn open(&mut self, codes: Id, depth: usize) {
        self.probe.open(&codes[..depth]);
        let limit = self.limit();
        for (code, &bound) in (0..=u16::MAX).zip(self.probe.bounds()) {
            if f64::from(bound) <= limit {
                let mut codes = codes;
                codes[depth] = code;
                self.branches.push(Branch { bound, codes, depth: depth + 1 });
            }
        }
    }

    /// Look below a prefix of L - 2 codes: first where it is nearest, for a limit; then where it may
    /// be near enough.
    fn look_into(&mut self, row: usize, mut codes: Id, n: usize, occupancy: &mut Occupancy<'_>) {
        let depth = self.space.n_levels() - 2;
        self.probe.open(&codes[..depth]);
        let first = self.probe.first_line();
        codes[depth] = first;
        self.look(row, codes, n, occupancy);
        let mut lines = std::mem::take(&mut self.lines);
        let limit = above(self.limit());
        let held = |code: u16| {
            let mut line = codes;
            line[depth] = code;
            occupancy.seen_bits_on(&line[..=depth], self.from)
        };
        self.probe.lines(limit, held, &mut lines);
        lines.retain(|&(_, code)| code != first);
        lines.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for &(bound, code) in &lines {
            if f64::from(bound) > self.limit() || self.interrupt.is_asked() {
                break;
            }
            codes[depth] = code;
            if self.is_above(&codes[..=depth]) {
                continue;
            }
            self.look(row, codes, n, occupancy);
        }
        self.lines = lines;
    }

    /// Was the work asked to end?
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.is_asked()
    }

    /// Look at all leaves of a prefix of L - 1 codes.
    fn look(&mut self, row: usize, mut codes: Id, n: usize, occupancy: &mut Occupancy<'_>) {
        let last = self.space.n_levels() - 1;
        let Some(held) = occupancy.full_bits_on(&codes[..last], self.from) else { return };
        self.probe.leaves(codes[last - 1], &mut self.leaves);
        let (limit, margin) = (above(self.limit()), self.probe.margin());
        self.near.clear();
        for (start, leaves) in (0..).step_by(AT_ONCE).zip(self.leaves.chunks(AT_ONCE)) {
            if leaves.iter().fold(false, |any, &leaf| any | (leaf <= limit)) {
                let near = (start..).zip(leaves).filter(|&(_, &leaf)| leaf <= limit);
                let free = near.filter(|&(code, _)| !is_set(held, code));
                self.near.extend(free.map(|(code, &leaf)| (leaf, code as u16)));
            }
        }
        if self.near.len() > n {
            let (_, worst, _) = self.near.select_nth_unstable_by(n - 1, |a, b| a.0.total_cmp(&b.0));
            let limit = above(f64::from(worst.0) + 2.0 * margin);
            self.near.retain(|&(leaf, _)| leaf <= limit);
        }
        for &(_, code) in &self.near {
            codes[last] = code;
            let Some(kinds) = self.kinds else {
                let error = self.distances.error(row, &codes[..=last]);
                self.best.add(Found { error, codes });
                continue;
            };
            let first = kinds.first(self.from, &codes);
            let error = self.distances.error(row, &first[..=last]);
            let mut n_wanted = n;
            occupancy.each_free_on(&codes, self.from, |codes| {
                let found = Found { error, codes };
                let is_wanted = n_wanted > 0 && !self.best.is_above(&found);
                if is_wanted {
                    self.best.add(found);
                    n_wanted -= 1;
                }
                is_wanted
            });
        }
    }
}

/// Leaves that are compared with the limit at once.
const AT_ONCE: usize = 16;

/// The least `f32` that is not below a number.
fn above(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) < x {
        near.next_up()
    } else {
        near
    }
}
