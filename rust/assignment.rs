//! Items to free semantic IDs with the least total error.
//!
//! Shortest augmenting paths (Jonker and Volgenant 1987) over lists that grow on demand: every row
//! begins with its few nearest semantic IDs, and gets more only when a path could go through one that
//! is not listed yet. An unlisted one is never cheaper than the last listed, which bounds what it
//! could gain, so the result is an optimum over all free semantic IDs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::codes::Id;
use crate::distances::Distances;
use crate::occupancy::Occupancy;
use crate::search::{Found, Search};

/// How many of its nearest a row lists at first.
pub(crate) const FIRST_LISTED: usize = 4;

/// A row that gets one semantic ID, and its nearest free ones, nearest first.
///
/// ```text
/// row     7
/// listed  (9, 1, 0, 3) .2 | (9, 1, 4, 4) .5
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Seeker {
    pub(crate) row: usize,
    pub(crate) listed: Vec<Found>,
}

/// What the search for a path may do next, and the length at which it does.
///
/// ```text
/// Reach   semantic ID `target` from seeker `from`
/// Extend  the list of seeker `from`
/// ```
#[derive(Debug, PartialEq)]
struct Event {
    length: f64,
    from: usize,
    target: Option<usize>,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest is the one to do next: the shortest, then reaching before extending.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        let last = |event: &Self| event.target.unwrap_or(usize::MAX);
        let length = other.length.total_cmp(&self.length);
        length.then_with(|| last(other).cmp(&last(self))).then_with(|| other.from.cmp(&self.from))
    }
}

/// A semantic ID that some seeker listed.
///
/// ```text
/// owner   the seeker that has it for now
/// price   0 or less: what it costs others to take it away
/// length  of the shortest path to it so far in this search; infinity: none
/// from    the seeker before it on that path
/// ```
struct Target {
    owner: Option<usize>,
    price: f64,
    length: f64,
    from: usize,
}

/// An assignment in the making.
///
/// Two seekers of different kinds that both listed (0, 0) first; the second has it, the first has
/// (0, 1). Seekers of a kind are as far from whatever semantic ID, so they have one list, and in a
/// search for a path, one of them stands for all:
///
/// ```text
/// kinds    0 1                           of each seeker
/// rows     7 9                           of each kind
/// seen     false false                   did the path come by this kind?
/// listed   [0] .1 target 0, .2 target 1   [1] .1 target 0, .9 target 1
/// values   .2 .2                          what each pays at least
/// owned    1 0
/// targets  owner 1 price -.1 | owner 0 price 0
/// codes    (0, 0) | (0, 1)
/// ```
struct Assignment<'a, 'b, 'c, D: Distances> {
    kinds: Vec<usize>,
    rows: Vec<usize>,
    seen: Vec<bool>,
    listed: Vec<Vec<(f64, usize)>>,
    prefix: &'a [u16],
    values: Vec<f64>,
    lengths: Vec<f64>,
    owned: Vec<Option<usize>>,
    targets: Vec<Target>,
    codes: Vec<Id>,
    index: FxHashMap<Id, usize>,
    search: &'a mut Search<'b, D>,
    occupancy: &'a mut Occupancy<'c>,
    path: Path,
}

/// What one search for a path found so far.
///
/// ```text
/// events    what to do next, the shortest first
/// shortest  of the paths to a semantic ID that nobody has
/// visited   seekers that would pass theirs on
/// reached   semantic IDs to which there is a path
/// settled   those of them to which there is no shorter one
/// ```
#[derive(Default)]
struct Path {
    events: BinaryHeap<Event>,
    shortest: f64,
    visited: Vec<usize>,
    reached: Vec<usize>,
    settled: Vec<usize>,
}

/// Give every seeker a free semantic ID below the prefix, with the least total error. There must be
/// as many free ones as seekers; `None` for those without, if there are not.
///
/// `kinds` numbers the seekers so that those of one number, one after the other, are alike in all.
///
/// O(M) paths over what contends with each other; a seeker that nobody contends with costs O(1). At
/// worst, where all M contend with each other, O(M) for each of M M pairs.
pub(crate) fn assign<D: Distances>(
    seekers: &[Seeker],
    kinds: Vec<usize>,
    prefix: &[u16],
    search: &mut Search<'_, D>,
    occupancy: &mut Occupancy<'_>,
) -> Vec<Option<Id>> {
    let n = seekers.len();
    let mut assignment = Assignment {
        kinds,
        rows: Vec::with_capacity(n),
        seen: Vec::with_capacity(n),
        listed: Vec::with_capacity(n),
        values: seekers.iter().map(|s| s.listed.first().map_or(0.0, |f| f.error)).collect(),
        lengths: vec![0.0; n],
        owned: vec![None; n],
        targets: Vec::with_capacity(n),
        codes: Vec::with_capacity(n),
        index: FxHashMap::default(),
        prefix,
        search,
        occupancy,
        path: Path::default(),
    };
    for (seeker, Seeker { row, listed }) in seekers.iter().enumerate() {
        if assignment.kinds[seeker] == assignment.rows.len() {
            assignment.rows.push(*row);
            assignment.seen.push(false);
            assignment.listed.push(Vec::new());
            assignment.list(seeker, listed);
        }
    }
    for seeker in 0..n {
        assignment.augment(seeker);
    }
    let codes = assignment.codes;
    let owned = assignment.owned.into_iter();
    owned.map(|target| target.map(|target| codes[target])).collect()
}

impl<D: Distances> Assignment<'_, '_, '_, D> {
    /// Add to the list of a seeker.
    fn list(&mut self, seeker: usize, found: &[Found]) {
        for &Found { error, codes } in found {
            let n_targets = self.targets.len();
            let target = *self.index.entry(codes).or_insert(n_targets);
            if target == n_targets {
                self.codes.push(codes);
                let (length, from) = (f64::INFINITY, seeker);
                self.targets.push(Target { owner: None, price: 0.0, length, from });
            }
            self.listed[self.kinds[seeker]].push((error, target));
        }
    }

    /// Find the cheapest way to give one more seeker a semantic ID, others moving on in a chain.
    fn augment(&mut self, seeker: usize) {
        self.path.shortest = f64::INFINITY;
        self.visit(seeker, 0.0);
        while let Some(Event { length, from, target }) = self.path.events.pop() {
            if self.search.is_interrupted() {
                break;
            }
            let Some(target) = target else {
                self.extend(from);
                continue;
            };
            if self.targets[target].length < length {
                continue; // there was a shorter path
            }
            self.path.settled.push(target);
            if let Some(owner) = self.targets[target].owner {
                self.visit(owner, length);
            } else {
                self.settle(length);
                self.pass_on(target);
                break;
            }
        }
        for target in self.path.reached.drain(..) {
            self.targets[target].length = f64::INFINITY;
        }
        self.path.events.clear();
        for seeker in self.path.visited.drain(..) {
            self.seen[self.kinds[seeker]] = false;
        }
        self.path.settled.clear();
    }

    /// Go on from a seeker at the end of a path of some length.
    fn visit(&mut self, seeker: usize, length: f64) {
        self.lengths[seeker] = length;
        self.path.visited.push(seeker);
        // Another of its kind that has a semantic ID pays as much, and was here by a shorter path.
        if !std::mem::replace(&mut self.seen[self.kinds[seeker]], true) {
            self.offer(seeker, 0);
        }
    }

    /// Offer what a seeker listed from a place on, and the extension of its list.
    fn offer(&mut self, seeker: usize, from_place: usize) {
        let (so_far, path) = (self.lengths[seeker], &mut self.path);
        let base = so_far - self.values[seeker];
        let mut last = None;
        for &(error, number) in &self.listed[self.kinds[seeker]][from_place..] {
            // Prices are never above 0, so nothing from here on makes a shorter path.
            if base + error >= path.shortest {
                return;
            }
            last = Some(error);
            let target = &mut self.targets[number];
            // Rounding must not make a path shorter than its beginning.
            let length = (base + error - target.price).max(so_far);
            if length < target.length {
                if target.length == f64::INFINITY {
                    path.reached.push(number);
                }
                (target.length, target.from) = (length, seeker);
                if target.owner.is_none() {
                    path.shortest = path.shortest.min(length);
                }
                path.events.push(Event { length, from: seeker, target: Some(number) });
            }
        }
        if let Some(error) = last {
            path.events.push(Event { length: base + error, from: seeker, target: None });
        }
    }

    /// List more of what is near a seeker, up to as many as there are seekers: the others cannot take
    /// more than all but one of them. A list that does not grow is complete.
    fn extend(&mut self, seeker: usize) {
        let n = self.listed[self.kinds[seeker]].len();
        let n_wanted = (n * 4).min(self.owned.len());
        if n_wanted > n {
            let row = self.rows[self.kinds[seeker]];
            let found = self.search.nearest(row, self.prefix, n_wanted, self.occupancy);
            let more = found.get(n..).unwrap_or_default().to_vec();
            self.list(seeker, &more);
            self.offer(seeker, n);
        }
    }

    /// Raise values and prices, so that the shortest path costs nothing more.
    fn settle(&mut self, length: f64) {
        for &seeker in &self.path.visited {
            self.values[seeker] += length - self.lengths[seeker];
        }
        for &target in &self.path.settled {
            let target = &mut self.targets[target];
            target.price -= length - target.length;
        }
    }

    /// Give a free target to the seeker that reached it, that one's to the next, and so on.
    fn pass_on(&mut self, target: usize) {
        let mut next = Some(target);
        while let Some(target) = next {
            let seeker = self.targets[target].from;
            self.targets[target].owner = Some(seeker);
            next = self.owned[seeker].replace(target);
        }
    }
}
