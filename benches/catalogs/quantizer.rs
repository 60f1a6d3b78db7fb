//! Residual k-means: codebooks trained on a sample, and the nearest codes of any number of latents.

use std::thread;

use super::model::{random, Model, WIDTH};

/// Levels L, as in the paper.
pub const N_LEVELS: usize = 4;
/// Codes per level K, as in the paper.
pub const N_CODES: usize = 256;
const N_SAMPLED: usize = 1 << 15;
const N_ROUNDS: usize = 8;
/// Codes side by side in a panel, and rows that share what is loaded of it.
const LANES: usize = 8;
const ROWS: usize = 4;
/// Rows whose residuals and one level's codebook fit the fastest cache.
const BLOCK: usize = 64;

type Vector = [f32; WIDTH];

/// One level's codebook, turned so that the distances to eight codes are summed side by side.
///
/// ```text
/// codes    256 vectors
/// panels   32 of: component 0 of eight codes | component 1 | ... | component 31
/// squares  256 squared norms
/// ```
pub struct Codebook {
    pub codes: Vec<Vector>,
    panels: Vec<[[f32; LANES]; WIDTH]>,
    squares: Vec<[f32; LANES]>,
}

impl Codebook {
    /// Turn codes. O(K E).
    pub fn new(codes: Vec<Vector>) -> Self {
        let eights = codes.as_chunks::<LANES>().0.iter();
        let panel = |eight: &[Vector; LANES]| {
            std::array::from_fn(|e| std::array::from_fn(|lane| eight[lane][e]))
        };
        let square = |code: &Vector| code.iter().map(|x| x * x).sum();
        let panels = eights.clone().map(panel).collect();
        let squares = eights.map(|eight| std::array::from_fn(|lane| square(&eight[lane])));
        Self { squares: squares.collect(), panels, codes }
    }

    /// The nearest code of four vectors, the lower of two as near. O(K E).
    fn nearest(&self, vectors: &[Vector; ROWS]) -> [u16; ROWS] {
        let mut best = [[f32::INFINITY; LANES]; ROWS];
        let mut places = [[0_u32; LANES]; ROWS];
        for (place, (panel, squares)) in (0..).zip(self.panels.iter().zip(&self.squares)) {
            let mut sums = [*squares; ROWS];
            for (e, column) in panel.iter().enumerate() {
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    let x = -2.0 * vector[e];
                    for (sum, y) in sum.iter_mut().zip(column) {
                        *sum += x * y;
                    }
                }
            }
            for ((best, places), sum) in best.iter_mut().zip(&mut places).zip(&sums) {
                for ((best, at), sum) in best.iter_mut().zip(places).zip(sum) {
                    *at = if sum < best { place } else { *at };
                    *best = if sum < best { *sum } else { *best };
                }
            }
        }
        std::array::from_fn(|row| {
            let lanes = (0..LANES).map(|lane| (best[row][lane], places[row][lane], lane));
            let first = lanes.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            first.map_or(0, |(_, place, lane)| (place as usize * LANES + lane) as u16)
        })
    }

    /// Subtract from each vector its nearest code, and name it. O(n K E).
    fn quantize(&self, vectors: &mut [Vector], mut write: impl FnMut(usize, u16)) {
        for (start, rows) in (0..).step_by(ROWS).zip(vectors.chunks_mut(ROWS)) {
            let four = std::array::from_fn(|i| rows.get(i).copied().unwrap_or([0.0; WIDTH]));
            for (i, (row, code)) in rows.iter_mut().zip(self.nearest(&four)).enumerate() {
                let taken = &self.codes[usize::from(code)];
                row.iter_mut().zip(taken).for_each(|(x, y)| *x -= y);
                write(start + i, code);
            }
        }
    }
}

/// Train one codebook per level on what the levels above leave of a sample. O(rounds L K E sample).
pub fn train(model: &Model, n_items: usize, seed: u64) -> Vec<Codebook> {
    let n = n_items.min(N_SAMPLED);
    let row =
        |i: usize| if n == n_items { i } else { random(seed, 8, i as u64) as usize % n_items };
    let mut vectors: Vec<Vector> = (0..n).map(|i| model.latent(row(i))).collect();
    let level = |level: usize| {
        let book = cluster(&vectors, random(seed, 9, level as u64));
        book.quantize(&mut vectors, |_, _| ());
        book
    };
    (0..N_LEVELS).map(level).collect()
}

fn cluster(vectors: &[Vector], seed: u64) -> Codebook {
    let any = |code: usize| vectors[random(seed, 10, code as u64) as usize % vectors.len()];
    let mut book = Codebook::new((0..N_CODES).map(any).collect());
    for round in 1..=N_ROUNDS {
        let mut sums = vec![([0.0_f64; WIDTH], 0_u32); N_CODES];
        book.quantize(&mut vectors.to_vec(), |row, code| {
            let (sum, n) = &mut sums[usize::from(code)];
            sum.iter_mut().zip(&vectors[row]).for_each(|(sum, &x)| *sum += f64::from(x));
            *n += 1;
        });
        let mean = |(code, (sum, n)): (usize, &([f64; WIDTH], u32))| match n {
            0 => any(code + round * N_CODES), // a dead code begins anew
            n => sum.map(|sum| (sum / f64::from(*n)) as f32),
        };
        book = Codebook::new(sums.iter().enumerate().map(mean).collect());
    }
    book
}

/// The nearest codes of all rows, (N, L), by all cores. O(N L K E).
pub fn assign(model: &Model, books: &[Codebook], n_items: usize) -> Vec<u16> {
    let mut codes = vec![0; n_items * N_LEVELS];
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let rows_each = n_items.div_ceil(n_threads).max(1);
    thread::scope(|scope| {
        for (index, share) in codes.chunks_mut(rows_each * N_LEVELS).enumerate() {
            scope.spawn(move || {
                for (block, codes) in share.chunks_mut(BLOCK * N_LEVELS).enumerate() {
                    let first = index * rows_each + block * BLOCK;
                    let rows = first..first + codes.len() / N_LEVELS;
                    let mut left: Vec<Vector> = rows.map(|row| model.latent(row)).collect();
                    for (level, book) in books.iter().enumerate() {
                        book.quantize(&mut left, |row, code| codes[row * N_LEVELS + level] = code);
                    }
                }
            });
        }
    });
    codes
}
