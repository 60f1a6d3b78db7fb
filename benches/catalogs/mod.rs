//! Catalogs of realistic shape, of which a chosen share of the items collide: latents of clustered
//! products and their variants, 4 x 256 codes by residual k-means. The same on every machine.

#![allow(dead_code, unused_imports)] // each bench uses a part

mod cases;
pub mod copies;
pub mod files;
mod model;
mod quantizer;

use std::io;

use mql4grec::codes::{CodeSpace, Codes};
use mql4grec::collision::{find_collisions, Groups};
use mql4grec::distances::{Latents, RowList, Table};
use mql4grec::interrupt::NEVER;

pub use cases::{check, named, Named, POLICIES};
use model::Model;
pub use model::WIDTH;
use quantizer::Codebook;
pub use quantizer::{N_CODES, N_LEVELS};

/// How far the share may be from the one asked for, relatively, and how often it is tried.
const TOLERANCE: f64 = 0.08;
const N_TRIES: usize = 6;
/// Share of the variants that share their codes, about; where the search for the knob begins.
const VARIANTS_THAT_COLLIDE: f64 = 0.85;

/// What to make.
///
/// ```text
/// n_items  10,000
/// share    0.09      of the items share their codes with another
/// seed     1
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    pub n_items: usize,
    pub share: f64,
    pub seed: u64,
}

/// A catalog, with the latents of only those items that collide.
///
/// Three items, the last with the codes of the first:
///
/// ```text
/// codes    9 1 4 7 | 3 3 0 1 | 9 1 4 7
/// books    4 of 256 x 32 numbers, one after the other
/// rows     0 2
/// latents  32 numbers | 32 numbers
/// groups   offsets 0 2, rows 0 2
/// ```
pub struct Catalog {
    pub codes: Vec<u16>,
    pub books: Vec<f32>,
    pub rows: Vec<i64>,
    pub latents: Vec<f32>,
    pub groups: Groups,
    model: Model,
}

impl Catalog {
    /// Read a catalog that was made before, or make it: O(N L K E), several times.
    pub fn load(recipe: Recipe) -> io::Result<Self> {
        let (variants, books, codes) = match files::read_cached(&recipe) {
            Some(found) => found,
            None => {
                let made = make(&recipe)?;
                files::write_cached(&recipe, &made)?;
                made
            }
        };
        let model = Model::new(recipe.seed, recipe.n_items, variants);
        let groups =
            find_collisions(table(&codes)?, n_threads(), &NEVER).map_err(io::Error::other)?;
        let mut rows: Vec<i64> = groups.rows.iter().map(|&row| row as i64).collect();
        rows.sort_unstable();
        let latents = rows.iter().flat_map(|&row| model.latent(row as usize)).collect();
        Ok(Self { codes, books, rows, latents, groups, model })
    }

    /// The number of items N.
    pub fn n_items(&self) -> usize {
        self.codes.len() / N_LEVELS
    }

    /// The share of the items that collide, as measured.
    pub fn share(&self) -> f64 {
        self.rows.len() as f64 / self.n_items() as f64
    }

    /// The latent of any row.
    pub fn latent(&self, row: usize) -> [f32; WIDTH] {
        self.model.latent(row)
    }

    /// The codes as the resolver takes them.
    pub fn table(&self) -> io::Result<Codes<'_>> {
        table(&self.codes)
    }

    /// The distances as the resolver takes them, of the items that collide.
    pub fn distances(&self) -> io::Result<Latents<'_>> {
        let wrap = || {
            let latents = Table::new("latents", &self.latents, [self.rows.len(), WIDTH])?;
            let books = self.books.chunks(N_CODES * WIDTH);
            let books = books.map(|values| Table::new("codebooks", values, [N_CODES, WIDTH]));
            let books = books.collect::<mql4grec::Result<Vec<_>>>()?;
            Latents::new(latents, RowList::some(&self.rows, self.n_items())?, &books, &NEVER)
        };
        wrap().map_err(io::Error::other)
    }
}

/// The paper's code space.
pub fn space() -> io::Result<CodeSpace> {
    CodeSpace::new(&[N_CODES; N_LEVELS]).map_err(io::Error::other)
}

/// As many threads as there are cores.
pub fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The value that follows a name such as `--items` on the command line.
pub fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// The number that follows a name on the command line.
pub fn number<T: std::str::FromStr>(name: &str, default: T) -> io::Result<T> {
    let wrong =
        |text: &String| io::Error::other(format!("`{name}`: expected a number, got {text}"));
    argument(name).map_or(Ok(default), |text| text.parse().map_err(|_| wrong(&text)))
}

fn table(codes: &[u16]) -> io::Result<Codes<'_>> {
    Codes::new(codes, N_LEVELS).map_err(io::Error::other)
}

/// Share of the items that are variants, codebooks, codes.
type Made = (f64, Vec<f32>, Vec<u16>);

/// Try shares of variants until the share of items that collide fits.
fn make(recipe: &Recipe) -> io::Result<Made> {
    // Of a hundred million products, about this share collide without being variants.
    let by_chance = if recipe.n_items > 10_000_000 { 7.5e-10 * recipe.n_items as f64 } else { 0.0 };
    let (mut variants, mut slope) = ((recipe.share - by_chance).max(0.0), VARIANTS_THAT_COLLIDE);
    let mut before = None;
    for _ in 0..N_TRIES {
        let model = Model::new(recipe.seed, recipe.n_items, variants);
        let books = quantizer::train(&model, recipe.n_items, recipe.seed);
        let codes = quantizer::assign(&model, &books, recipe.n_items);
        let share = find_collisions(table(&codes)?, n_threads(), &NEVER)
            .map_err(io::Error::other)?
            .rows
            .len() as f64;
        let share = share / recipe.n_items as f64;
        if (share - recipe.share).abs() <= TOLERANCE * recipe.share {
            return Ok((variants, joined(&books), codes));
        }
        if let Some((last_variants, last_share)) = before {
            slope = f64::max((share - last_share) / (variants - last_variants), 0.2);
        }
        before = Some((variants, share));
        variants = (variants + (recipe.share - share) / slope).clamp(0.0, 0.98);
    }
    Err(io::Error::other(format!("{recipe:?}: no share of variants found, last {before:?}")))
}

fn joined(books: &[Codebook]) -> Vec<f32> {
    books.iter().flat_map(|book| book.codes.iter().flatten().copied()).collect()
}
