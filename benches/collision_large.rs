//! Detection and any policies on one catalog of any size, each run a few times and checked:
//!
//! ```text
//! cargo bench --bench collision_large -- --items 10000000 --share 0.01 --copies 10 --policies nearest
//! ```
//!
//! Prints the least time of the runs, by the clock and of all cores together (which tells more on a
//! busy machine), the added error, and the memory of the process at its peak.

#![allow(clippy::print_stdout)] // it is a program

mod catalogs;

use std::time::Instant;
use std::{fs, io};

use catalogs::{argument, check, named, number, space, Catalog, Named, Recipe};
use mql4grec::collision::{find_collisions, resolve_collisions, Plan, RowRules};
use mql4grec::interrupt::NEVER;

fn main() -> io::Result<()> {
    let Some(policies) = argument("--policies") else {
        println!("collision_large: --policies paper,nearest,... [--items 10000000] [--share 0.12]");
        println!("  [--copies 1] [--seed 1] [--threads 2] [--open-levels 2] [--runs 1]");
        println!("  policies: {}", catalogs::POLICIES.map(|policy| policy.name).join(" "));
        return Ok(());
    };
    let recipe = Recipe {
        n_items: number("--items", 10_000_000)?,
        share: number("--share", 0.12)?,
        seed: number("--seed", 1)?,
    };
    let catalog = match number("--copies", 1)? {
        1 => Catalog::load(recipe)?,
        n_copies => Catalog::load(recipe)?.copied(n_copies)?,
    };
    let (n_items, percent) = (catalog.n_items(), 100.0 * catalog.share());
    println!("{n_items} items, {percent:.2} % collide; {} MiB", memory()?);
    let n_threads = number("--threads", catalogs::n_threads())?;
    detect(&catalog, n_threads)?;
    for policy in policies.split(',') {
        let policy = named(policy)?;
        let open_levels = number("--open-levels", 2)?;
        resolve(&catalog, &policy, Plan { open_levels, n_threads, ..policy.plan })?;
    }
    Ok(())
}

/// The least seconds of a few runs, by the clock and of all cores together, and the last result.
fn timed<T>(work: impl Fn() -> io::Result<T>) -> io::Result<([f64; 2], T)> {
    let run = || {
        let (began, busy) = (Instant::now(), core_seconds());
        let result = work()?;
        Ok::<_, io::Error>(([began.elapsed().as_secs_f64(), core_seconds() - busy], result))
    };
    let (mut least, mut last) = run()?;
    for _ in 1..number("--runs", 1)? {
        let (seconds, result) = run()?;
        (least, last) = ([0, 1].map(|i| f64::min(least[i], seconds[i])), result);
    }
    Ok((least, last))
}

/// What all threads of the process worked so far, in steps of 10 ms; 0 where the system does not tell.
fn core_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let numbers = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = numbers.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn detect(catalog: &Catalog, n_threads: usize) -> io::Result<()> {
    let ([seconds, busy], _) =
        timed(|| find_collisions(catalog.table()?, n_threads, &NEVER).map_err(io::Error::other))?;
    let rate = catalog.n_items() as f64 / seconds / 1e6;
    let peak = memory()?;
    println!(
        "find: {seconds:.3} s, {rate:.1} M items/s, {busy:.2} core s, {n_threads} threads; {peak} MiB"
    );
    Ok(())
}

fn resolve(catalog: &Catalog, policy: &Named, plan: Plan) -> io::Result<()> {
    let (space, distances) = (space()?, catalog.distances()?);
    let work = || {
        let table = catalog.table()?;
        let resolved =
            resolve_collisions(table, &space, &distances, RowRules::default(), &plan, &NEVER);
        resolved.map_err(io::Error::other)
    };
    let ([seconds, busy], resolution) = timed(work)?;
    let peak = memory()?;
    check(catalog, &resolution);
    let added: f64 = resolution.costs.iter().copied().map(f64::from).sum();
    let (name, n_moved) = (policy.name, resolution.moved.len());
    let Plan { n_threads, open_levels, .. } = plan;
    println!(
        "{name}: {seconds:.3} s, {busy:.2} core s, {n_threads} threads, {open_levels} open levels; \
         {n_moved} moved, added error {added:.6e}; {peak} MiB"
    );
    Ok(())
}

/// The most memory that the process had so far, in MiB; 0 where the system does not tell.
fn memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.unwrap_or(0) / 1024)
}
