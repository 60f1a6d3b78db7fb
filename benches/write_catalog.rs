//! Writes a catalog that the benches use as arrays for numpy, so that a Python script can run on the
//! same inputs: `cargo bench --bench write_catalog -- --items 50000 --share 0.09 --out DIR`.
//!
//! `codes.npy` uint16 (N, 4), `latents.npy` float32 (N, 32), `codebooks.npy` float32 (4, 256, 32).

#![allow(clippy::print_stdout)] // it is a program

mod catalogs;

use std::path::Path;
use std::{fs, io};

use catalogs::files::write_npy;
use catalogs::{argument, number, Catalog, Recipe, N_CODES, N_LEVELS, WIDTH};

fn main() -> io::Result<()> {
    let Some(folder) = argument("--out") else {
        println!("write_catalog: --out DIR [--items 50000] [--share 0.09] [--seed 1]");
        return Ok(());
    };
    let recipe = Recipe {
        n_items: number("--items", 50_000)?,
        share: number("--share", 0.09)?,
        seed: number("--seed", 1)?,
    };
    let catalog = Catalog::load(recipe)?;
    let (folder, n_items) = (Path::new(&folder), catalog.n_items());
    fs::create_dir_all(folder)?;
    let codes = catalog.codes.iter().map(|x| x.to_le_bytes());
    write_npy(&folder.join("codes.npy"), ("<u2", &[n_items, N_LEVELS]), codes)?;
    let latents = (0..n_items).flat_map(|row| catalog.latent(row)).map(f32::to_le_bytes);
    write_npy(&folder.join("latents.npy"), ("<f4", &[n_items, WIDTH]), latents)?;
    let books = catalog.books.iter().map(|x| x.to_le_bytes());
    write_npy(&folder.join("codebooks.npy"), ("<f4", &[N_LEVELS, N_CODES, WIDTH]), books)?;
    println!("{}: {n_items} items, {:.2} % collide", folder.display(), 100.0 * catalog.share());
    Ok(())
}
