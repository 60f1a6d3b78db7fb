//! Finding and resolving collisions in catalogs of 10,000 to a million items, about a tenth of which
//! share their semantic ID, in the paper's code space: 4 levels of 256 codes, latents of 32 numbers.

use std::collections::HashSet;
use std::hint::black_box;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use mql4grec::codes::{CodeSpace, Codes};
use mql4grec::collision::{find_collisions, resolve_collisions, Resolution, RowRules};
use mql4grec::distances::{Latents, Table};

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
const N_LEVELS: usize = 4;
const N_CODES: usize = 256;
const WIDTH: usize = 32;

/// A catalog of made-up items.
///
/// Three items, the last with the codes of the first:
///
/// ```text
/// codes      9 1 4 7 | 3 3 0 1 | 9 1 4 7
/// latents    32 numbers | 32 numbers | 32 numbers
/// codebooks  4 tables of 256 x 32 numbers
/// ```
struct Catalog {
    codes: Vec<u16>,
    latents: Vec<f32>,
    codebooks: Vec<Vec<f32>>,
}

impl Catalog {
    fn new(n_items: usize) -> Self {
        let mut state = n_items as u64;
        let mut codes: Vec<u16> =
            (0..n_items * N_LEVELS).map(|_| (random(&mut state) % N_CODES as u64) as u16).collect();
        for row in (0..n_items).step_by(20) {
            let twin = random(&mut state) as usize % n_items;
            codes.copy_within(twin * N_LEVELS..(twin + 1) * N_LEVELS, row * N_LEVELS);
        }
        let mut numbers = |n: usize| (0..n).map(|_| random(&mut state) as f32 / 1e19).collect();
        let latents = numbers(n_items * WIDTH);
        let codebooks = (0..N_LEVELS).map(|_| numbers(N_CODES * WIDTH)).collect();
        Self { codes, latents, codebooks }
    }

    fn table(&self) -> mql4grec::Result<Codes<'_>> {
        Codes::new(&self.codes, N_LEVELS)
    }

    fn resolve(&self) -> mql4grec::Result<Resolution> {
        let table = self.table()?;
        let space = CodeSpace::new(&[N_CODES; N_LEVELS])?;
        let latents = Table::new("latents", &self.latents, [table.n_rows(), WIDTH])?;
        let books = self.codebooks.iter();
        let books = books.map(|values| Table::new("codebooks", values, [N_CODES, WIDTH]));
        let books = books.collect::<mql4grec::Result<Vec<_>>>()?;
        let distances = Latents::new(latents, &books, table)?;
        resolve_collisions(table, &space, &distances, RowRules::default())
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// All different, only rows of groups moved, and as many as have to.
fn check(catalog: &Catalog, n_items: usize) -> mql4grec::Result<()> {
    let groups = find_collisions(catalog.table()?);
    let share = groups.rows.len() as f64 / n_items as f64;
    assert!((0.08..0.12).contains(&share), "{share} of the items collide");
    let resolution = catalog.resolve()?;
    let distinct: HashSet<&[u16]> = resolution.codes.chunks_exact(N_LEVELS).collect();
    assert_eq!(distinct.len(), n_items);
    assert_eq!(resolution.moved.len(), groups.rows.len() + 1 - groups.offsets.len());
    let sharing: HashSet<&usize> = groups.rows.iter().collect();
    assert!(resolution.moved.iter().all(|row| sharing.contains(row)));
    Ok(())
}

fn collisions(criterion: &mut Criterion) {
    for n_items in SIZES {
        let catalog = Catalog::new(n_items);
        let checked = check(&catalog, n_items);
        assert!(checked.is_ok(), "{checked:?}");

        let mut group = criterion.benchmark_group("collisions");
        group.sample_size(10).throughput(Throughput::Elements(n_items as u64));
        group.bench_function(BenchmarkId::new("find", n_items), |bencher| {
            bencher.iter(|| black_box(catalog.table().map(find_collisions)));
        });
        group.bench_function(BenchmarkId::new("resolve", n_items), |bencher| {
            bencher.iter(|| black_box(catalog.resolve()));
        });
        group.finish();
    }
}

criterion_group!(benches, collisions);
criterion_main!(benches);
