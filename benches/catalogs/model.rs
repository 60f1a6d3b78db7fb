//! Made-up items: latents of products in categories, and variants of products that are nearly alike.
//!
//! Every number is a function of the seed and a row or product, so that any row's latent can be had
//! at any time without keeping it.

/// Numbers per latent E, as in the paper.
pub const WIDTH: usize = 32;
const N_DEPARTMENTS: usize = 40;
const N_CATEGORIES: usize = 2000;
const LARGEST_FAMILY: usize = 1000;
/// Spread of departments, categories within one, and products within one.
const SPREADS: [f32; 3] = [0.8, 0.6, 1.0];
/// Share of the families whose variants have the same vector, as those with the same title have.
const SAME: f32 = 0.2;

/// Where the items of a catalog lie.
///
/// Of six items, three in the one family of variants, rows 4, 0 and 2 at the places 0 to 2:
///
/// ```text
/// starts      0 3            family f has the places starts[f]..starts[f + 1]
/// stride      5              row r is at the place (r * stride + 4) % n_items
/// categories  2,000 centres of 32 numbers
/// ```
pub struct Model {
    seed: u64,
    n_items: usize,
    stride: usize,
    starts: Vec<u32>,
    categories: Vec<[f32; WIDTH]>,
}

impl Model {
    /// Lay out a catalog of which this share of the items are variants of a product. O(N).
    pub fn new(seed: u64, n_items: usize, variants: f64) -> Self {
        let mut model = Self {
            seed,
            n_items,
            stride: stride(n_items),
            starts: vec![0],
            categories: Vec::with_capacity(N_CATEGORIES),
        };
        for category in 0..N_CATEGORIES {
            let department = model.normal(1, (category % N_DEPARTMENTS) as u64);
            let own = model.normal(2, category as u64);
            model.categories.push(add(
                &add(&[0.0; WIDTH], &department, SPREADS[0]),
                &own,
                SPREADS[1],
            ));
        }
        let (n_variants, mut end) = ((n_items as f64 * variants) as usize, 0);
        while end < n_variants {
            let drawn = random(seed, 3, model.starts.len() as u64);
            end = (end + family_size(drawn)).min(n_variants);
            model.starts.push(end as u32);
        }
        model
    }

    /// The latent of a row. O(E + log N).
    pub fn latent(&self, row: usize) -> [f32; WIDTH] {
        let place = (row * self.stride + self.n_items / 3) % self.n_items;
        let n_families = self.starts.len() - 1;
        let n_variants = self.starts[n_families] as usize;
        if place >= n_variants {
            return self.product((n_families + place - n_variants) as u64);
        }
        let family = self.starts.partition_point(|&start| start as usize <= place) as u64 - 1;
        let unit = uniform(random(self.seed, 4, family));
        // Some families are the same, the others by a factor of up to ten more or less alike.
        let spread =
            if unit < SAME { 0.0 } else { 0.02 * 10_f32.powf((unit - SAME) / (1.0 - SAME)) };
        add(&self.product(family), &self.normal(5, place as u64), spread)
    }

    /// The latent of a product, in a category that has more products the lower its number.
    fn product(&self, product: u64) -> [f32; WIDTH] {
        let unit = uniform(random(self.seed, 6, product));
        let category = (unit * unit * N_CATEGORIES as f32) as usize;
        let category = &self.categories[category.min(N_CATEGORIES - 1)];
        add(category, &self.normal(7, product), SPREADS[2])
    }

    /// Numbers of about a normal distribution, the later ones smaller, as those of a trained encoder.
    fn normal(&self, stream: u64, index: u64) -> [f32; WIDTH] {
        let first = random(self.seed, stream, index);
        std::array::from_fn(|e| {
            let bits = mixed(first.wrapping_add(e as u64));
            let quarters = [bits, bits >> 16, bits >> 32, bits >> 48].map(|b| i64::from(b as u16));
            let sum = quarters.iter().sum::<i64>() - 2 * 65_535; // of four uniform ones
            sum as f32 / 37_837.0 / (1.0 + e as f32 / 32.0)
        })
    }
}

fn add(start: &[f32; WIDTH], offset: &[f32; WIDTH], factor: f32) -> [f32; WIDTH] {
    std::array::from_fn(|e| start[e] + factor * offset[e])
}

/// A number without a common divisor with `n`, about 0.618 of it: steps of it visit all, spread out.
fn stride(n: usize) -> usize {
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let from = (n as f64 * 0.618) as usize;
    (from..).find(|&step| divisor(step, n) == 1).unwrap_or(1)
}

/// 2 for two thirds of the families, 3 for a sixth, s in proportion to s^-3.
fn family_size(drawn: u64) -> usize {
    let unit = f64::from(uniform(drawn)).max(1e-9);
    let size = 1.5 * unit.powf(-0.5);
    (size.round() as usize).clamp(2, LARGEST_FAMILY)
}

/// SplitMix64 of a stream of numbers at an index.
pub fn random(seed: u64, stream: u64, index: u64) -> u64 {
    mixed(mixed(seed ^ (stream << 56)).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn mixed(state: u64) -> u64 {
    let state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn uniform(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1_u64 << 24) as f32
}
