//! Very large catalogs out of a smaller one, without a nearest code to look for.

use std::io;

use mql4grec::collision::find_collisions;
use mql4grec::interrupt::NEVER;

use super::{n_threads, table, Catalog, N_CODES, N_LEVELS, WIDTH};

/// How far the first code of one copy is from that of the next.
const STEP: usize = 25;

impl Catalog {
    /// Lay copies of a catalog into one code space, each with other first codes: what the first code
    /// leaves of a latent stays as it is, so every prefix of one code gets items from all the others'
    /// clusters, as many as in a catalog of that size. Items of different copies collide as well.
    pub fn copied(self, n_copies: usize) -> io::Result<Self> {
        let n_items = self.n_items();
        let mut codes = Vec::with_capacity(n_copies * self.codes.len());
        for copy in 0..n_copies {
            for row in self.codes.chunks_exact(N_LEVELS) {
                codes.push(shifted(row[0], copy));
                codes.extend_from_slice(&row[1..]);
            }
        }
        let groups =
            find_collisions(table(&codes)?, n_threads(), &NEVER).map_err(io::Error::other)?;
        let mut rows: Vec<i64> = groups.rows.iter().map(|&row| row as i64).collect();
        rows.sort_unstable();
        let mut latents = Vec::with_capacity(rows.len() * WIDTH);
        let code = |code: u16| &self.books[usize::from(code) * WIDTH..][..WIDTH];
        for row in rows.iter().map(|&row| row as usize) {
            let (old, new) = (self.codes[row % n_items * N_LEVELS], codes[row * N_LEVELS]);
            let moved = self.model.latent(row % n_items).into_iter().zip(code(old)).zip(code(new));
            latents.extend(moved.map(|((x, old), new)| x - old + new));
        }
        Ok(Self { codes, rows, latents, groups, ..self })
    }
}

fn shifted(code: u16, copy: usize) -> u16 {
    ((usize::from(code) + copy * STEP) % N_CODES) as u16
}
