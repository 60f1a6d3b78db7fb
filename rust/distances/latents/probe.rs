//! A search among the codes near one latent.

use super::Latents;
use crate::distances::products::{add_products, Rounded};
use crate::distances::{least_place, margin, Distances, Probe};

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

impl<'a> LatentProbe<'a> {
    /// Nothing is opened yet. O(L).
    pub(super) fn new(latents: &'a Latents<'a>) -> Self {
        Self {
            latents,
            depth: 0,
            margin: 0.0,
            left: Vec::new(),
            square: 0.0,
            linear: vec![Vec::new(); latents.n_codes.len()],
            rest: vec![Vec::new(); latents.n_codes.len()],
            near: Vec::new(),
            bounds: Vec::new(),
            level: 0,
            below: Vec::new(),
            rounded: Rounded::default(),
        }
    }

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
