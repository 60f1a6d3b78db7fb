//! How far an item is from the codes that it could take: read from a tensor, or computed from the
//! item's latent and the codebooks.
//!
//! All distances are squared and handled as `f64`. Sums run in a fixed order, one component after the
//! other, so that they are the same to the last bit on every processor.

use crate::codes::{CodeSpace, Codes};
use crate::error::{Error, Result};

/// What the resolver asks about an item. Rows are below N, codes below their level's K.
pub trait Distances {
    /// How many rows N there are, and how many codes K each level has.
    fn extent(&self) -> (usize, &[usize]);

    /// Check that a row can be ranked.
    ///
    /// # Errors
    /// If one of its numbers is NaN or infinity.
    fn check(&self, row: usize) -> Result<()>;

    /// Distance of a row to the last of its L codes.
    fn last(&self, row: usize, codes: &[u16]) -> f64;

    /// Write the distances of a row to all K codes of the level that follows `prefix`.
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>);

    /// Squared error that a row gains by giving up the codes `old` for `new`; negative if it loses.
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64;
}

/// Distances that somebody else computed, for each row as if it kept its codes.
///
/// After a change at one level the true distances of the deeper levels are others, which the tensor
/// does not have: it goes on with those given. `Latents` is exact there.
///
/// Three items, L = 2, K = (3, 2), so a width of 3; the place after a level's K is never read:
///
/// ```text
/// values   .1 .5 .9 | .3 .2 ..   item 0: level 0 | level 1
///          .7 .4 .2 | .6 .1 ..   item 1
///          .2 .8 .3 | .4 .9 ..   item 2
/// n_rows   3
/// n_codes  3 2
/// width    3
/// ```
#[derive(Debug)]
pub struct DistanceTensor<'a> {
    values: &'a [f32],
    n_rows: usize,
    n_codes: &'a [usize],
    width: usize,
}

impl<'a> DistanceTensor<'a> {
    /// Wrap a tensor of shape (N, L, K), K being the largest of the space's levels. O(L).
    ///
    /// # Errors
    /// If `shape` is not that, or `values` has another length.
    pub fn new(
        values: &'a [f32],
        shape: [usize; 3],
        codes: Codes<'_>,
        space: &'a CodeSpace,
    ) -> Result<Self> {
        let width = space.n_codes().iter().copied().max().unwrap_or(0);
        let expected = [codes.n_rows(), codes.n_levels(), width];
        check_shape("distances", &expected, &shape, values.len())?;
        Ok(Self { values, n_rows: codes.n_rows(), n_codes: space.n_codes(), width })
    }

    fn level(&self, row: usize, level: usize) -> &'a [f32] {
        let start = (row * self.n_codes.len() + level) * self.width;
        &self.values[start..start + self.n_codes[level]]
    }
}

impl Distances for DistanceTensor<'_> {
    fn extent(&self) -> (usize, &[usize]) {
        (self.n_rows, self.n_codes)
    }

    /// O(L K).
    fn check(&self, row: usize) -> Result<()> {
        let finite = |level| self.level(row, level).iter().all(|value| value.is_finite());
        if (0..self.n_codes.len()).all(finite) {
            return Ok(());
        }
        Err(Error::NotFinite { what: "distances", row })
    }

    /// O(1).
    fn last(&self, row: usize, codes: &[u16]) -> f64 {
        let level = self.n_codes.len() - 1;
        f64::from(self.level(row, level)[usize::from(codes[level])])
    }

    /// O(K).
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.level(row, prefix.len()).iter().map(|&value| f64::from(value)));
    }

    /// The sum over the levels; exact as long as only the last level changes. O(L).
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        let at = |level: usize, codes: &[u16]| {
            f64::from(self.level(row, level)[usize::from(codes[level])])
        };
        (0..self.n_codes.len()).map(|level| at(level, new) - at(level, old)).sum()
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

/// Distances computed from the latent and the codebooks, exact for whatever prefix an item moves to:
/// the residual at a level is the latent minus the vectors of the codes above it.
///
/// Three latents of E = 2 and two codebooks of K = (3, 2); codebooks are kept as given, and once more
/// turned, so that the distances to neighbouring codes are summed side by side:
///
/// ```text
/// latents    .1 .2 | .3 .4 | .5 .6       item 0 | 1 | 2
/// codebooks  [0]  a a | b b | c c        code a | b | c
///            [1]  d d | e e
/// n_codes    3 2
/// turned     [0]  a b c | a b c          component 0 | 1
///            [1]  d e | d e
/// ```
#[derive(Debug)]
pub struct Latents<'a> {
    latents: Table<'a>,
    codebooks: Vec<Table<'a>>,
    n_codes: Vec<usize>,
    turned: Vec<Vec<f32>>,
}

impl<'a> Latents<'a> {
    /// Wrap latents (N, E) and one codebook (K, E) per level. O(L K E).
    ///
    /// # Errors
    /// If the shapes do not fit `codes`, or a codebook has NaN or infinity.
    pub fn new(latents: Table<'a>, codebooks: &[Table<'a>], codes: Codes<'_>) -> Result<Self> {
        let (n_levels, width) = (codes.n_levels(), latents.shape[1]);
        let expected = [codes.n_rows(), width];
        check_shape("latents", &expected, &latents.shape, latents.values.len())?;
        if codebooks.len() != n_levels {
            let got = codebooks.len();
            return Err(Error::LevelCount { what: "codebooks", expected: n_levels, got });
        }
        for (level, book) in codebooks.iter().enumerate() {
            let expected = [book.n_rows(), width];
            check_shape(&format!("codebooks[{level}]"), &expected, &book.shape, book.values.len())?;
            let finite = |&code: &usize| book.row(code).iter().all(|value| value.is_finite());
            if let Some(code) = (0..book.n_rows()).find(|code| !finite(code)) {
                return Err(Error::CodebookNotFinite { level, code });
            }
        }
        Ok(Self {
            latents,
            codebooks: codebooks.to_vec(),
            n_codes: codebooks.iter().map(Table::n_rows).collect(),
            turned: codebooks.iter().map(turn).collect(),
        })
    }

    /// O(L E).
    fn residual(&self, row: usize, prefix: &[u16]) -> Vec<f64> {
        let mut residual: Vec<f64> = self.latents.row(row).iter().map(|&x| f64::from(x)).collect();
        for (book, &code) in self.codebooks.iter().zip(prefix) {
            for (left, &taken) in residual.iter_mut().zip(book.row(usize::from(code))) {
                *left -= f64::from(taken);
            }
        }
        residual
    }
}

impl Distances for Latents<'_> {
    fn extent(&self) -> (usize, &[usize]) {
        (self.latents.n_rows(), &self.n_codes)
    }

    /// O(E).
    fn check(&self, row: usize) -> Result<()> {
        if self.latents.row(row).iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        Err(Error::NotFinite { what: "latents", row })
    }

    /// The squared norm of what all L codes leave. O(L E).
    fn last(&self, row: usize, codes: &[u16]) -> f64 {
        self.residual(row, codes).iter().fold(0.0, |sum, left| sum + left * left)
    }

    /// O(L E + K E).
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>) {
        let n_codes = self.n_codes[prefix.len()];
        out.clear();
        out.resize(n_codes, 0.0);
        let residual = self.residual(row, prefix);
        for (component, left) in residual.iter().enumerate() {
            let column = &self.turned[prefix.len()][component * n_codes..][..n_codes];
            for (sum, &coordinate) in out.iter_mut().zip(column) {
                let gap = left - f64::from(coordinate);
                *sum += gap * gap;
            }
        }
    }

    /// O(L E).
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        self.last(row, new) - self.last(row, old)
    }
}

fn turn(book: &Table<'_>) -> Vec<f32> {
    let [n_codes, width] = book.shape;
    let component = |e: usize| (0..n_codes).map(move |code| book.values[code * width + e]);
    (0..width).flat_map(component).collect()
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
