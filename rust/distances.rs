//! How far an item is from the codes that it could take: read from a tensor, or computed from the
//! item's latent and the codebooks.
//!
//! All distances are squared and handled as `f64`. Sums run in a fixed order, one component after the
//! other, so that they are the same to the last bit on every processor.

use crate::codes::CodeSpace;
use crate::error::{Error, Result};

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

    /// Start a search.
    fn probe(&self) -> Self::Probe<'_>;

    /// Error that a row gains by giving up the codes `old` for `new`; negative if it loses.
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        self.error(row, new) - self.error(row, old)
    }
}

/// Fast, slightly wrong errors of all codes below a prefix, and bounds for those of whole branches.
///
/// All numbers are within `margin` of the truth. A node is a prefix that was opened.
pub trait Probe {
    /// Begin with a row, whose codes have this first part in common with all that will be asked.
    fn start(&mut self, row: usize, prefix: &[u16]);

    /// How far the numbers of this row may be off.
    fn margin(&self) -> f64;

    /// Compute the numbers below a prefix of at most L - 2 codes.
    fn open(&mut self, prefix: &[u16]) -> usize;

    /// For each of the codes after an opened prefix: what no semantic ID below it is under, (K).
    fn bounds(&self, node: usize) -> &[f32];

    /// The code after an opened prefix of L - 2 codes below which to look first.
    fn first_line(&self, node: usize) -> u16;

    /// The codes after an opened prefix of L - 2 codes below which an error may be at most `limit`,
    /// each after what no free semantic ID below it is under. `held` gives bits of those that are not
    /// free below a code, if they are at hand.
    fn lines<'h>(
        &mut self,
        node: usize,
        limit: f32,
        held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    );

    /// Errors of the K semantic IDs after an opened prefix of L - 2 codes and one code more.
    fn leaves(&mut self, node: usize, code: u16, out: &mut Vec<f32>);
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
    /// If they do not ascend, or one is not below N.
    pub fn some(rows: &[i64], n_rows: usize) -> Result<Self> {
        let mut least = 0;
        let mut listed = vec![(0, 0); n_rows.div_ceil(64)];
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

    /// The sum over the levels of what changes. O(L).
    fn cost(&self, row: usize, old: &[u16], new: &[u16]) -> f64 {
        let at = |level: usize, codes: &[u16]| {
            f64::from(self.level(row, level)[usize::from(codes[level])])
        };
        (0..self.n_codes.len()).map(|level| at(level, new) - at(level, old)).sum()
    }

    fn probe(&self) -> TensorProbe<'_> {
        TensorProbe { tensor: self, row: 0, margin: 0.0, least: Vec::new(), bounds: Vec::new() }
    }
}

/// Sums of given distances below a prefix.
///
/// For L = 3 and the opened prefix (4): the bound of code c is d0(4) + d1(c) + the least of d2.
///
/// ```text
/// least   d0+d1+d2 d1+d2 d2 0      least sums of the levels from each depth on
/// bounds  (node 0) K numbers
/// ```
pub struct TensorProbe<'a> {
    tensor: &'a DistanceTensor<'a>,
    row: usize,
    margin: f64,
    least: Vec<f64>,
    bounds: Vec<Vec<f32>>,
}

impl Probe for TensorProbe<'_> {
    /// O(L K).
    fn start(&mut self, row: usize, _prefix: &[u16]) {
        self.row = row;
        self.bounds.clear();
        let n_levels = self.tensor.n_codes.len();
        self.least = vec![0.0; n_levels + 1];
        let mut size = 0.0;
        for level in (0..n_levels).rev() {
            let values = self.tensor.level(row, level);
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            self.least[level] = self.least[level + 1] + f64::from(least);
            size += values.iter().fold(0.0, |size: f64, &value| size.max(f64::from(value).abs()));
        }
        self.margin = margin(size, n_levels);
    }

    fn margin(&self) -> f64 {
        self.margin
    }

    fn open(&mut self, prefix: &[u16]) -> usize {
        let level = prefix.len();
        let above = self.tensor.error(self.row, prefix);
        let base = above + self.least[level + 1];
        let bound = |&value: &f32| {
            if self.margin < f64::INFINITY {
                (base + f64::from(value)) as f32
            } else {
                f32::MIN
            }
        };
        self.bounds.push(self.tensor.level(self.row, level).iter().map(bound).collect());
        self.bounds.len() - 1
    }

    fn bounds(&self, node: usize) -> &[f32] {
        &self.bounds[node]
    }

    fn first_line(&self, node: usize) -> u16 {
        least_place(&self.bounds[node])
    }

    /// O(K).
    fn lines<'h>(
        &mut self,
        node: usize,
        limit: f32,
        _held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    ) {
        out.clear();
        let bounds = self.bounds[node].iter().copied().zip(0..=u16::MAX);
        out.extend(bounds.filter(|&(bound, _)| bound <= limit));
    }

    fn leaves(&mut self, node: usize, code: u16, out: &mut Vec<f32>) {
        let level = self.tensor.n_codes.len() - 1;
        let base = f64::from(self.bounds[node][usize::from(code)]) - self.least[level];
        let leaf = |&value: &f32| {
            if self.margin < f64::INFINITY {
                (base + f64::from(value)) as f32
            } else {
                f32::MIN
            }
        };
        out.clear();
        out.extend(self.tensor.level(self.row, level).iter().map(leaf));
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
/// squares    [0]  aa bb cc               squared norms
///            [1]  dd ee
/// reach      how far the codes from each level on can take a latent at most
/// least      of each line of products, the least
/// products   2ad 2ae | 2bd 2be | ...     of the last two levels; empty if there are too many
/// rough      the same as small whole numbers
/// ```
#[derive(Debug)]
pub struct Latents<'a> {
    latents: Table<'a>,
    rows: RowList,
    codebooks: Vec<Table<'a>>,
    n_codes: Vec<usize>,
    turned: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
    reach: Vec<f64>,
    products: Vec<f32>,
    least: Vec<f32>,
    rough: Rough,
}

/// Products of the last two codebooks are kept up to this number: 16 MiB.
const MAX_PRODUCTS: usize = 1 << 22;

impl<'a> Latents<'a> {
    /// Wrap latents (N, E), or (R, E) for R listed rows, and one codebook (K, E) per level.
    /// O(L K E + K K E).
    ///
    /// # Errors
    /// If the shapes do not fit, or a codebook has NaN or infinity.
    pub fn new(latents: Table<'a>, rows: RowList, codebooks: &[Table<'a>]) -> Result<Self> {
        let width = latents.shape[1];
        check_shape("latents", &[rows.len, width], &latents.shape, latents.values.len())?;
        for (level, book) in codebooks.iter().enumerate() {
            let expected = [book.n_rows(), width];
            check_shape(&format!("codebooks[{level}]"), &expected, &book.shape, book.values.len())?;
            let finite = |&code: &usize| book.row(code).iter().all(|value| value.is_finite());
            if let Some(code) = (0..book.n_rows()).find(|code| !finite(code)) {
                return Err(Error::CodebookNotFinite { level, code });
            }
        }
        let square =
            |row: &[f32]| row.iter().fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x));
        let squares: Vec<Vec<f64>> = codebooks
            .iter()
            .map(|book| (0..book.n_rows()).map(|code| square(book.row(code))).collect())
            .collect();
        let turned: Vec<Vec<f32>> = codebooks.iter().map(turn).collect();
        let products = products(codebooks, &turned);
        let n_last = codebooks.last().map_or(1, Table::n_rows).max(1);
        let least = |line: &[f32]| line.iter().copied().fold(f32::INFINITY, f32::min);
        let least: Vec<f32> = products.chunks(n_last).map(least).collect();
        Ok(Self {
            latents,
            rows,
            n_codes: codebooks.iter().map(Table::n_rows).collect(),
            reach: reach(&squares, &products),
            squares: squares.iter().map(|s| s.iter().map(|&x| x as f32).collect()).collect(),
            rough: Rough::new(&products, &least, n_last),
            least,
            products,
            turned,
            codebooks: codebooks.to_vec(),
        })
    }

    fn latent(&self, row: usize) -> &'a [f32] {
        // Rows that are not at hand are refused by `check` before anything else is asked.
        self.latents.row(self.rows.place(row).unwrap_or(0))
    }

    /// One component of the latent minus those of the codes. O(L).
    fn left(&self, component: usize, latent: f32, codes: &[u16]) -> f64 {
        let width = self.latents.shape[1];
        let taken = self.codebooks.iter().zip(codes);
        let taken = taken.map(|(book, &code)| book.values[usize::from(code) * width + component]);
        taken.fold(f64::from(latent), |left, taken| left - f64::from(taken))
    }
}

impl Distances for Latents<'_> {
    type Probe<'p>
        = LatentProbe<'p>
    where
        Self: 'p;

    fn extent(&self) -> (usize, &[usize]) {
        (self.rows.n_rows, &self.n_codes)
    }

    /// O(E).
    fn check(&self, row: usize) -> Result<()> {
        let place = self.rows.require(row)?;
        if self.latents.row(place).iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        Err(Error::NotFinite { what: "latents", row })
    }

    /// The squared norm of what all L codes leave: at the last level, that is the whole error.
    fn last(&self, row: usize, codes: &[u16]) -> f64 {
        self.error(row, codes)
    }

    /// The squared norm of what the codes leave. O(L E).
    fn error(&self, row: usize, codes: &[u16]) -> f64 {
        let mut sum = 0.0;
        // Eight components side by side, but squares are added one after the other.
        for (start, part) in (0..).step_by(8).zip(self.latent(row).chunks(8)) {
            let mut left = [0.0; 8];
            left.iter_mut().zip(part).for_each(|(left, &x)| *left = f64::from(x));
            for (book, &code) in self.codebooks.iter().zip(codes) {
                let vector = &book.row(usize::from(code))[start..];
                left.iter_mut().zip(vector).for_each(|(left, &y)| *left -= f64::from(y));
            }
            sum = left[..part.len()].iter().fold(sum, |sum, left| sum + left * left);
        }
        sum
    }

    /// O(L E + K E).
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>) {
        let n_codes = self.n_codes[prefix.len()];
        out.clear();
        out.resize(n_codes, 0.0);
        for (component, &x) in self.latent(row).iter().enumerate() {
            let left = self.left(component, x, prefix);
            let column = &self.turned[prefix.len()][component * n_codes..][..n_codes];
            for (sum, &coordinate) in out.iter_mut().zip(column) {
                let gap = left - f64::from(coordinate);
                *sum += gap * gap;
            }
        }
    }

    fn probe(&self) -> LatentProbe<'_> {
        LatentProbe {
            latents: self,
            row: 0,
            margin: 0.0,
            nodes: Vec::new(),
            n_open: 0,
            left: Vec::new(),
            rough: Vec::new(),
        }
    }
}

/// Errors of one latent below opened prefixes, by
/// |r - c - d|^2 = |r - c|^2 + (|d|^2 - 2 r d) + 2 c d, whose last term is the same for all latents.
///
/// Buffers of closed nodes are kept for the next ones; `n_open` of them are in use.
pub struct LatentProbe<'a> {
    latents: &'a Latents<'a>,
    row: usize,
    margin: f64,
    nodes: Vec<LatentNode>,
    n_open: usize,
    left: Vec<f32>,
    rough: Vec<[i16; 8]>,
}

/// The numbers below a prefix that leaves r.
///
/// ```text
/// near    |r - c|^2         for the K codes of the next level
/// bounds  of all below c    as many
/// last    |d|^2 - 2 r d     for the K codes of the last level, if the prefix has L - 2 codes
/// ```
#[derive(Default)]
struct LatentNode {
    near: Vec<f32>,
    bounds: Vec<f32>,
    last: Vec<f32>,
}

impl LatentProbe<'_> {
    /// |c|^2 - 2 r c for all codes of a level. O(K E).
    fn linear(&self, level: usize, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&self.latents.squares[level]);
        add_products(&self.left, -2.0, &self.latents.turned[level], out);
    }
}

impl Probe for LatentProbe<'_> {
    fn start(&mut self, row: usize, prefix: &[u16]) {
        (self.row, self.n_open) = (row, 0);
        let norm = self.latents.error(row, prefix).sqrt();
        let size = norm + self.latents.reach[prefix.len()];
        self.margin = margin(size * size, 2 * self.latents.latents.shape[1]);
    }

    fn margin(&self) -> f64 {
        self.margin
    }

    /// O(K E).
    fn open(&mut self, prefix: &[u16]) -> usize {
        let (all, level) = (self.latents, prefix.len());
        if self.n_open == self.nodes.len() {
            self.nodes.push(LatentNode::default());
        }
        let mut node = std::mem::take(&mut self.nodes[self.n_open]);
        let latent = all.latent(self.row).iter().enumerate();
        self.left.clear();
        self.left.extend(latent.map(|(e, &x)| all.left(e, x, prefix) as f32));
        let square = self.left.iter().fold(0.0, |sum: f32, &x| sum + x * x);
        self.linear(level, &mut node.near);
        node.near.iter_mut().for_each(|near| *near += square);
        let radius = all.reach[level + 1] as f32;
        node.bounds.clear();
        node.bounds.extend(node.near.iter().map(|&near| {
            let gap = (near.max(0.0).sqrt() - radius).max(0.0);
            gap * gap
        }));
        if level + 2 == all.n_codes.len() {
            self.linear(level + 1, &mut node.last);
            let last = node.last.iter().copied().fold(f32::INFINITY, f32::min);
            for ((bound, near), least) in node.bounds.iter_mut().zip(&node.near).zip(&all.least) {
                *bound = bound.max(near + last + least);
            }
        }
        if self.margin == f64::INFINITY {
            node.bounds.fill(f32::MIN);
        }
        self.nodes[self.n_open] = node;
        self.n_open += 1;
        self.n_open - 1
    }

    fn bounds(&self, node: usize) -> &[f32] {
        &self.nodes[node].bounds
    }

    fn first_line(&self, node: usize) -> u16 {
        least_place(&self.nodes[node].near)
    }

    /// O(K), and O(K) in steps of eight for each code whose bound is below the limit.
    fn lines<'h>(
        &mut self,
        node: usize,
        limit: f32,
        held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    ) {
        let (all, node) = (self.latents, &self.nodes[node]);
        out.clear();
        let bounds = node.bounds.iter().copied().zip(0..=u16::MAX);
        out.extend(bounds.filter(|&(bound, _)| bound <= limit));
        if all.rough.values.is_empty() || self.margin == f64::INFINITY {
            return;
        }
        let least = all.rough.round(&node.last, &mut self.rough);
        out.retain_mut(|(bound, code)| {
            let line = usize::from(*code);
            let base = node.near[line] + least + all.least[line];
            *bound = bound.max(base + all.rough.least_sum(line, &self.rough));
            if *bound > limit {
                return false;
            }
            if let Some(held) = held(*code) {
                *bound = bound.max(base + all.rough.least_free_sum(line, &self.rough, held));
            }
            *bound <= limit
        });
    }

    /// O(K), or O(K E) where the products are not kept.
    fn leaves(&mut self, node: usize, code: u16, out: &mut Vec<f32>) {
        let (all, node) = (self.latents, &self.nodes[node]);
        let near = node.near[usize::from(code)];
        let (level, n_last) = (all.n_codes.len() - 1, node.last.len());
        out.clear();
        if self.margin == f64::INFINITY {
            out.resize(n_last, f32::MIN);
        } else if all.products.is_empty() {
            out.extend(node.last.iter().map(|last| near + last));
            add_products(
                all.codebooks[level - 1].row(usize::from(code)),
                2.0,
                &all.turned[level],
                out,
            );
        } else {
            let products = &all.products[usize::from(code) * n_last..][..n_last];
            out.extend(node.last.iter().zip(products).map(|(last, product)| near + last + product));
        }
    }
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

/// Products above the least of their line, rounded down to steps, so that eight of them are added
/// and compared at once: sums of them tell quickly below which codes nothing can be near enough.
///
/// For two lines of two products, .1 .5 and .7 .4, in steps of .1; a line is filled up to eights:
///
/// ```text
/// values  0 4 m m m m m m | 3 0 m m m m m m     m: the largest number
/// step    .1
/// width   1                                     eights in a line
/// ```
#[derive(Debug)]
struct Rough {
    values: Vec<[i16; 8]>,
    step: f32,
    width: usize,
}

/// For each byte, the largest number where a bit is set.
static BLOCKED: [[i16; 8]; 256] = {
    let mut blocked = [[0; 8]; 256];
    let mut place = 0;
    while place < 256 * 8 {
        if (place / 8) >> (place % 8) & 1 == 1 {
            blocked[place / 8][place % 8] = i16::MAX;
        }
        place += 1;
    }
    blocked
};

impl Rough {
    /// O(K K).
    fn new(products: &[f32], least: &[f32], n_codes: usize) -> Self {
        let above = |(line, least): (&[f32], &f32)| {
            line.iter().fold(0.0, |most: f32, x| most.max(x - least))
        };
        let most = products.chunks(n_codes).zip(least).map(above).fold(0.0, f32::max);
        // Half of the range is for the numbers that are added.
        let step = (most / f32::from(i16::MAX / 2)).max(1e-30);
        let mut values = Vec::new();
        for (line, &least) in products.chunks(n_codes).zip(least) {
            push_steps(line, least, step, &mut values);
        }
        Self { values, step, width: n_codes.div_ceil(8) }
    }

    /// Round numbers down to steps above the least of them, and give that. O(K).
    fn round(&self, numbers: &[f32], out: &mut Vec<[i16; 8]>) -> f32 {
        let least = numbers[usize::from(least_place(numbers))];
        out.clear();
        push_steps(numbers, least, self.step, out);
        least
    }

    fn line(&self, line: usize) -> &[[i16; 8]] {
        &self.values[line * self.width..][..self.width]
    }

    /// What no sum of a line's values and as many numbers is under. O(K).
    fn least_sum(&self, line: usize, numbers: &[[i16; 8]]) -> f32 {
        let pairs = self.line(line).as_flattened().iter().zip(numbers.as_flattened());
        self.back(pairs.fold(i16::MAX, |least, (a, b)| least.min(a.saturating_add(*b))))
    }

    /// The same without those whose bits are set. O(K).
    fn least_free_sum(&self, line: usize, numbers: &[[i16; 8]], held: &[u64]) -> f32 {
        let mut least = [i16::MAX; 8];
        for (place, (a, b)) in self.line(line).iter().zip(numbers).enumerate() {
            let blocked = &BLOCKED[usize::from((held[place / 8] >> (place % 8 * 8)) as u8)];
            for i in 0..8 {
                least[i] = least[i].min(a[i].saturating_add(b[i]) | blocked[i]);
            }
        }
        self.back(least.into_iter().fold(i16::MAX, i16::min))
    }

    fn back(&self, least: i16) -> f32 {
        (f32::from(least) - 1.0) * self.step // one step for what is lost by rounding
    }
}

/// Add a line of numbers, rounded down to steps above the least of them, in eights.
fn push_steps(numbers: &[f32], least: f32, step: f32, out: &mut Vec<[i16; 8]>) {
    for part in numbers.chunks(8) {
        let mut eight = [i16::MAX; 8];
        for (steps, x) in eight.iter_mut().zip(part) {
            *steps = ((x - least) * step.recip()).min(f32::from(i16::MAX)) as i16;
        }
        out.push(eight);
    }
}

/// Add the products, times a factor, of one vector with each column of a turned codebook. O(K E).
fn add_products(vector: &[f32], factor: f32, turned: &[f32], out: &mut [f32]) {
    let n_codes = out.len();
    let (fours, rest) = vector.as_chunks::<4>();
    let mut columns = turned.chunks_exact(n_codes.max(1));
    for four in fours {
        let [a, b, c, d] = four.map(|x| factor * x);
        let (Some(p), Some(q), Some(r), Some(s)) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            return;
        };
        for ((((sum, p), q), r), s) in out.iter_mut().zip(p).zip(q).zip(r).zip(s) {
            *sum += (a * p + b * q) + (c * r + d * s);
        }
    }
    for (&x, column) in rest.iter().zip(columns) {
        for (sum, y) in out.iter_mut().zip(column) {
            *sum += factor * x * y;
        }
    }
}

/// How far the codes from each level on can take a latent at most: the sum of their largest norms, or
/// for the last two levels, the largest norm of a sum where the products are at hand. O(L + K K).
fn reach(squares: &[Vec<f64>], products: &[f32]) -> Vec<f64> {
    let largest = |squares: &Vec<f64>| squares.iter().copied().fold(0.0, f64::max).sqrt();
    let mut reach = vec![0.0; squares.len() + 1];
    for level in (0..squares.len()).rev() {
        reach[level] = reach[level + 1] + largest(&squares[level]);
        if let ([first, last], false) = (&squares[level..], products.is_empty()) {
            let pairs = first.iter().zip(products.chunks(last.len().max(1)));
            let sums = pairs.flat_map(|(a, line)| {
                last.iter().zip(line).map(move |(b, &product)| a + b + f64::from(product))
            });
            // Products are in `f32`, so a little is added.
            reach[level] = reach[level].min(sums.fold(0.0, f64::max).sqrt() * 1.0001);
        }
    }
    reach
}

/// Twice the products of all pairs of vectors of the last two codebooks, unless they are too many.
fn products(codebooks: &[Table<'_>], turned: &[Vec<f32>]) -> Vec<f32> {
    let ([.., first, last], [.., columns]) = (codebooks, turned) else { return Vec::new() };
    if first.n_rows().saturating_mul(last.n_rows()) > MAX_PRODUCTS {
        return Vec::new();
    }
    let mut products = vec![0.0; first.n_rows() * last.n_rows()];
    for (code, row) in products.chunks_exact_mut(last.n_rows().max(1)).enumerate() {
        add_products(first.row(code), 2.0, columns, row);
    }
    products
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
