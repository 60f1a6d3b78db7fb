//! Finding and resolving collisions in catalogs of 10,000 to 10 million items, of which 1, 9, 12 and
//! 48 % collide, in the paper's code space: 4 levels of 256 codes, latents of 32 numbers.
//!
//! ```text
//! cargo bench --bench collision                             all: an hour on two cores
//! cargo bench --bench collision -- '/1000000/12%'           one catalog
//! cargo bench --bench collision -- 'nearest/1 .*/100000/'   one policy, one thread
//! ```
//!
//! Every result is checked once; with it, the added error is printed beside that of the published
//! rule. Ten million items are resolved by two threads only, for the sake of time.

#![allow(clippy::print_stdout)] // it is a program

mod catalogs;

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use catalogs::{check, space, Catalog, Named, Recipe, POLICIES};
use criterion::measurement::WallTime;
use criterion::{
    criterion_group, criterion_main, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode,
    Throughput,
};
use mql4grec::collision::{find_collisions, resolve_collisions, Plan, Resolution, RowRules};
use mql4grec::interrupt::NEVER;

const SIZES: [usize; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
const SHARES: [f64; 4] = [0.01, 0.09, 0.12, 0.48];
const LARGE: usize = 10_000_000;

/// A catalog that is only made if a bench that uses it is not filtered out.
///
/// ```text
/// recipe   10,000 items, .09
/// catalog  made when first used
/// paper    the added error of the published rule, computed when first used
/// ```
struct Case {
    recipe: Recipe,
    catalog: OnceCell<Catalog>,
    paper: OnceCell<f64>,
}

impl Case {
    fn catalog(&self) -> &Catalog {
        self.catalog.get_or_init(|| {
            let catalog = Catalog::load(self.recipe);
            #[allow(clippy::panic)] // a bench has nobody to tell
            catalog.unwrap_or_else(|error| panic!("{error}"))
        })
    }

    fn name(&self) -> String {
        format!("{}/{}%", self.recipe.n_items, 100.0 * self.recipe.share)
    }

    fn paper(&self) -> f64 {
        let plan = Plan { n_threads: catalogs::n_threads(), ..POLICIES[0].plan };
        *self.paper.get_or_init(|| added(&resolve(self.catalog(), &plan)))
    }

    /// Check a result once, and print what its policy costs.
    fn report(&self, policy: &Named, plan: &Plan) {
        let catalog = self.catalog();
        let resolution = resolve(catalog, plan);
        check(catalog, &resolution);
        println!(
            "{} at {}: {:.2} % collide, {} moved, {:.3} of the added error of paper",
            policy.name,
            self.name(),
            100.0 * catalog.share(),
            resolution.moved.len(),
            added(&resolution) / self.paper(),
        );
    }
}

fn added(resolution: &Resolution) -> f64 {
    resolution.costs.iter().copied().map(f64::from).sum()
}

fn resolve(catalog: &Catalog, plan: &Plan) -> Resolution {
    let run = || {
        let (table, distances) = (catalog.table()?, catalog.distances()?);
        resolve_collisions(table, &space()?, &distances, RowRules::default(), plan, &NEVER)
            .map_err(std::io::Error::other)
    };
    #[allow(clippy::panic)] // a bench has nobody to tell
    run().unwrap_or_else(|error| panic!("{error}"))
}

fn collisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("collision");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for n_items in SIZES {
        for share in SHARES {
            let recipe = Recipe { n_items, share, seed: 1 };
            let case = Case { recipe, catalog: OnceCell::new(), paper: OnceCell::new() };
            group.throughput(Throughput::Elements(n_items as u64));
            bench(&mut group, &case);
        }
    }
    group.finish();
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, case: &Case) {
    let is_large = case.recipe.n_items >= LARGE;
    for n_threads in [1, 2] {
        let id = |name: &str| BenchmarkId::new(format!("{name}/{n_threads} threads"), case.name());
        group.bench_function(id("find"), |bencher| {
            let catalog = case.catalog();
            bencher
                .iter(|| black_box(catalog.table().map(|t| find_collisions(t, n_threads, &NEVER))));
        });
        if is_large && n_threads == 1 {
            continue;
        }
        for policy in POLICIES.into_iter().filter(|policy| !is_large || is_plain(policy)) {
            let (plan, reported) = (Plan { n_threads, ..policy.plan }, OnceCell::new());
            group.bench_function(id(policy.name), |bencher| {
                reported.get_or_init(|| case.report(&policy, &plan));
                bencher.iter(|| black_box(resolve(case.catalog(), &plan)));
            });
        }
    }
}

/// Is it a policy with all else as by default?
fn is_plain(policy: &Named) -> bool {
    policy.plan == Plan { policy: policy.plan.policy, ..Plan::default() }
}

criterion_group!(benches, collisions);
criterion_main!(benches);
