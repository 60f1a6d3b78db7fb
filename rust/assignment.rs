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
/// prefix  9 1        where it may go: below (9, 1)
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
/// owner    the seeker that has it for now
/// price    0 or less: what it costs others to take it away
/// reached  in this search for a path: from which seeker, and the length; none: not yet
/// ```
struct Target {
    codes: Id,
    owner: Option<usize>,
    price: f64,
    reached: Option<(usize, f64)>,
}

/// An assignment in the making.
///
/// Two seekers that both listed (0, 0) first; the second has it, the first has (0, 1):
///
/// ```text
/// seekers  [0] listed (0, 0) .1, (0, 1) .2   [1] listed (0, 0) .1, (0, 1) .9
/// values   .2 .1                             what each pays at least
/// targets  (0, 0) owner 1 price -.0 | (0, 1) owner 0
/// ```
struct Assignment<'a, 'b, 'c, D: Distances> {
    seekers: &'a mut [Seeker],
    prefix: &'a [u16],
    values: Vec<f64>,
    lengths: Vec<f64>,
    owned: Vec<Option<usize>>,
    targets: Vec<Target>,
    index: FxHashMap<Id, usize>,
    events: BinaryHeap<Event>,
    search: &'a mut Search<'b, D>,
    occupancy: &'a mut Occupancy<'c>,
}

/// Give every seeker a free semantic ID below the prefix, with the least total error. There must be
/// as many free ones as seekers; `None` for those without, if there are not.
///
/// O(M) paths over what contends with each other; a seeker that nobody contends with costs O(1).
pub(crate) fn assign<D: Distances>(
    seekers: &mut [Seeker],
    prefix: &[u16],
    search: &mut Search<'_, D>,
    occupancy: &mut Occupancy<'_>,
) -> Vec<Option<Id>> {
    let n = seekers.len();
    let mut assignment = Assignment {
        values: seekers.iter().map(|s| s.listed.first().map_or(0.0, |f| f.error)).collect(),
        lengths: vec![0.0; n],
        owned: vec![None; n],
        targets: Vec::with_capacity(n),
        index: FxHashMap::default(),
        events: BinaryHeap::new(),
        seekers,
        prefix,
        search,
        occupancy,
    };
    for seeker in 0..n {
        assignment.augment(seeker);
    }
    let targets = assignment.targets;
    let codes =
        |target: Option<usize>| target.and_then(|target| targets.get(target)).map(|t| t.codes);
    assignment.owned.into_iter().map(codes).collect()
}

impl<D: Distances> Assignment<'_, '_, '_, D> {
    /// Find the cheapest way to give one more seeker a semantic ID, others moving on in a chain.
    fn augment(&mut self, seeker: usize) {
        self.events.clear();
        let (mut visited, mut settled) = (vec![seeker], Vec::new());
        self.lengths[seeker] = 0.0;
        self.offer(seeker, 0);
        while let Some(Event { length, from, target }) = self.events.pop() {
            let Some(target) = target else {
                self.extend(from);
                continue;
            };
            if self.targets[target].reached.is_some() {
                continue;
            }
            self.targets[target].reached = Some((from, length));
            settled.push(target);
            match self.targets[target].owner {
                Some(owner) => {
                    self.lengths[owner] = length;
                    visited.push(owner);
                    self.offer(owner, 0);
                }
                None => {
                    self.settle(length, &visited, &settled);
                    self.pass_on(target);
                    break;
                }
            }
        }
        for target in settled {
            self.targets[target].reached = None;
        }
    }

    /// Offer what a seeker listed from a place on, and the extension of its list.
    fn offer(&mut self, seeker: usize, from_place: usize) {
        let base = self.lengths[seeker] - self.values[seeker];
        let mut last = None;
        for place in from_place..self.seekers[seeker].listed.len() {
            let Found { error, codes } = self.seekers[seeker].listed[place];
            let n_targets = self.targets.len();
            let target = *self.index.entry(codes).or_insert(n_targets);
            if target == n_targets {
                self.targets.push(Target { codes, owner: None, price: 0.0, reached: None });
            }
            last = Some(error);
            let Target { price, ref reached, .. } = self.targets[target];
            if reached.is_none() {
                let length = base + error - price;
                self.events.push(Event { length, from: seeker, target: Some(target) });
            }
        }
        if let Some(error) = last {
            self.events.push(Event { length: base + error, from: seeker, target: None });
        }
    }

    /// List more of what is near a seeker; a list that does not grow is complete.
    fn extend(&mut self, seeker: usize) {
        let n = self.seekers[seeker].listed.len();
        let row = self.seekers[seeker].row;
        let found = self.search.nearest(row, self.prefix, n * 4, self.occupancy);
        if found.len() > n {
            self.seekers[seeker].listed.extend_from_slice(&found[n..]);
            self.offer(seeker, n);
        }
    }

    /// Raise values and prices, so that the shortest path costs nothing more.
    fn settle(&mut self, length: f64, visited: &[usize], settled: &[usize]) {
        for &seeker in visited {
            self.values[seeker] += length - self.lengths[seeker];
        }
        for &target in settled {
            if let Some((_, reached)) = self.targets[target].reached {
                self.targets[target].price -= length - reached;
            }
        }
    }

    /// Give a free target to the seeker that reached it, that one's to the next, and so on.
    fn pass_on(&mut self, target: usize) {
        let mut next = Some(target);
        while let Some(target) = next {
            let Some((seeker, _)) = self.targets[target].reached else { return };
            self.targets[target].owner = Some(seeker);
            next = self.owned[seeker].replace(target);
        }
    }
}
