//! Buckets and groups larger than the room they are in.

use crate::codes::{CodeSpace, Codes};
use crate::collision::{find_collisions, resolve_collisions, Keep, Plan, Policy, RowRules};
use crate::distances::{Latents, RowList, Table};
use crate::error::Result;
use crate::interrupt::NEVER;

const WIDTH: usize = 4;

/// Resolve by every policy a table of rows whose latents repeat, and expect what must hold.
fn resolves(codes: &[u16], n_codes: &[usize], frozen: Option<&[bool]>) -> Result<()> {
    let codes = Codes::new(codes, n_codes.len())?;
    let number = |i: usize| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as f32 / 65_536.0;
    let latents: Vec<f32> = (0..codes.n_rows() * WIDTH).map(|i| number(i % 40)).collect();
    let latents = Table::new("latents", &latents, [codes.n_rows(), WIDTH])?;
    let books: Vec<Vec<f32>> =
        n_codes.iter().map(|&k| (0..k * WIDTH).map(|i| number(i + k)).collect()).collect();
    let books = books.iter().zip(n_codes);
    let books = books.map(|(book, &k)| Table::new("codebooks", book, [k, WIDTH]));
    let books = books.collect::<Result<Vec<_>>>()?;
    let distances = Latents::new(latents, RowList::all(codes.n_rows()), &books, &NEVER)?;
    let (space, rules) = (CodeSpace::new(n_codes)?, RowRules { keys: None, frozen });
    for policy in [Policy::Paper, Policy::Nearest, Policy::Optimal] {
        for (keep, n_threads) in [(Keep::Nearest, 1), (Keep::MaxLoss, 2)] {
            let plan = Plan { policy, keep, n_threads, ..Plan::default() };
            let resolved = resolve_collisions(codes, &space, &distances, rules, &plan, &NEVER)?;
            let after = Codes::new(&resolved.codes, n_codes.len())?;
            assert!(find_collisions(after, 2, &NEVER)?.rows.is_empty(), "{plan:?}");
            let stays = |row: usize| resolved.moved.binary_search(&row).is_err();
            let groups = find_collisions(codes, 1, &NEVER)?;
            assert!(resolved.moved.len() + groups.offsets.len() > groups.rows.len(), "{plan:?}");
            for row in (0..codes.n_rows()).filter(|&row| frozen.is_some_and(|f| f[row])) {
                assert!(stays(row), "{plan:?}: row {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn one_group_fills_all_buckets() -> Result<()> {
    resolves(&[3; 3 * 1000], &[10; 3], None)
}

#[test]
fn the_bucket_of_a_large_group_runs_over() -> Result<()> {
    resolves(&[1; 4 * 4000], &[8; 4], None)
}

#[test]
fn a_bucket_may_have_the_widest_level_above_or_below() -> Result<()> {
    let codes: Vec<u16> = (0..300).flat_map(|i| [3, 65_000 + i / 100]).collect();
    resolves(&codes, &[4, 1 << 16], None)?;
    let codes: Vec<u16> = (0..300).flat_map(|i| [65_000 + i / 100, 3]).collect();
    resolves(&codes, &[1 << 16, 4], None)
}

#[test]
fn frozen_rows_fill_a_bucket_that_others_must_leave() -> Result<()> {
    let held = (0..64).flat_map(|i| [1, i / 8, i % 8]);
    let codes: Vec<u16> = held.chain([1; 3 * 100]).collect();
    let frozen: Vec<bool> = (0..164).map(|row| row < 64).collect();
    resolves(&codes, &[8; 3], Some(&frozen))
}

#[test]
fn thousands_of_rows_alike_find_room() -> Result<()> {
    let codes = [0; 3 * 12_000];
    let (codes, space) = (Codes::new(&codes, 3)?, CodeSpace::new(&[24; 3])?);
    let latents = vec![0.5; codes.n_rows()];
    let latents = Table::new("latents", &latents, [codes.n_rows(), 1])?;
    let book: Vec<f32> = (0..24).map(|code| code as f32 / 24.0).collect();
    let book = Table::new("codebooks", &book, [24, 1])?;
    let distances = Latents::new(latents, RowList::all(codes.n_rows()), &[book; 3], &NEVER)?;
    for policy in [Policy::Paper, Policy::Nearest] {
        let plan = Plan { policy, ..Plan::default() };
        let rules = RowRules::default();
        let resolved = resolve_collisions(codes, &space, &distances, rules, &plan, &NEVER)?;
        assert_eq!(resolved.moved.len(), codes.n_rows() - 1);
        assert!(find_collisions(Codes::new(&resolved.codes, 3)?, 1, &NEVER)?.rows.is_empty());
    }
    Ok(())
}
