//! Distances computed from the item's latent and the codebooks.

use std::sync::OnceLock;

use super::products::{add_products, Products, Rounded};
use super::{check_shape, least_place, margin, Distances, Probe, RowList, Table};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kinds::Kinds;

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
/// kinds      none                        codes that are alike; if there are any, all below is of kinds
/// n_kinds    3 2
/// turned     [0]  a b c | a b c          component 0 | 1
///            [1]  d e | d e
/// squares    [0]  aa bb cc               squared norms
///            [1]  dd ee
/// norms      what the largest norms of the levels from each on add up to
/// reach      how far the codes from each level on can take a latent at most
/// products   of levels i and j at i L + j, when first asked for; none if there are too many
/// ```
#[derive(Debug)]
pub struct Latents<'a> {
    latents: Table<'a>,
    rows: RowList,
    codebooks: Vec<Table<'a>>,
    n_codes: Vec<usize>,
    kinds: Option<Kinds>,
    n_kinds: Vec<usize>,
    turned: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
    norms: Vec<f64>,
    reach: Vec<f64>,
    products: Vec<OnceLock<Option<Products>>>,
    interrupt: &'a Interrupt,
}

impl<'a> Latents<'a> {
    /// Wrap latents (N, E), or (R, E) for R listed rows, and one codebook (K, E) per level.
    /// O(L K E + K K E).
    ///
    /// # Errors
    /// If the shapes do not fit, a codebook has NaN or infinity, or it was asked to end.
    pub fn new(
        latents: Table<'a>,
        rows: RowList,
        codebooks: &[Table<'a>],
        interrupt: &'a Interrupt,
    ) -> Result<Self> {
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
        let (n_levels, n_codes) = (codebooks.len(), codebooks.iter().map(Table::n_rows));
        let n_codes: Vec<usize> = n_codes.collect();
        let kinds = Kinds::new(&n_codes, |level, code| codebooks[level].row(code));
        let vectors: Vec<Vec<&[f32]>> = codebooks
            .iter()
            .enumerate()
            .map(|(level, book)| match &kinds {
                None => (0..book.n_rows()).map(|code| book.row(code)).collect(),
                Some(kinds) => kinds.firsts(level).map(|code| book.row(code)).collect(),
            })
            .collect();
        let squares = vectors.iter().map(|vectors| vectors.iter().map(|row| square(row)).collect());
        let squares: Vec<Vec<f64>> = squares.collect();
        let norms = norms(&squares);
        let mut made = Self {
            latents,
            rows,
            n_codes,
            n_kinds: vectors.iter().map(Vec::len).collect(),
            kinds,
            reach: norms.clone(),
            norms,
            squares: squares.iter().map(|s| s.iter().map(|&x| x as f32).collect()).collect(),
            products: std::iter::repeat_with(OnceLock::new).take(n_levels * n_levels).collect(),
            turned: vectors.iter().map(|vectors| turn(vectors, width, interrupt)).collect(),
            codebooks: codebooks.to_vec(),
            interrupt,
        };
        interrupt.check()?;
        made.shorten_reach(&squares);
        interrupt.check()?;
        Ok(made)
    }

    /// The last two levels reach no further than the largest norm of a sum. O(L + K K).
    fn shorten_reach(&mut self, squares: &[Vec<f64>]) {
        let [.., first, last] = squares else { return };
        let level = squares.len() - 2;
        let Some(products) = self.products(level, level + 1) else { return };
        let sums = first.iter().enumerate().flat_map(|(code, a)| {
            last.iter().zip(products.line(code)).map(move |(b, &x)| a + b + f64::from(x))
        });
        // Products are in `f32`, so a little is added.
        let shorter = self.norms[level] - sums.fold(0.0, f64::max).sqrt() * 1.0001;
        if shorter > 0.0 {
            self.reach[..=level].iter_mut().for_each(|reach| *reach -= shorter);
        }
    }

    /// Products of a level with a deeper one, unless they are too many.
    fn products(&self, level: usize, deeper: usize) -> Option<&Products> {
        let make = || {
            let vectors = (0..self.n_kinds[level]).map(|kind| self.vector(level, kind));
            Products::new(vectors, &self.turned[deeper], self.n_kinds[deeper], self.interrupt)
        };
        self.products[level * self.n_codes.len() + deeper].get_or_init(make).as_ref()
    }

    /// Add twice the products of a code's vector with those of a deeper level. O(K), or O(K E) where
    /// the products are not kept.
    fn add_line(&self, (level, code): (usize, u16), deeper: usize, out: &mut [f32]) {
        if let Some(products) = self.products(level, deeper) {
            let line = products.line(usize::from(code));
            out.iter_mut().zip(line).for_each(|(sum, product)| *sum += product);
        } else {
            let vector = self.vector(level, usize::from(code));
            add_products(vector, 2.0, &self.turned[deeper], out);
        }
    }

    /// The vector of a kind.
    fn vector(&self, level: usize, kind: usize) -> &'a [f32] {
        let first = self.kinds.as_ref().map(|kinds| kinds.codes(level, kind as u16));
        let code = first.map_or(kind, |codes| usize::from(codes[0]));
        self.codebooks[level].row(code)
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

    fn kinds(&self) -> Option<&Kinds> {
        self.kinds.as_ref()
    }

    /// O(E).
    fn alike(&self, a: usize, b: usize) -> bool {
        self.latent(a) == self.latent(b)
    }

    /// O(L E + K E).
    fn fill(&self, row: usize, prefix: &[u16], out: &mut Vec<f64>) {
        let n_codes = self.n_kinds[prefix.len()];
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
        if let Some(kinds) = &self.kinds {
            let of = kinds.of(prefix.len()).iter();
            *out = of.map(|&kind| out[usize::from(kind)]).collect();
        }
    }

    fn probe(&self) -> LatentProbe<'_> {
        LatentProbe {
            latents: self,
            depth: 0,
            margin: 0.0,
            left: Vec::new(),
            square: 0.0,
            linear: vec![Vec::new(); self.n_codes.len()],
            rest: vec![Vec::new(); self.n_codes.len()],
            near: Vec::new(),
            bounds: Vec::new(),
            level: 0,
            below: Vec::new(),
            rounded: Rounded::default(),
        }
    }
}

/// Errors of one latent below an opened prefix.
///
/// With r for what the prefix of `start` leaves, and c, d, e for the vectors of the codes after it,
///
/// ```text
/// |r - c - d - e|^2 = |r|^2 + (|c|^2 - 2 r c) + (|d|^2 - 2 r d) + (|e|^2 - 2 r e)
///                     + 2 c d + 2 c e + 2 d e
/// ```
///
/// whose last line is the same for all latents. So what a prefix leaves is never computed again: to
/// open one, lines of products are added.
///
/// ```text
/// depth    codes in the prefix of `start`
/// left     r
/// square   |r|^2
/// linear   by level  |c|^2 - 2 r c, (K)
/// level    codes in the opened prefix
/// rest     by level  the same and the products with the opened codes, (K)
/// near     error of the opened prefix with each code of its next level, (K)
/// bounds   what nothing below each of those is under, (K)
/// ```
pub struct LatentProbe<'a> {
    latents: &'a Latents<'a>,
    depth: usize,
    margin: f64,
    left: Vec<f32>,
    square: f32,
    linear: Vec<Vec<f32>>,
    level: usize,
    rest: Vec<Vec<f32>>,
    near: Vec<f32>,
    bounds: Vec<f32>,
    below: Vec<f32>,
    rounded: Rounded,
}

impl LatentProbe<'_> {
    /// Raise the bounds: for each code of a level, from the last but one up, the least that it and
    /// those below it add, where a level's products with the next are taken as they are, and those
    /// with levels further down each at their least. O(K K / 8) for each level. Nothing, where
    /// products are not kept.
    fn raise_bounds(&mut self, base: f32) {
        let (all, n_levels) = (self.latents, self.rest.len());
        let mut below = std::mem::take(&mut self.below);
        below.clone_from(&self.rest[n_levels - 1]);
        for level in (self.level..n_levels - 1).rev() {
            let Some(next) = all.products(level, level + 1) else { return };
            next.round(&below, &mut self.rounded);
            below.clone_from(&self.rest[level]);
            for (code, sum) in below.iter_mut().enumerate() {
                *sum += next.least_sum(code, &self.rounded);
            }
            for deeper in level + 2..n_levels {
                let Some(products) = all.products(level, deeper) else { return };
                below.iter_mut().zip(products.least()).for_each(|(sum, least)| *sum += least);
            }
        }
        self.bounds.iter_mut().zip(&below).for_each(|(bound, sum)| *bound = bound.max(base + sum));
        self.below = below;
    }
}

impl Probe for LatentProbe<'_> {
    /// O(L K E).
    fn start(&mut self, row: usize, prefix: &[u16]) {
        let all = self.latents;
        self.depth = prefix.len();
        self.left.clear();
        let latent = all.latent(row).iter().enumerate();
        self.left.extend(latent.map(|(e, &x)| all.left(e, x, prefix) as f32));
        self.square = self.left.iter().fold(0.0, |sum: f32, &x| sum + x * x);
        for level in self.depth..all.n_codes.len() {
            let linear = &mut self.linear[level];
            linear.clone_from(&all.squares[level]);
            add_products(&self.left, -2.0, &all.turned[level], linear);
        }
        let size = all.error(row, prefix).sqrt() + all.norms[self.depth];
        self.margin = margin(size * size, 2 * all.latents.shape[1] + 4 * all.n_codes.len());
    }

    fn margin(&self) -> f64 {
        self.margin
    }

    /// O(L L K), and O(L K K / 8) if there are more than two levels to go.
    fn open(&mut self, prefix: &[u16]) {
        let (all, n_levels) = (self.latents, self.rest.len());
        self.level = prefix.len();
        let mut base = self.square;
        for level in self.depth..n_levels {
            let rest = &mut self.rest[level];
            rest.clone_from(&self.linear[level]);
            let above = (0..level).zip(prefix).skip(self.depth);
            above.for_each(|(above, &code)| all.add_line((above, code), level, rest));
            if level < self.level {
                base += rest[usize::from(prefix[level])];
            }
        }
        self.near.clear();
        self.near.extend(self.rest[self.level].iter().map(|sum| base + sum));
        let radius = all.reach[self.level + 1] as f32;
        self.bounds.clear();
        self.bounds.extend(self.near.iter().map(|&near| {
            let gap = (near.max(0.0).sqrt() - radius).max(0.0);
            gap * gap
        }));
        if self.margin == f64::INFINITY {
            self.bounds.fill(f32::MIN);
        } else if self.level + 2 < n_levels {
            self.raise_bounds(base);
        } else if let Some(products) = all.products(self.level, self.level + 1) {
            let last = self.rest[n_levels - 1].iter().copied().fold(f32::INFINITY, f32::min);
            let sums = self.near.iter().zip(products.least());
            for (bound, (near, least)) in self.bounds.iter_mut().zip(sums) {
                *bound = bound.max(near + last + least);
            }
        }
    }

    fn bounds(&self) -> &[f32] {
        &self.bounds
    }

    fn first_line(&self) -> u16 {
        least_place(&self.near)
    }

    /// O(K), and O(K) in steps of eight for each code whose bound is below the limit.
    fn lines<'h>(
        &mut self,
        limit: f32,
        held: impl Fn(u16) -> Option<&'h [u64]>,
        out: &mut Vec<(f32, u16)>,
    ) {
        out.clear();
        let bounds = self.bounds.iter().copied().zip(0..=u16::MAX);
        out.extend(bounds.filter(|&(bound, _)| bound <= limit));
        let Some(products) = self.latents.products(self.level, self.level + 1) else { return };
        if self.margin == f64::INFINITY {
            return;
        }
        products.round(&self.rest[self.level + 1], &mut self.rounded);
        out.retain_mut(|(bound, code)| {
            let line = usize::from(*code);
            *bound = bound.max(self.near[line] + products.least_sum(line, &self.rounded));
            if *bound > limit {
                return false;
            }
            if let Some(held) = held(*code) {
                let least = products.least_free_sum(line, &self.rounded, held);
                *bound = bound.max(self.near[line] + least);
            }
            *bound <= limit
        });
    }

    /// O(K), or O(K E) where the products are not kept.
    fn leaves(&mut self, code: u16, out: &mut Vec<f32>) {
        let near = self.near[usize::from(code)];
        let rest = &self.rest[self.level + 1];
        out.clear();
        if self.margin == f64::INFINITY {
            out.resize(rest.len(), f32::MIN);
            return;
        }
        out.extend(rest.iter().map(|sum| near + sum));
        self.latents.add_line((self.level, code), self.level + 1, out);
    }
}

/// What the largest norms of the levels from each on add up to, (L + 1). O(L K).
fn norms(squares: &[Vec<f64>]) -> Vec<f64> {
    let largest = |squares: &Vec<f64>| squares.iter().copied().fold(0.0, f64::max).sqrt();
    let mut norms = vec![0.0; squares.len() + 1];
    for level in (0..squares.len()).rev() {
        norms[level] = norms[level + 1] + largest(&squares[level]);
    }
    norms
}

/// Component by component, as many as there are before it was asked to end. O(K E).
fn turn(vectors: &[&[f32]], width: usize, interrupt: &Interrupt) -> Vec<f32> {
    let component = |e: usize| vectors.iter().map(move |vector| vector[e]);
    (0..width).take_while(|_| !interrupt.is_asked()).flat_map(component).collect()
}
