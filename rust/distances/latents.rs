//! Distances computed from the item's latent and the codebooks.

mod probe;

use std::sync::OnceLock;

pub use probe::LatentProbe;

use super::products::{add_products, Products};
use super::{check_shape, Distances, RowList, Table};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kinds::Kinds;
use crate::memory;

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
    /// If the shapes do not fit, a codebook has NaN or infinity, it was asked to end, or there is not
    /// enough memory.
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
        // Codebooks turned, and for each code what is made of it.
        let n_numbers: usize = codebooks.iter().map(|book| book.values.len()).sum();
        memory::expect(n_numbers + 32 * n_codes.iter().sum::<usize>(), size_of::<f32>())?;
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
        LatentProbe::new(self)
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
