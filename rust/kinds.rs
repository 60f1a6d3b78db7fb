//! Codes that are alike: those of a level that have the same vector, as in a codebook that collapsed.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use crate::codes::Id;

/// For each level, which codes have the same vector, and so are as far from whatever latent.
///
/// Of one level with four codes, of which 0, 2 and 3 are alike:
///
/// ```text
/// of     0 1 0 0          the kind of each code; kinds are numbered by their first code
/// codes  0 2 3 | 1        the codes of each kind, ascending
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds {
    of: Vec<Vec<u16>>,
    codes: Vec<Vec<Vec<u16>>>,
}

impl Kinds {
    /// Compare the vectors of all levels, given by level and code; none if all differ, which is the
    /// rule. O(L K E).
    pub(crate) fn new<'a>(
        n_codes: &[usize],
        vector: impl Fn(usize, usize) -> &'a [f32],
    ) -> Option<Self> {
        let mut kinds = Self { of: Vec::new(), codes: Vec::new() };
        for (level, &n_codes) in n_codes.iter().enumerate() {
            let (of, codes) = group(n_codes, |code| vector(level, code));
            kinds.of.push(of);
            kinds.codes.push(codes);
        }
        let all_differ = kinds.codes.iter().zip(n_codes).all(|(codes, &n)| codes.len() == n);
        (!all_differ).then_some(kinds)
    }

    /// How many kinds a level has. O(1).
    pub(crate) fn n_kinds(&self, level: usize) -> usize {
        self.codes[level].len()
    }

    /// The kind of each code of a level, (K). O(1).
    pub(crate) fn of(&self, level: usize) -> &[u16] {
        &self.of[level]
    }

    /// The codes of a kind. O(1).
    pub(crate) fn codes(&self, level: usize, kind: u16) -> &[u16] {
        &self.codes[level][usize::from(kind)]
    }

    /// The first code of each kind of a level. O(1).
    pub(crate) fn firsts(&self, level: usize) -> impl Iterator<Item = usize> + '_ {
        self.codes[level].iter().map(|codes| usize::from(codes[0]))
    }

    /// Replace the codes from a level on by their kinds. O(L).
    pub(crate) fn fold(&self, from: usize, codes: &Id) -> Id {
        let mut path = *codes;
        for (code, of) in path.iter_mut().zip(&self.of).skip(from) {
            *code = of[usize::from(*code)];
        }
        path
    }

    /// Replace the kinds from a level on by the first code of each. O(L).
    pub(crate) fn first(&self, from: usize, path: &Id) -> Id {
        self.member(from, path, 0)
    }

    /// How many semantic IDs have these kinds from a level on, as far as the path goes. O(L).
    pub(crate) fn size(&self, from: usize, path: &[u16]) -> u128 {
        let kinds = path.iter().enumerate().skip(from);
        kinds.fold(1, |size, (level, &kind)| size * self.codes(level, kind).len() as u128)
    }

    /// The one at a place among them, in the order of their codes. O(L).
    pub(crate) fn member(&self, from: usize, path: &Id, place: u128) -> Id {
        let (mut codes, mut rest) = (*path, place);
        for level in (from..self.of.len()).rev() {
            let alike = self.codes(level, path[level]);
            codes[level] = alike[(rest % alike.len() as u128) as usize];
            rest /= alike.len() as u128;
        }
        codes
    }
}

/// The kind of each code, and the codes of each kind.
fn group<'a>(n: usize, vector: impl Fn(usize) -> &'a [f32]) -> (Vec<u16>, Vec<Vec<u16>>) {
    let (mut of, mut codes) = (Vec::with_capacity(n), Vec::<Vec<u16>>::new());
    let mut kinds = FxHashMap::default();
    for code in 0..n {
        let mut hasher = FxHasher::default();
        vector(code).iter().for_each(|x| hasher.write_u32(x.to_bits()));
        let new = codes.len() as u16;
        // Another vector with the same hash stays a kind of its own, whose codes are not looked for.
        let kind = *kinds.entry(hasher.finish()).or_insert(new);
        let twin = codes.get(usize::from(kind)).and_then(|alike| alike.first());
        if twin.is_some_and(|&twin| vector(usize::from(twin)) == vector(code)) {
            codes[usize::from(kind)].push(code as u16);
            of.push(kind);
        } else {
            codes.push(vec![code as u16]);
            of.push(new);
        }
    }
    (of, codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_one_vector_are_one_kind_as_drawn() {
        let books: [&[f32]; 2] = [&[1.0, 2.0, 1.0, 1.0], &[5.0, 5.0]];
        let vector = |level: usize, code: usize| &books[level][code..=code];
        assert_eq!(Kinds::new(&[2, 1], vector), None);
        let kinds = Kinds::new(&[4, 2], vector).unwrap_or(Kinds { of: vec![], codes: vec![] });
        assert_eq!(
            (kinds.of(0), kinds.codes(0, 0), kinds.codes(0, 1)),
            (&[0, 1, 0, 0][..], &[0, 2, 3][..], &[1][..])
        );
        assert_eq!((kinds.n_kinds(0), kinds.n_kinds(1)), (2, 1));
        assert_eq!(kinds.fold(0, &[3, 1, 0, 0, 0, 0, 0, 0])[..2], [0, 0]);
        assert_eq!(kinds.fold(1, &[3, 1, 0, 0, 0, 0, 0, 0])[..2], [3, 0]);
        let members: Vec<Id> = (0..6).map(|place| kinds.member(0, &Id::default(), place)).collect();
        let members: Vec<&[u16]> = members.iter().map(|codes| &codes[..2]).collect();
        assert_eq!(members, [[0, 0], [0, 1], [2, 0], [2, 1], [3, 0], [3, 1]]);
        assert_eq!(
            (kinds.size(0, &[0, 0]), kinds.size(0, &[0]), kinds.size(1, &[0, 0])),
            (6, 3, 2)
        );
    }
}
