//! Distances that somebody else computed.

use super::{check_shape, least_place, margin, Distances, Probe, RowList};
use crate::codes::CodeSpace;
use crate::error::{Error, Result};

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
    rows: RowList,
    n_codes: &'a [usize],
    width: usize,
}

impl<'a> DistanceTensor<'a> {
    /// Wrap a tensor of shape (N, L, K), K being the largest of the space's levels; or (R, L, K) for
    /// R listed rows. O(L).
    ///
    /// # Errors
    /// If `shape` is not that, or `values` has another length.
    pub fn new(
        values: &'a [f32],
        shape: [usize; 3],
        rows: RowList,
        space: &'a CodeSpace,
    ) -> Result<Self> {
        let width = space.n_codes().iter().copied().max().unwrap_or(0);
        let expected = [rows.len, space.n_levels(), width];
        check_shape("distances", &expected, &shape, values.len())?;
        Ok(Self { values, rows, n_codes: space.n_codes(), width })
    }

    fn level(&self, row: usize, level: usize) -> &'a [f32] {
        // Rows that are not at hand are refused by `check` before anything else is asked.
        let place = self.rows.place(row).unwrap_or(0);
        let start = (place * self.n_codes.len() + level) * self.width;
        &self.values[start..start + self.n_codes[level]]
    }
}

impl Distances for DistanceTensor<'_> {
    type Probe<'p>
        = TensorProbe<'p>
    where
        Self: 'p;

    fn extent(&self) -> (usize, &[usize]) {
        (self.rows.n_rows, self.n_codes)
    }

    /// O(L K).
    fn check(&self, row: usize) -> Result<()> {
        self.rows.require(row)?;
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

    /// The sum over the levels; true as long as only the last level changes. O(L).
    fn error(&self, row: usize, codes: &[u16]) -> f64 {
        let at = |(level, &code): (usize, &u16)| self.level(row, level)[usize::from(code)];
        codes.iter().enumerate().fold(0.0, |sum, entry| sum + f64::from(at(entry)))
    }

    /// O(K).
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>) {
        out.clear();
        out.extend(self.level(row, prefix.len()).iter().map(|&value| f64::from(value)));
    }

    /// O(L K).
    fn alike(&self, a: usize, b: usize) -> bool {
        (0..self.n_codes.len()).all(|level| self.level(a, level) == self.level(b, level))
    }

    /// The sum over the levels of what changes. O(L).
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        let at = |level: usize, codes: &[u16]| {
            f64::from(self.level(row, level)[usize::from(codes[level])])
        };
        (0..self.n_codes.len()).map(|level| at(level, new) - at(level, old)).sum()
    }

    fn probe(&self) -> TensorProbe<'_> {
        TensorProbe {
            tensor: self,
            row: 0,
            margin: 0.0,
            least: Vec::new(),
            lows: Vec::new(),
            bounds: Vec::new(),
        }
    }
}

/// Sums of given distances below a prefix.
///
/// For L = 3 and the opened prefix (4): the bound of code c is d0(4) + d1(c) + the least of d2.
///
/// ```text
/// least   d0+d1+d2 d1+d2 d2 0      least sums of the levels from each depth on
/// lows    d0 d1 d2                 the least of each level
/// bounds  K numbers
/// ```
pub struct TensorProbe<'a> {
    tensor: &'a DistanceTensor<'a>,
    row: usize,
    margin: f64,
    least: Vec<f64>,
    lows: Vec<f64>,
    bounds: Vec<f32>,
}

impl TensorProbe<'_> {
    /// A level's distances on top of what is above and below; nothing known where that could leave
    /// the range of `f32`.
    fn add(&self, base: f64, level: usize, out: &mut Vec<f32>) {
        let sum = |&value: &f32| (base + f64::from(value)) as f32;
        let values = self.tensor.level(self.row, level).iter();
        out.clear();
        if self.margin < f64::INFINITY {
            out.extend(values.map(sum));
        } else {
            out.resize(values.len(), f32::MIN);
        }
    }
}

impl Probe for TensorProbe<'_> {
    /// O(L K).
    fn start(&mut self, row: usize, _prefix: &[u16]) {
        self.row = row;
        let n_levels = self.tensor.n_codes.len();
        self.least = vec![0.0; n_levels + 1];
        self.lows = vec![0.0; n_levels];
        let mut size = 0.0;
        for level in (0..n_levels).rev() {
            let values = self.tensor.level(row, level);
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            self.lows[level] = f64::from(least);
            self.least[level] = self.least[level + 1] + self.lows[level];
            size += values.iter().fold(0.0, |size: f64, &value| size.max(f64::from(value).abs()));
        }
        self.margin = margin(size, n_levels);
    }

    fn margin(&self) -> f64 {
        self.margin
    }

    /// O(L).
    fn least_error(&self, prefix: &[u16]) -> Option<f64> {
        let lows = self.lows[prefix.len()..].iter();
        Some(lows.fold(self.tensor.error(self.row, prefix), |sum, low| sum + low))
    }

    /// O(K).
    fn open(&mut self, prefix: &[u16]) {
        let level = prefix.len();
        let base = self.tensor.error(self.row, prefix) + self.least[level + 1];
        let mut bounds = std::mem::take(&mut self.bounds);
        self.add(base, level, &mut bounds);
        self.bounds = bounds;
    }

    fn bounds(&self) -> &[f32] {
        &self.bounds
    }

    fn first_line(&self) -> u16 {
        least_place(&self.bounds)
    }

    /// O(K).
    fn lines<'h>(
        &mut self,
        limit: f32,
        _held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    ) {
        out.clear();
        let bounds = self.bounds.iter().copied().zip(0..=u16::MAX);
        out.extend(bounds.filter(|&(bound, _)| bound <= limit));
    }

    /// O(K).
    fn leaves(&mut self, code: u16, out: &mut Vec<f32>) {
        let level = self.tensor.n_codes.len() - 1;
        let base = f64::from(self.bounds[usize::from(code)]) - self.least[level];
        self.add(base, level, out);
    }
}
