//! Semantic IDs as numbers: a table of them, the space that they live in, and their order.

use crate::error::{Error, Result};

/// The fewest levels of a semantic ID.
pub const MIN_LEVELS: usize = 2;
/// The most levels of a semantic ID: 8 levels of 16 bits fill one 128-bit word.
pub const MAX_LEVELS: usize = 8;
/// The most codes of one level: what 16 bits can tell apart.
pub const MAX_CODES: usize = 1 << 16;

/// One semantic ID; the places after its L codes are zero.
pub(crate) type Id = [u16; MAX_LEVELS];

/// N semantic IDs of L codes each, one row after the other.
///
/// Three items (3, 1), (0, 2), (3, 1) lie as
///
/// ```text
/// data      3 1 | 0 2 | 3 1      row i at i * n_levels
/// n_levels  2
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    data: &'a [u16],
    n_levels: usize,
}

impl<'a> Codes<'a> {
    /// Wrap a table of codes, (N, L) in row order. O(1).
    ///
    /// # Errors
    /// If L is out of range, or does not divide the length of `data`.
    pub fn new(data: &'a [u16], n_levels: usize) -> Result<Self> {
        check_levels("codes", n_levels)?;
        if !data.len().is_multiple_of(n_levels) {
            return Err(Error::Shape {
                what: "codes".to_owned(),
                expected: format!("(N, {n_levels})"),
                got: format!("({},)", data.len()),
            });
        }
        Ok(Self { data, n_levels })
    }

    /// The number of rows N. O(1).
    pub fn n_rows(&self) -> usize {
        self.data.len() / self.n_levels
    }

    /// The number of levels L. O(1).
    pub fn n_levels(&self) -> usize {
        self.n_levels
    }

    /// All codes, (N, L) in row order. O(1).
    pub fn data(&self) -> &'a [u16] {
        self.data
    }

    /// The codes of a row below N. O(1).
    pub(crate) fn row(&self, row: usize) -> &'a [u16] {
        &self.data[row * self.n_levels..(row + 1) * self.n_levels]
    }
}

/// How many codes each level has, and how L codes are packed into one word that sorts as they do.
///
/// Level l takes as many bits as its highest code needs. With K = (5, 3, 256), three items lie as
///
/// ```text
/// n_codes  5 3 256
/// bits     3 2 8
/// (4, 2, 7)    100 10 00000111
/// (4, 2, 255)  100 10 11111111
/// (0, 0, 1)    000 00 00000001
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSpace {
    n_codes: Vec<usize>,
    bits: Vec<u32>,
}

impl CodeSpace {
    /// Describe levels of `n_codes` codes each. O(L).
    ///
    /// # Errors
    /// If there are fewer than 2 or more than 8 levels, or a level has no codes or over 65,536.
    pub fn new(n_codes: &[usize]) -> Result<Self> {
        check_levels("n_codes", n_codes.len())?;
        if let Some(level) = n_codes.iter().position(|&k| k == 0 || k > MAX_CODES) {
            return Err(Error::LevelSize { level, got: n_codes[level] });
        }
        Ok(Self {
            n_codes: n_codes.to_vec(),
            bits: n_codes.iter().map(|&k| usize::BITS - (k - 1).leading_zeros()).collect(),
        })
    }

    /// Describe the smallest space that has room for every code of a table. O(N L).
    pub fn around(codes: Codes<'_>) -> Self {
        let highest = highest(codes);
        Self {
            n_codes: highest.iter().map(|&code| usize::from(code) + 1).collect(),
            bits: highest.iter().map(|&code| u16::BITS - code.leading_zeros()).collect(),
        }
    }

    /// The number of codes K of each level. O(1).
    pub fn n_codes(&self) -> &[usize] {
        &self.n_codes
    }

    /// The number of levels L. O(1).
    pub fn n_levels(&self) -> usize {
        self.n_codes.len()
    }

    /// How many semantic IDs begin with a given prefix of `depth` codes: the product of the other
    /// levels' K. One less than the truth in one case: 2^128 does not fit. O(L).
    pub fn capacity(&self, depth: usize) -> u128 {
        let deeper = self.n_codes.iter().skip(depth);
        deeper.fold(1, |product: u128, &k| product.saturating_mul(k as u128))
    }

    /// Pack a prefix into the word of the lowest semantic ID that begins with it. O(L).
    pub fn first_word(&self, prefix: &[u16]) -> u128 {
        self.bits.iter().enumerate().fold(0, |word, (level, &bits)| {
            (word << bits) | u128::from(prefix.get(level).copied().unwrap_or(0))
        })
    }

    /// The last word that begins with the same `depth` codes as `first`. O(L).
    pub fn last_word(&self, first: u128, depth: usize) -> u128 {
        let below = self.bits_below(depth);
        first | u128::MAX.checked_shr(u128::BITS - below).unwrap_or(0)
    }

    /// Check that a table has this space's levels, and every code is below its level's K. O(N L).
    ///
    /// # Errors
    /// If not; names the first row.
    pub fn check(&self, codes: Codes<'_>) -> Result<()> {
        if codes.n_levels() != self.n_levels() {
            return Err(Error::LevelCount {
                what: "n_codes",
                expected: codes.n_levels(),
                got: self.n_levels(),
            });
        }
        if highest(codes).iter().zip(&self.n_codes).all(|(&code, &k)| usize::from(code) < k) {
            return Ok(());
        }
        for row in 0..codes.n_rows() {
            for (level, (&code, &n_codes)) in codes.row(row).iter().zip(&self.n_codes).enumerate() {
                if usize::from(code) >= n_codes {
                    return Err(Error::CodeRange { row, level, code, n_codes });
                }
            }
        }
        Ok(())
    }

    /// Bits of a whole word. O(L).
    pub(crate) fn word_bits(&self) -> u32 {
        self.bits_below(0)
    }

    /// Bits of a word that belong to the levels from `depth` on. O(L).
    pub(crate) fn bits_below(&self, depth: usize) -> u32 {
        self.bits.iter().skip(depth).sum()
    }

    /// The codes of a word, in the places of the first L levels. O(L).
    pub(crate) fn codes(&self, word: u128) -> Id {
        let mut codes = [0; MAX_LEVELS];
        let mut rest = word;
        for (code, &bits) in codes.iter_mut().zip(&self.bits).rev() {
            *code = (rest & ((1 << bits) - 1)) as u16;
            rest >>= bits;
        }
        codes
    }
}

/// The highest code of each level, (L); of several rows side by side. O(N L).
fn highest(codes: Codes<'_>) -> Vec<u16> {
    let n_levels = codes.n_levels();
    let mut tops = vec![0_u16; n_levels * 16];
    let mut blocks = codes.data().chunks_exact(tops.len());
    let mut raise = |block: &[u16]| {
        for (top, &code) in tops.iter_mut().zip(block) {
            *top = code.max(*top);
        }
    };
    blocks.by_ref().for_each(&mut raise);
    raise(blocks.remainder());
    let level = |level: usize| tops.iter().skip(level).step_by(n_levels).copied().max();
    (0..n_levels).map(|of| level(of).unwrap_or(0)).collect()
}

fn check_levels(what: &'static str, got: usize) -> Result<()> {
    if (MIN_LEVELS..=MAX_LEVELS).contains(&got) {
        return Ok(());
    }
    Err(Error::Levels { what, got })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[allow(clippy::unusual_byte_groupings)] // they are grouped by level
    fn words_are_packed_as_drawn() -> Result<()> {
        let space = CodeSpace::new(&[5, 3, 256])?;
        assert_eq!(space.first_word(&[4, 2, 7]), 0b100_10_00000111);
        assert_eq!(space.first_word(&[4]), 0b100_00_00000000);
        assert_eq!(space.last_word(space.first_word(&[4]), 1), 0b100_11_11111111);
        assert_eq!(space.last_word(0, 0), 0b111_11_11111111);
        assert_eq!(space.last_word(0b1, 3), 0b1);
        assert_eq!(space.codes(0b100_10_00000111), [4, 2, 7, 0, 0, 0, 0, 0]);
        assert_eq!([0, 1, 2, 3].map(|depth| space.capacity(depth)), [3840, 768, 256, 1]);
        Ok(())
    }

    #[test]
    fn the_largest_space_fits_one_word() -> Result<()> {
        let space = CodeSpace::new(&[MAX_CODES; MAX_LEVELS])?;
        assert_eq!(space.first_word(&[u16::MAX; MAX_LEVELS]), u128::MAX);
        assert_eq!(space.last_word(0, 0), u128::MAX);
        assert_eq!((space.capacity(0), space.capacity(1)), (u128::MAX, 1 << 112));
        Ok(())
    }

    #[test]
    fn levels_of_one_code_take_no_bits() -> Result<()> {
        let space = CodeSpace::new(&[1, 1])?;
        assert_eq!(
            (space.first_word(&[0, 0]), space.last_word(0, 0), space.capacity(0)),
            (0, 0, 1)
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn anything_is_a_table_in_a_space_or_an_error(
            data in proptest::collection::vec(any::<u16>(), 0..40),
            n_levels in 0_usize..11,
            n_codes in proptest::collection::vec(0..=MAX_CODES + 1, 0..11),
        ) {
            let fits = (MIN_LEVELS..=MAX_LEVELS).contains(&n_levels);
            let table = Codes::new(&data, n_levels);
            prop_assert_eq!(table.is_ok(), fits && data.len().is_multiple_of(n_levels));
            let space = CodeSpace::new(&n_codes);
            let counts = n_codes.iter().all(|k| (1..=MAX_CODES).contains(k));
            let levels = (MIN_LEVELS..=MAX_LEVELS).contains(&n_codes.len());
            prop_assert_eq!(space.is_ok(), levels && counts);
            if let (Ok(table), Ok(space)) = (table, space) {
                let below = |row: &[u16]| row.iter().zip(&n_codes).all(|(&c, &k)| usize::from(c) < k);
                let inside = data.chunks(n_levels).all(below) && n_levels == n_codes.len();
                prop_assert_eq!(space.check(table).is_ok(), inside);
            }
        }

        #[test]
        fn words_come_back_and_sort_as_their_codes_do(
            n_codes in proptest::collection::vec(1..=MAX_CODES, MIN_LEVELS..=MAX_LEVELS),
            drawn in proptest::collection::vec(any::<u16>(), 2 * MAX_LEVELS),
        ) {
            let space = CodeSpace::new(&n_codes)?;
            let row = |drawn: &[u16]| -> Vec<u16> {
                let codes = drawn.iter().zip(&n_codes);
                codes.map(|(&code, &k)| (usize::from(code) % k) as u16).collect()
            };
            let (one, other) = (row(&drawn), row(&drawn[MAX_LEVELS..]));
            let words = [&one, &other].map(|codes| space.first_word(codes));
            prop_assert_eq!(words[0].cmp(&words[1]), one.cmp(&other));
            for (word, codes) in words.into_iter().zip([&one, &other]) {
                let back = space.codes(word);
                prop_assert_eq!(&back[..n_codes.len()], &codes[..]);
                for depth in 0..=n_codes.len() {
                    let first = space.first_word(&codes[..depth]);
                    prop_assert!(first <= word && word <= space.last_word(first, depth));
                }
            }
        }
    }

    #[test]
    fn a_space_around_codes_has_room_for_them() -> Result<()> {
        let codes = Codes::new(&[2, 0, 0, 9], 2)?;
        assert_eq!(CodeSpace::around(codes), CodeSpace::new(&[3, 10])?);
        assert_eq!(CodeSpace::around(Codes::new(&[], 2)?), CodeSpace::new(&[1, 1])?);
        Ok(())
    }
}
