//! The codes of a level in the order in which rows that are alike take them.

/// Distances of a row to the codes that follow a prefix, and their order once a second row asks.
///
/// After three rows that are alike, of which the first two took what there was below code 2:
///
/// ```text
/// owner      row 7, prefix (3, 1)
/// distances  .9 .5 .1
/// order      2 1 0
/// n_full     1           of the order: nothing is free there any more
/// ```
#[derive(Debug, Clone, Default)]
pub(super) struct Ladder {
    owner: Option<(usize, Vec<u16>)>,
    distances: Vec<f64>,
    order: Vec<u16>,
    n_full: usize,
}

impl Ladder {
    /// Does it hold for these codes, and for a row like its own? `alike` is asked about that one.
    pub(super) fn is_for(&self, prefix: &[u16], alike: impl Fn(usize) -> bool) -> bool {
        self.owner.as_ref().is_some_and(|(row, own)| own == prefix && alike(*row))
    }

    /// Begin anew for a row, and lend the place for its distances. O(L).
    pub(super) fn reset(&mut self, row: usize, prefix: &[u16]) -> &mut Vec<f64> {
        self.owner = Some((row, prefix.to_vec()));
        self.order.clear();
        self.n_full = 0;
        &mut self.distances
    }

    /// Room may be there again that was full. O(L).
    pub(super) fn forget(&mut self) {
        self.owner = None;
    }

    /// The nearest code with room, the lower one of two as near. Whether there is room is asked only
    /// about codes that would be nearer than the best so far: about log K of them, and those in the
    /// way. O(K).
    pub(super) fn first(&self, mut has_room: impl FnMut(u16) -> bool) -> Option<u16> {
        let mut best: Option<(f64, u16)> = None;
        for (code, &distance) in (0..=u16::MAX).zip(&self.distances) {
            if best.is_none_or(|(nearest, _)| distance < nearest) && has_room(code) {
                best = Some((distance, code));
            }
        }
        best.map(|(_, code)| code)
    }

    /// The same again, for a row that is alike: what was full is so for good. O(K log K) for the
    /// second row, then O(1) and what became full since.
    pub(super) fn next(&mut self, mut has_room: impl FnMut(u16) -> bool) -> Option<u16> {
        if self.order.is_empty() {
            self.order.extend((0..=u16::MAX).take(self.distances.len()));
            let distance = |code: u16| self.distances[usize::from(code)] + 0.0; // -0.0 as 0.0
            self.order
                .sort_unstable_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        }
        while let Some(&code) = self.order.get(self.n_full) {
            if has_room(code) {
                return Some(code);
            }
            self.n_full += 1;
        }
        None
    }
}
