//! How far an item is from the codes that it could take: read from a tensor, or computed from the
//! item's latent and the codebooks.
//!
//! All distances are squared and handled as `f64`. Sums run in a fixed order, one component after the
//! other, so that they are the same to the last bit on every processor.

mod latents;
mod products;
mod tensor;

pub use latents::Latents;
pub use tensor::DistanceTensor;

use crate::error::{Error, Result};
use crate::kinds::Kinds;
use crate::memory;

/// What the resolver asks about an item. Rows are below N, codes below their level's K.
pub trait Distances: Sync {
    /// What a search keeps while it looks for the codes nearest to one row.
    type Probe<'p>: Probe
    where
        Self: 'p;

    /// How many rows N there are, and how many codes K each level has.
    fn extent(&self) -> (usize, &[usize]);

    /// Check that a row can be ranked.
    ///
    /// # Errors
    /// If its numbers are not at hand, or one of them is NaN or infinity.
    fn check(&self, row: usize) -> Result<()>;

    /// Distance of a row to the last of its L codes.
    fn last(&self, row: usize, codes: &[u16]) -> f64;

    /// The whole error of a row with these L codes.
    fn error(&self, row: usize, codes: &[u16]) -> f64;

    /// Write the distances of a row to all K codes of the level that follows `prefix`.
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>);

    /// Which codes are alike for all rows; none if no codes are.
    fn kinds(&self) -> Option<&Kinds> {
        None
    }

    /// Have two rows the same numbers, so that they are as far from whatever codes?
    fn alike(&self, a: usize, b: usize) -> bool;

    /// Start a search.
    fn probe(&self) -> Self::Probe<'_>;

    /// Error that a row gains by giving up the codes `old` for `new`; negative if it loses.
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        self.error(row, new) - self.error(row, old)
    }
}

/// Fast, slightly wrong errors of all codes below a prefix, and bounds for those of whole branches.
///
/// All numbers are within `margin` of the truth, and about the prefix that was opened last. Where codes
/// are alike, all codes are kinds, K is the number of kinds, and `start` alone takes codes as they are.
pub trait Probe {
    /// Begin with a row, whose codes have this first part in common with all that will be asked.
    fn start(&mut self, row: usize, prefix: &[u16]);

    /// How far the numbers of this row may be off.
    fn margin(&self) -> f64;

    /// The least error with any codes that begin with `prefix`, exactly as `Distances::error` sums it
    /// up; none where that takes long to tell.
    fn least_error(&self, _prefix: &[u16]) -> Option<f64> {
        None
    }

    /// Open a prefix of at most L - 2 codes.
    fn open(&mut self, prefix: &[u16]);

    /// For each of the codes after the prefix: what no semantic ID below it is under, (K).
    fn bounds(&self) -> &[f32];

    /// The code after a prefix of L - 2 codes below which to look first.
    fn first_line(&self) -> u16;

    /// The codes after a prefix of L - 2 codes below which an error may be at most `limit`, each
    /// after what no free semantic ID below it is under. `held` gives bits of those that are not
    /// free below a code, if they are at hand.
    fn lines<'h>(
        &mut self,
        limit: f32,
        held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    );

    /// Errors of the K semantic IDs after a prefix of L - 2 codes and one code more.
    fn leaves(&mut self, code: u16, out: &mut Vec<f32>);
}

/// For which of the N rows there are numbers: all, or those listed.
///
/// Of 70 items, the numbers of four, the last line being that of item 65:
///
/// ```text
/// listed  0b11001, 0 before | 0b10, 3 before     64 rows each: which are listed, how many before
/// n_rows  70
/// len     4          items 0, 3, 4 and 65
/// ```
#[derive(Debug, Clone)]
pub struct RowList {
    listed: Option<Vec<(u64, usize)>>,
    n_rows: usize,
    len: usize,
}

impl RowList {
    /// Number all of N rows. O(1).
    pub fn all(n_rows: usize) -> Self {
        Self { listed: None, n_rows, len: n_rows }
    }

    /// Number some of N rows. O(N / 64 + rows).
    ///
    /// # Errors
    /// If they do not ascend, one is not below N, or there is not enough memory.
    pub fn some(rows: &[i64], n_rows: usize) -> Result<Self> {
        let mut least = 0;
        let mut listed = memory::filled((0_u64, 0), n_rows.div_ceil(64))?;
        for (place, &row) in rows.iter().enumerate() {
            if row < least || row as usize >= n_rows {
                return Err(Error::RowList { n_rows, got: row, place });
            }
            listed[row as usize / 64].0 |= 1_u64 << (row % 64);
            least = row + 1;
        }
        let mut before = 0;
        for (bits, n) in &mut listed {
            *n = before;
            before += bits.count_ones() as usize;
        }
        Ok(Self { listed: Some(listed), n_rows, len: rows.len() })
    }

    /// O(1).
    fn place(&self, row: usize) -> Option<usize> {
        let Some(listed) = &self.listed else { return Some(row) };
        let &(bits, before) = listed.get(row / 64)?;
        let below = bits & ((1 << (row % 64)) - 1);
        (bits >> (row % 64) & 1 == 1).then_some(before + below.count_ones() as usize)
    }

    fn require(&self, row: usize) -> Result<usize> {
        self.place(row).ok_or(Error::RowMissing { row })
    }
}

/// A table of `f32` rows: latents (N, E), or a codebook (K, E).
///
/// Three latents of E = 2 lie as
///
/// ```text
/// values  .1 .2 | .3 .4 | .5 .6
/// shape   3 2
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    values: &'a [f32],
    shape: [usize; 2],
}

impl<'a> Table<'a> {
    /// Wrap a table in row order. O(1).
    ///
    /// # Errors
    /// If `values` does not have as many numbers as `shape` says.
    pub fn new(what: &str, values: &'a [f32], shape: [usize; 2]) -> Result<Self> {
        check_shape(what, &shape, &shape, values.len())?;
        Ok(Self { values, shape })
    }

    /// The number of rows. O(1).
    pub fn n_rows(&self) -> usize {
        self.shape[0]
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.shape[1]..(row + 1) * self.shape[1]]
    }
}

/// How far sums of `n` terms in `f32` can be off, if the terms' sizes add up to `size`. Infinite where
/// they could leave the range of `f32`: then nothing is trusted, and all is computed exactly.
fn margin(size: f64, n: usize) -> f64 {
    if size > 1e30 {
        return f64::INFINITY;
    }
    (n as f64 + 16.0) * f64::from(f32::EPSILON) * size + f64::from(f32::MIN_POSITIVE)
}

/// The least number's place, the first of those alike; 0 if none is a number.
fn least_place(numbers: &[f32]) -> u16 {
    let least = (0..=u16::MAX).zip(numbers).fold((0, f32::INFINITY), |least, (place, &x)| {
        if x < least.1 {
            (place, x)
        } else {
            least
        }
    });
    least.0
}

fn check_shape(what: &str, expected: &[usize], got: &[usize], len: usize) -> Result<()> {
    let product = got.iter().fold(1, |product: usize, &n| product.saturating_mul(n));
    if expected == got && product == len {
        return Ok(());
    }
    let got = if expected == got { format!("({len},)") } else { tuple(got) };
    Err(Error::Shape { what: what.to_owned(), expected: tuple(expected), got })
}

fn tuple(shape: &[usize]) -> String {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({})", numbers.join(", "))
}
