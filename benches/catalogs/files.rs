//! Catalogs on disk: what was made once, kept under `target/`, and arrays for numpy.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::{Made, Recipe, N_CODES, N_LEVELS, WIDTH};

/// Counts up when the same recipe makes another catalog.
const VERSION: u32 = 1;
/// Bytes that are turned at a time.
const CHUNK: usize = 1 << 20;

fn path(recipe: &Recipe) -> PathBuf {
    let Recipe { n_items, share, seed } = recipe;
    let name = format!("catalog-{VERSION}-{n_items}-{share}-{seed}.bin");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/catalogs").join(name)
}

/// Read what `write_cached` wrote; `None` if it is not there, or not whole.
pub fn read_cached(recipe: &Recipe) -> Option<Made> {
    let mut file = File::open(path(recipe)).ok()?;
    let mut head = [0; 8];
    file.read_exact(&mut head).ok()?;
    let mut books = vec![0; N_LEVELS * N_CODES * WIDTH * 4];
    file.read_exact(&mut books).ok()?;
    let books = books.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let (mut codes, mut buffer) = (Vec::with_capacity(recipe.n_items * N_LEVELS), vec![0; CHUNK]);
    while codes.len() < recipe.n_items * N_LEVELS {
        let n = CHUNK.min((recipe.n_items * N_LEVELS - codes.len()) * 2);
        file.read_exact(&mut buffer[..n]).ok()?;
        let pairs = buffer[..n].as_chunks::<2>().0;
        codes.extend(pairs.iter().map(|&bytes| u16::from_le_bytes(bytes)));
    }
    Some((f64::from_le_bytes(head), books, codes))
}

/// Keep a catalog for the next time.
pub fn write_cached(recipe: &Recipe, (variants, books, codes): &Made) -> io::Result<()> {
    let path = path(recipe);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let half = path.with_extension("half");
    let mut file = BufWriter::new(File::create(&half)?);
    file.write_all(&variants.to_le_bytes())?;
    write_values(&mut file, books.iter().map(|x| x.to_le_bytes()))?;
    write_values(&mut file, codes.iter().map(|x| x.to_le_bytes()))?;
    file.flush()?;
    fs::rename(half, path)
}

fn write_values<const B: usize>(
    file: &mut impl Write,
    values: impl Iterator<Item = [u8; B]>,
) -> io::Result<()> {
    for bytes in values {
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Write an array of little-endian values for numpy, `kind` being its dtype such as `<u2`.
pub fn write_npy<const B: usize>(
    path: &Path,
    (kind, shape): (&str, &[usize]),
    values: impl Iterator<Item = [u8; B]>,
) -> io::Result<()> {
    let sizes: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let sizes = sizes.join(" ");
    let head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let length = (10 + head.len() + 1).next_multiple_of(64) - 10;
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(length as u16).to_le_bytes())?;
    writeln!(file, "{head:<width$}", width = length - 1)?;
    write_values(&mut file, values)?;
    file.flush()
}
