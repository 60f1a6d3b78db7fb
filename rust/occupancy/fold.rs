//! Which kinds of semantic IDs are full: those whose codes are alike, counted together.

use rustc_hash::FxHashMap;

use super::BITS;
use crate::codes::{CodeSpace, Id};
use crate::kinds::Kinds;

/// How many of the semantic IDs of a path are held, where a path is a kind for every level from
/// `from` on, and a code for those above.
///
/// K = (1, 4), the codes 0, 2 and 3 of the second level alike, (0, 0) and (0, 1) held:
///
/// ```text
/// space    1 2         kinds of each level
/// held     0 1         paths of those held from the start, sorted, as often as they are
/// taken    [2] {}      those taken since, below each prefix
/// index    0: line 0   lines that were looked at, as in `Occupancy`
/// bits     [0] 0b10    paths that are full
/// n_free   [0] 1       paths that are not
/// cursors  {0: 1}      where on a path the first free one was found
/// ```
pub(super) struct Fold<'a> {
    kinds: &'a Kinds,
    from: usize,
    whole: &'a CodeSpace,
    space: CodeSpace,
    held: Vec<u128>,
    taken: Vec<FxHashMap<u128, u128>>,
    index: FxHashMap<u128, usize>,
    bits: Vec<u64>,
    n_free: Vec<usize>,
    empty: Vec<u64>,
    cursors: FxHashMap<u128, u128>,
}

impl<'a> Fold<'a> {
    /// Fold those held. O(L H log H). None for a space that cannot be, which does not occur.
    pub(super) fn new(
        kinds: &'a Kinds,
        from: usize,
        whole: &'a CodeSpace,
        held: impl Iterator<Item = u128>,
    ) -> Option<Self> {
        let n_codes = whole.n_codes().iter().enumerate();
        let n_kinds = |(level, &n)| if level < from { n } else { kinds.n_kinds(level) };
        let space = CodeSpace::new(&n_codes.map(n_kinds).collect::<Vec<_>>()).ok()?;
        let n_levels = whole.n_levels();
        let path = |word| space.first_word(&kinds.fold(from, &whole.codes(word))[..n_levels]);
        let mut held: Vec<u128> = held.map(path).collect();
        held.sort_unstable();
        let line = space.n_codes()[n_levels - 1].div_ceil(BITS);
        Some(Self {
            kinds,
            from,
            whole,
            space,
            held,
            taken: vec![FxHashMap::default(); n_levels + 1],
            index: FxHashMap::default(),
            bits: Vec::new(),
            n_free: Vec::new(),
            empty: vec![0; line],
            cursors: FxHashMap::default(),
        })
    }

    /// Those held from the start whose paths begin with a prefix. O(L + log H).
    fn below(&self, first: u128, depth: usize) -> &[u128] {
        let last = self.space.last_word(first, depth);
        let from = self.held.partition_point(|&word| word < first);
        let n = self.held[from..].partition_point(|&word| word <= last);
        &self.held[from..from + n]
    }

    /// Is any semantic ID of a prefix of kinds free? O(L + log H).
    pub(super) fn has_room(&self, prefix: &[u16]) -> bool {
        let (first, depth) = (self.space.first_word(prefix), prefix.len());
        let taken = self.taken[depth].get(&first).copied().unwrap_or(0);
        let n_held = self.below(first, depth).len() as u128 + taken;
        let size = self.kinds.size(self.from, prefix);
        size.saturating_mul(self.whole.capacity(depth)) > n_held
    }

    /// The line of bits of a prefix of L - 1 kinds.
    fn line(&mut self, prefix: &[u16]) -> usize {
        let first = self.space.first_word(prefix);
        if let Some(&line) = self.index.get(&first) {
            return line;
        }
        let (start, line) = (self.bits.len(), self.n_free.len());
        let mut bits = self.empty.clone();
        let (mut path, depth) = (prefix.to_vec(), prefix.len());
        path.push(0);
        let mut n_full = 0;
        for alike in self.below(first, depth).chunk_by(|a, b| a == b) {
            path[depth] = (alike[0] - first) as u16;
            if alike.len() as u128 >= self.kinds.size(self.from, &path) {
                bits[usize::from(path[depth]) / BITS] |= 1 << (usize::from(path[depth]) % BITS);
                n_full += 1;
            }
        }
        self.bits.resize(start, 0);
        self.bits.extend(bits);
        self.n_free.push(self.space.n_codes()[depth] - n_full);
        self.index.insert(first, line);
        line
    }

    /// Bits of the paths below a prefix of L - 1 kinds that are full; none if all are.
    pub(super) fn full_bits(&mut self, prefix: &[u16]) -> Option<&[u64]> {
        let first = self.space.first_word(prefix);
        if !self.index.contains_key(&first) && self.below(first, prefix.len()).is_empty() {
            return Some(&self.empty);
        }
        let line = self.line(prefix);
        (self.n_free[line] > 0).then(|| &self.bits[line * self.empty.len()..][..self.empty.len()])
    }

    /// The same, if it was looked at before.
    pub(super) fn seen_bits(&self, prefix: &[u16]) -> Option<&[u64]> {
        let start = self.index.get(&self.space.first_word(prefix))? * self.empty.len();
        Some(&self.bits[start..][..self.empty.len()])
    }

    /// Take a free one. O(L + log H).
    pub(super) fn take(&mut self, codes: &Id) {
        let n_levels = self.whole.n_levels();
        let path = self.kinds.fold(self.from, codes);
        let line = self.line(&path[..n_levels - 1]);
        for (depth, taken) in self.taken.iter_mut().enumerate() {
            *taken.entry(self.space.first_word(&path[..depth])).or_insert(0) += 1;
        }
        if !self.has_room(&path[..n_levels]) {
            let kind = usize::from(path[n_levels - 1]);
            self.bits[line * self.empty.len() + kind / BITS] |= 1 << (kind % BITS);
            self.n_free[line] -= 1;
        }
    }

    /// The free ones of a path in the order of their codes, as long as `wants` more.
    pub(super) fn each_free(
        &mut self,
        path: &Id,
        mut is_free: impl FnMut(&Id) -> bool,
        mut wants: impl FnMut(Id) -> bool,
    ) {
        let path_codes = &path[..self.whole.n_levels()];
        let size = self.kinds.size(self.from, path_codes);
        let cursor = self.cursors.entry(self.space.first_word(path_codes)).or_insert(0);
        let (mut place, mut first) = (*cursor, None);
        while place < size {
            let codes = self.kinds.member(self.from, path, place);
            if is_free(&codes) {
                first = first.or(Some(place));
                if !wants(codes) {
                    break;
                }
            }
            place += 1;
        }
        *cursor = first.unwrap_or(size);
    }
}
