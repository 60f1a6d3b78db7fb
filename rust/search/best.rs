//! The best of all semantic IDs that a search came across.

use super::Found;

/// Up to so many are kept in order, so that the worst of them is always known; more are put in order
/// now and then.
const FEW: usize = 64;

/// The `n` best so far, and of more than `FEW` up to twice as many.
///
/// Of n = 2, after (0, 1) .5, (0, 0) .2 and (0, 2) .2:
///
/// ```text
/// found  (0, 0) .2 | (0, 2) .2
/// worst  (0, 2) .2                none before there are n
/// ```
#[derive(Default)]
pub(super) struct Best {
    n: usize,
    found: Vec<Found>,
    worst: Option<Found>,
}

impl Best {
    /// Begin anew. O(1).
    pub(super) fn reset(&mut self, n: usize) {
        self.n = n;
        self.found.clear();
        self.worst = None;
    }

    /// What one more has to be better than. O(1).
    pub(super) fn worst(&self) -> Option<&Found> {
        self.worst.as_ref()
    }

    /// Is there no need of one with this error and these codes, or any higher? O(1).
    pub(super) fn is_above(&self, found: &Found) -> bool {
        self.worst.is_some_and(|worst| worst.order(found).is_lt())
    }

    /// O(1) on average, O(n) for few.
    pub(super) fn add(&mut self, found: Found) {
        if self.n == 0 || self.is_above(&found) {
            return;
        }
        if self.n > FEW {
            self.found.push(found);
            if self.found.len() >= self.n.saturating_mul(2) {
                self.found.select_nth_unstable_by(self.n - 1, Found::order);
                self.found.truncate(self.n);
                self.worst = self.found.last().copied();
            }
            return;
        }
        let place = self.found.partition_point(|other| other.order(&found).is_lt());
        self.found.truncate(self.n - usize::from(place < self.n));
        self.found.insert(place.min(self.found.len()), found);
        self.worst = self.found.get(self.n - 1).copied();
    }

    /// All of them, best first. O(n log n).
    pub(super) fn sorted(&mut self) -> &[Found] {
        self.found.sort_unstable_by(Found::order);
        self.found.truncate(self.n);
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_the_best_of_all() {
        let found = |i: usize| Found { error: (i * 7 % 50) as f64, codes: [i as u16 % 9; 8] };
        for n in [0, 1, 3, FEW, FEW + 1, 400, 2000] {
            let mut best = Best::default();
            best.reset(n);
            (0..1500).for_each(|i| best.add(found(i)));
            let mut expected: Vec<Found> = (0..1500).map(found).collect();
            expected.sort_by(Found::order);
            expected.truncate(n);
            assert_eq!(best.sorted(), expected);
        }
    }
}
