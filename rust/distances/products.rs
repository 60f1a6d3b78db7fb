//! Products of the vectors of two levels, which are the same for all latents.

use super::least_place;
use crate::interrupt::Interrupt;

/// Products of two levels are kept up to this number: 16 MiB.
const MAX_PRODUCTS: usize = 1 << 22;

/// Twice the products 2 c d of each vector c of one level with each vector d of a deeper one.
///
/// Of two and three vectors:
///
/// ```text
/// values  .1 .5 .3 | .7 .4 .4     line of the first c | of the second
/// n_codes 3
/// least   .1 .4                   of each line
/// rough   the same as small whole numbers
/// ```
#[derive(Debug)]
pub(super) struct Products {
    values: Vec<f32>,
    n_codes: usize,
    least: Vec<f32>,
    rough: Rough,
}

impl Products {
    /// None if there are too many, or no codes; anything, if asked to end. O(K K E).
    pub(super) fn new<'a>(
        vectors: impl ExactSizeIterator<Item = &'a [f32]>,
        deeper: &[f32],
        n_codes: usize,
        interrupt: &Interrupt,
    ) -> Option<Self> {
        if n_codes == 0 || vectors.len().saturating_mul(n_codes) > MAX_PRODUCTS {
            return None;
        }
        let mut values = vec![0.0; vectors.len() * n_codes];
        let lines = values.chunks_exact_mut(n_codes).take_while(|_| !interrupt.is_asked());
        for (vector, line) in vectors.zip(lines) {
            add_products(vector, 2.0, deeper, line);
        }
        let least = |line: &[f32]| line.iter().copied().fold(f32::INFINITY, f32::min);
        let least: Vec<f32> = values.chunks_exact(n_codes).map(least).collect();
        let rough = Rough::new(&values, &least, n_codes);
        Some(Self { values, n_codes, least, rough })
    }

    /// The products of one vector c, (K).
    pub(super) fn line(&self, code: usize) -> &[f32] {
        &self.values[code * self.n_codes..][..self.n_codes]
    }

    /// The least product of each vector c, (K).
    pub(super) fn least(&self) -> &[f32] {
        &self.least
    }

    /// Get one number for each vector d ready for `least_sum`. O(K).
    pub(super) fn round(&self, numbers: &[f32], out: &mut Rounded) {
        self.rough.round(numbers, out);
    }

    /// What no sum of a number and its product with one vector c is under. O(K).
    pub(super) fn least_sum(&self, code: usize, numbers: &Rounded) -> f32 {
        numbers.least + self.least[code] + self.rough.least_sum(code, &numbers.eights)
    }

    /// The same without those whose bits are set. O(K).
    pub(super) fn least_free_sum(&self, code: usize, numbers: &Rounded, held: &[u64]) -> f32 {
        let sum = self.rough.least_free_sum(code, &numbers.eights, held);
        numbers.least + self.least[code] + sum
    }
}

/// Numbers as steps above the least of them, in eights.
#[derive(Debug, Default)]
pub(super) struct Rounded {
    least: f32,
    eights: Vec<[i16; 8]>,
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

    /// Round numbers down to steps above the least of them. O(K).
    fn round(&self, numbers: &[f32], out: &mut Rounded) {
        out.least = numbers[usize::from(least_place(numbers))];
        out.eights.clear();
        push_steps(numbers, out.least, self.step, &mut out.eights);
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
    let per_step = step.recip();
    for part in numbers.chunks(8) {
        let mut eight = [i16::MAX; 8];
        for (steps, x) in eight.iter_mut().zip(part) {
            *steps = ((x - least) * per_step).min(f32::from(i16::MAX)) as i32 as i16;
        }
        out.push(eight);
    }
}

/// Add the products, times a factor, of one vector with each column of a turned codebook. O(K E).
pub(super) fn add_products(vector: &[f32], factor: f32, turned: &[f32], out: &mut [f32]) {
    let n_codes = out.len();
    let (fours, rest) = vector.as_chunks::<4>();
    let mut columns = turned.chunks_exact(n_codes);
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
