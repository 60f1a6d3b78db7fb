//! Which semantic IDs are held.

mod fold;

use fold::Fold;
use rustc_hash::FxHashMap;

use crate::codes::{CodeSpace, Id};
use crate::kinds::Kinds;

const BITS: usize = u64::BITS as usize;

/// Which semantic IDs are held: a sorted list of those held from the start, one bit for each below
/// the prefixes of L - 1 codes that anybody looked at, and counts of those taken since.
///
/// Items (1, 1), (0, 2) with K = (2, 4), packed as in `CodeSpace`; somebody took (1, 0):
///
/// ```text
/// held    0b0_10 0b1_01       sorted
/// index   0b1_00: line 0      only (1) was looked at
/// bits    [0] 0b0011          (1, 0) and (1, 1)
/// n_free  [0] 2
/// taken   [0] {0b0_00: 1}     below the empty prefix
/// newly   0b1_00              those taken since, while codes are alike
/// folds   []                  the same by kinds of codes, for each level that a search began at
/// empty   0b0000              what is lent for lines where nothing is held: they take no memory
/// ```
pub(crate) struct Occupancy<'a> {
    space: &'a CodeSpace,
    held: Vec<u128>,
    index: FxHashMap<u128, usize>,
    bits: Vec<u64>,
    n_free: Vec<usize>,
    taken: Vec<FxHashMap<u128, u128>>,
    capacity: Vec<u128>,
    line: usize,
    empty: Vec<u64>,
    kinds: Option<&'a Kinds>,
    newly: Vec<u128>,
    folds: Vec<Option<Fold<'a>>>,
}

impl<'a> Occupancy<'a> {
    /// Nothing is held. O(L).
    pub(crate) fn new(space: &'a CodeSpace, kinds: Option<&'a Kinds>) -> Self {
        let n_levels = space.n_levels();
        Self {
            space,
            held: Vec::new(),
            index: FxHashMap::default(),
            bits: Vec::new(),
            n_free: Vec::new(),
            taken: vec![FxHashMap::default(); n_levels - 1],
            capacity: (0..=n_levels).map(|depth| space.capacity(depth)).collect(),
            line: space.n_codes()[n_levels - 1].div_ceil(BITS),
            empty: vec![0; space.n_codes()[n_levels - 1].div_ceil(BITS)],
            kinds,
            newly: Vec::new(),
            folds: Vec::new(),
        }
    }

    /// Begin anew with these, sorted and distinct. O(what was looked at before).
    pub(crate) fn reset(&mut self, held: impl Iterator<Item = u128>) {
        self.held.clear();
        self.held.extend(held);
        self.index.clear();
        self.bits.clear();
        self.n_free.clear();
        self.taken.iter_mut().for_each(FxHashMap::clear);
        self.newly.clear();
        self.folds.clear();
    }

    /// Those held from the start that begin with a prefix. O(L + log N).
    fn below(&self, first: u128, depth: usize) -> &[u128] {
        let last = self.space.last_word(first, depth);
        let from = self.held.partition_point(|&word| word < first);
        let n = self.held[from..].partition_point(|&word| word <= last);
        &self.held[from..from + n]
    }

    /// How many below a prefix of at most L - 2 codes are free. O(L + log N).
    pub(crate) fn n_free_below(&self, prefix: &[u16]) -> u128 {
        let first = self.space.first_word(prefix);
        let taken = self.taken[prefix.len()].get(&first).copied().unwrap_or(0);
        let held = self.below(first, prefix.len()).len() as u128 + taken;
        self.capacity[prefix.len()].saturating_sub(held)
    }

    /// Is any semantic ID below a prefix, shorter than L, free? O(L + log N).
    pub(crate) fn has_room(&mut self, prefix: &[u16]) -> bool {
        if prefix.len() + 1 < self.space.n_levels() {
            return self.n_free_below(prefix) > 0;
        }
        let first = self.space.first_word(prefix);
        if self.is_empty(first) {
            return true;
        }
        let line = self.line(first);
        self.n_free[line] > 0
    }

    /// Is nothing held below a prefix of L - 1 codes, given as its first word? O(L + log N).
    fn is_empty(&self, first: u128) -> bool {
        if self.index.contains_key(&first) {
            return false;
        }
        let from = self.held.partition_point(|&word| word < first);
        let last = self.space.last_word(first, self.space.n_levels() - 1);
        self.held.get(from).is_none_or(|&word| word > last)
    }

    /// The line of bits of a prefix of L - 1 codes, given as its first word.
    fn line(&mut self, first: u128) -> usize {
        if let Some(&line) = self.index.get(&first) {
            return line;
        }
        let (line, start) = (self.n_free.len(), self.bits.len());
        let n_levels = self.space.n_levels();
        let last = self.space.last_word(first, n_levels - 1);
        self.bits.resize(start + self.line, 0);
        let from = self.held.partition_point(|&word| word < first);
        let words = self.held[from..].iter().take_while(|&&word| word <= last);
        let mut n_held = 0;
        for &word in words {
            let code = (word - first) as usize;
            self.bits[start + code / BITS] |= 1 << (code % BITS);
            n_held += 1;
        }
        self.n_free.push(self.space.n_codes()[n_levels - 1] - n_held);
        self.index.insert(first, line);
        line
    }

    /// Bits of those held below a prefix of L - 1 codes, given as its first word; none if all are.
    fn held_bits(&mut self, first: u128) -> Option<&[u64]> {
        if self.is_empty(first) {
            return Some(&self.empty);
        }
        let line = self.line(first);
        let start = line * self.line;
        (self.n_free[line] > 0).then(|| &self.bits[start..start + self.line])
    }

    /// The same, if it was looked at before.
    fn seen_bits(&self, first: u128) -> Option<&[u64]> {
        let start = self.index.get(&first)? * self.line;
        Some(&self.bits[start..start + self.line])
    }

    /// Take a free one. O(L).
    pub(crate) fn take(&mut self, codes: &Id) {
        let n_levels = self.space.n_levels();
        let line = self.line(self.space.first_word(&codes[..n_levels - 1]));
        let code = usize::from(codes[n_levels - 1]);
        self.bits[line * self.line + code / BITS] |= 1 << (code % BITS);
        self.n_free[line] -= 1;
        for (depth, taken) in self.taken.iter_mut().enumerate() {
            *taken.entry(self.space.first_word(&codes[..depth])).or_insert(0) += 1;
        }
        if self.kinds.is_some() {
            self.newly.push(self.space.first_word(&codes[..n_levels]));
            self.folds.iter_mut().flatten().for_each(|fold| fold.take(codes));
        }
    }

    /// What is held by kinds of codes, for a search that begins at a level; none if no codes are
    /// alike.
    fn fold(&mut self, from: usize) -> Option<&mut Fold<'a>> {
        let kinds = self.kinds?;
        if self.folds.len() <= from {
            self.folds.resize_with(from + 1, || None);
        }
        let fold = &mut self.folds[from];
        if fold.is_none() {
            let held = self.held.iter().chain(&self.newly).copied();
            *fold = Fold::new(kinds, from, self.space, held);
        }
        fold.as_mut()
    }

    /// Is any semantic ID free whose codes begin as `path`, from a level on by kind?
    pub(crate) fn has_room_on(&mut self, path: &[u16], from: usize) -> bool {
        match self.fold(from) {
            Some(fold) => fold.has_room(path),
            None => self.has_room(path),
        }
    }

    /// Bits of the last codes, or kinds, with which nothing is free after a path of L - 1; none if
    /// that is all.
    pub(crate) fn full_bits_on(&mut self, path: &[u16], from: usize) -> Option<&[u64]> {
        if self.kinds.is_some() {
            return self.fold(from)?.full_bits(path);
        }
        self.held_bits(self.space.first_word(path))
    }

    /// The same, if it was looked at before.
    pub(crate) fn seen_bits_on(&self, path: &[u16], from: usize) -> Option<&[u64]> {
        if self.kinds.is_some() {
            return self.folds.get(from)?.as_ref()?.seen_bits(path);
        }
        self.seen_bits(self.space.first_word(path))
    }

    /// The free semantic IDs of a whole path in the order of their codes, as long as `wants` more.
    pub(crate) fn each_free_on(&mut self, path: &Id, from: usize, wants: impl FnMut(Id) -> bool) {
        self.fold(from);
        let Some(mut fold) = self.folds.get_mut(from).and_then(Option::take) else { return };
        fold.each_free(path, |codes| self.is_free(codes), wants);
        self.folds[from] = Some(fold);
    }

    /// Is a semantic ID free?
    pub(crate) fn is_free(&mut self, codes: &Id) -> bool {
        let n_levels = self.space.n_levels();
        let first = self.space.first_word(&codes[..n_levels - 1]);
        self.held_bits(first).is_some_and(|bits| !is_set(bits, usize::from(codes[n_levels - 1])))
    }
}

/// Is a bit set?
pub(crate) fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / BITS] >> (place % BITS) & 1 == 1
}
