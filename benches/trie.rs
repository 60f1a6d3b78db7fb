//! The trie of catalogs of 10,000 to ten million items, of 4 levels of 256 codes: building it, looking
//! items up, a decoding step for 640 beams, and cutting it down to some items. A hash map from codes
//! to rows is the rival of `find`.
//!
//! `TRIE_ITEMS=100000000 cargo bench --bench trie` runs another size instead. `TRIE_THREADS` says how
//! many threads to use, else as many as there are cores.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkId, Criterion, Throughput};
use mql4grec::codes::{CodeSpace, Codes};
use mql4grec::trie::{CodeTrie, NOWHERE, ROOT};
use rustc_hash::FxBuildHasher;

const SIZES: [usize; 3] = [10_000, 1_000_000, 10_000_000];
const N_LEVELS: usize = 4;
const N_CODES: usize = 256;
/// 32 users with 20 beams each.
const N_BEAMS: usize = 640;
/// Items beyond which a hash map would take the memory.
const MOST_HASHED: usize = 10_000_000;

/// A catalog of made-up items: some codes are chosen more often than others, and which ones depends
/// on the codes above, as in a real catalog. No two items are alike; they lie in no order.
///
/// ```text
/// codes  9 1 4 7 | 3 3 0 1 | 9 1 4 8
/// ```
struct Catalog {
    codes: Vec<u16>,
}

impl Catalog {
    fn new(n_items: usize) -> Self {
        let mut state = n_items as u64;
        let mut ids: Vec<u32> = Vec::new();
        while ids.len() < n_items {
            let missing = n_items - ids.len();
            ids.extend((0..missing + missing / 8 + 16).map(|_| id(&mut state)));
            ids.sort_unstable();
            ids.dedup();
        }
        for last in (1..ids.len()).rev() {
            ids.swap(last, (random(&mut state) % (last as u64 + 1)) as usize);
        }
        ids.truncate(n_items);
        Self { codes: ids.iter().flat_map(|id| id.to_be_bytes().map(u16::from)).collect() }
    }

    fn table(&self) -> mql4grec::Result<Codes<'_>> {
        Codes::new(&self.codes, N_LEVELS)
    }

    fn build(&self, n_threads: usize) -> mql4grec::Result<CodeTrie> {
        CodeTrie::new(self.table()?, CodeSpace::new(&[N_CODES; N_LEVELS])?, n_threads)
    }
}

/// Four codes of which low ranks are likelier, and a prefix says which code has which rank.
fn id(state: &mut u64) -> u32 {
    (0..N_LEVELS).fold(0_u32, |prefix, _| {
        let uniform = (random(state) >> 11) as f64 / (1_u64 << 53) as f64;
        let rank = (uniform.powf(1.5) * N_CODES as f64) as u32;
        let turn = prefix.wrapping_mul(0x9e37_79b9) >> 24;
        (prefix << 8) | ((rank * 181 + turn) & 0xff)
    })
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A batch of a decoding step at each level: 640 prefixes of that many codes, all of some item.
fn beams(catalog: &Catalog) -> Vec<Vec<u16>> {
    let mut state = 7;
    let n_items = catalog.codes.len() / N_LEVELS;
    let rows: Vec<usize> =
        (0..N_BEAMS).map(|_| random(&mut state) as usize % n_items * N_LEVELS).collect();
    let prefix = |depth: usize| {
        rows.iter().flat_map(move |&row| catalog.codes[row..row + depth].to_vec()).collect()
    };
    (0..N_LEVELS).map(prefix).collect()
}

/// One step as a `LogitsProcessor` and a beam search do it: what may follow, and one code further.
fn step(trie: &CodeTrie, prefixes: &[u16], depth: usize, nodes: &[i64]) -> mql4grec::Result<i64> {
    let allowed = trie.allowed(prefixes, N_BEAMS, depth)?;
    let first = |beam: usize| {
        let start = allowed.offsets[beam] as usize;
        allowed.codes.get(start).copied().unwrap_or_default()
    };
    let chosen: Vec<u16> = (0..N_BEAMS).map(first).collect();
    Ok(trie.step(nodes, &chosen)?.iter().sum())
}

/// The nodes that prefixes lead to.
fn nodes(trie: &CodeTrie, prefixes: &[u16], depth: usize) -> mql4grec::Result<Vec<i64>> {
    (0..depth).try_fold(vec![ROOT; N_BEAMS], |nodes, level| {
        let codes: Vec<u16> = prefixes.iter().skip(level).step_by(depth).copied().collect();
        trie.step(&nodes, &codes)
    })
}

/// Every item is found at its row, no other is, and a part has its items alone.
fn check(catalog: &Catalog, trie: &CodeTrie, n_threads: usize) -> mql4grec::Result<()> {
    let found = trie.find(catalog.table()?, n_threads)?;
    assert!(found.iter().enumerate().all(|(row, &found)| found == row as i64));
    let keep: Vec<bool> = (0..found.len()).map(|row| row % 3 == 0).collect();
    let part = trie.restrict(&keep, n_threads)?.find(catalog.table()?, n_threads)?;
    let right =
        |(row, &found): (usize, &i64)| found == if keep[row] { row as i64 } else { NOWHERE };
    assert!(part.iter().enumerate().all(right));
    let beams = beams(catalog);
    for (depth, prefixes) in beams.iter().enumerate() {
        assert!(nodes(trie, prefixes, depth)?.iter().all(|&node| node != NOWHERE));
    }
    Ok(())
}

fn tries(criterion: &mut Criterion) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let n_threads = number("TRIE_THREADS").unwrap_or(cores);
    for n_items in number("TRIE_ITEMS").map_or(SIZES.to_vec(), |n_items| vec![n_items]) {
        let catalog = Catalog::new(n_items);
        let started = Instant::now();
        let Ok(trie) = catalog.build(n_threads) else { continue };
        let seconds = started.elapsed().as_secs_f64();
        let per_item = trie.nbytes() as f64 / n_items as f64;
        let line = format!(
            "{n_items} items: {} nodes, {per_item:.2} bytes per item, first build {seconds:.2} s",
            trie.n_nodes()
        );
        let _ = writeln!(std::io::stdout(), "{line}, {n_threads} threads");
        let checked = check(&catalog, &trie, n_threads);
        assert!(checked.is_ok(), "{checked:?}");
        measure(criterion, &catalog, &trie, n_threads);
    }
}

fn measure(criterion: &mut Criterion, catalog: &Catalog, trie: &CodeTrie, n_threads: usize) {
    let n_items = trie.n_items();
    let mut group = criterion.benchmark_group("trie");
    group.sample_size(10).throughput(Throughput::Elements(n_items as u64));
    group.bench_function(BenchmarkId::new("build", n_items), |bencher| {
        bencher.iter_batched(|| (), |()| catalog.build(n_threads), BatchSize::PerIteration);
    });
    for (name, n_threads) in [("find", n_threads), ("find by one thread", 1)] {
        group.bench_function(BenchmarkId::new(name, n_items), |bencher| {
            bencher.iter(|| black_box(catalog.table().and_then(|all| trie.find(all, n_threads))));
        });
    }
    let keep: Vec<bool> = (0..n_items).map(|row| row % 3 != 0).collect();
    group.bench_function(BenchmarkId::new("restrict to two thirds", n_items), |bencher| {
        bencher.iter(|| black_box(trie.restrict(&keep, n_threads)));
    });
    if n_items <= MOST_HASHED {
        let (rows, _) = catalog.codes.as_chunks::<N_LEVELS>();
        let mut map = HashMap::with_capacity_and_hasher(n_items, FxBuildHasher);
        map.extend(rows.iter().zip(0_u32..).map(|(&codes, row)| (codes, row)));
        group.bench_function(BenchmarkId::new("find by a hash map", n_items), |bencher| {
            let find = |codes| map.get(codes).map_or(NOWHERE, |&row| i64::from(row));
            bencher.iter(|| black_box(rows.iter().map(find).collect::<Vec<i64>>()));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("trie, one step of 640 beams");
    for (depth, prefixes) in beams(catalog).iter().enumerate() {
        let Ok(nodes) = nodes(trie, prefixes, depth) else { continue };
        let id = |name| BenchmarkId::new(format!("{name} after {depth} codes"), n_items);
        group.bench_function(id("allowed + step"), |bencher| {
            bencher.iter(|| black_box(step(trie, prefixes, depth, &nodes)));
        });
        group.bench_function(id("mask"), |bencher| {
            bencher.iter(|| black_box(trie.mask(&nodes, depth)));
        });
        group.bench_function(id("mask_bits"), |bencher| {
            bencher.iter(|| black_box(trie.mask_bits(&nodes, depth)));
        });
    }
    group.finish();
}

criterion_group!(benches, tries);
criterion_main!(benches);
