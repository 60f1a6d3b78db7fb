//! The resolver beside a slow one, and what it promises.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::distances::{DistanceTensor, Latents, RowList, Table};
use crate::interrupt::{Interrupt, NEVER};

/// Items in a small space, with ties and with as many items as there is room for.
///
/// Three items, two of them alike, K = (2, 2):
///
/// ```text
/// codes    0 1 | 0 1 | 1 1
/// numbers  distances, latents and codebooks are read off this list, again and again
/// keys     5 3 9
/// ```
#[derive(Debug, Clone)]
struct Case {
    n_codes: Vec<usize>,
    codes: Vec<u16>,
    numbers: Vec<u8>,
    keys: Vec<u64>,
    frozen: Vec<bool>,
}

const WIDTH: usize = 2;

impl Case {
    fn n_items(&self) -> usize {
        self.codes.len() / self.n_codes.len()
    }

    fn rows(&self) -> Vec<Vec<u16>> {
        self.codes.chunks(self.n_codes.len()).map(<[u16]>::to_vec).collect()
    }

    /// Numbers with many ties among them.
    fn numbers(&self, n: usize, salt: usize) -> Vec<f32> {
        let numbers = self.numbers.iter().cycle().skip(salt % self.numbers.len());
        numbers.take(n).map(|&number| f32::from(number) / 4.0).collect()
    }

    fn with<T>(&self, work: impl Fn(&CodeSpace, &Latents<'_>) -> T) -> Result<T> {
        let latents = self.numbers(self.n_items() * WIDTH, 0);
        let books: Vec<Vec<f32>> =
            self.n_codes.iter().map(|&k| self.numbers(k * WIDTH, k + 1)).collect();
        let tables = books.iter().zip(&self.n_codes);
        let tables = tables.map(|(book, &k)| Table::new("codebooks", book, [k, WIDTH]));
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let latents = Table::new("latents", &latents, [self.n_items(), WIDTH])?;
        let rows = RowList::all(self.n_items());
        Ok(work(&CodeSpace::new(&self.n_codes)?, &Latents::new(latents, rows, &tables, &NEVER)?))
    }

    fn resolve(&self, plan: &Plan) -> Result<Resolution> {
        let rules = RowRules { keys: Some(&self.keys), frozen: Some(&self.frozen) };
        let codes = Codes::new(&self.codes, self.n_codes.len())?;
        self.with(|space, distances| {
            resolve_collisions(codes, space, distances, rules, plan, &NEVER)
        })?
    }

    /// All levels open: then there is one bucket, with room for all.
    fn resolve_openly(&self, policy: Policy, keep: Keep) -> Result<Resolution> {
        self.resolve(&Plan { policy, keep, open_levels: MAX_LEVELS, ..Plan::default() })
    }

    fn resolve_slowly(&self, policy: Policy, keep: Keep) -> Result<Vec<Vec<u16>>> {
        self.with(|space, distances| Slow { case: self, space, distances, policy }.resolve(keep))
    }
}

/// The same, one code after the other, with all levels open.
///
/// The held semantic IDs of the items (0, 1), (0, 1), (1, 1) before any moves:
///
/// ```text
/// held  {01, 11}
/// ```
struct Slow<'a, D> {
    case: &'a Case,
    space: &'a CodeSpace,
    distances: &'a D,
    policy: Policy,
}

type Held = BTreeSet<Vec<u16>>;

impl<D: Distances> Slow<'_, D> {
    fn resolve(&self, keep: Keep) -> Vec<Vec<u16>> {
        let mut rows = self.case.rows();
        let mut held: Held = rows.iter().cloned().collect();
        for row in self.movers(keep, &held) {
            rows[row] = self.choose(row, &held);
            held.insert(rows[row].clone());
        }
        rows
    }

    fn movers(&self, keep: Keep, held: &Held) -> Vec<usize> {
        let rows = self.case.rows();
        let mut movers = Vec::new();
        for own in held {
            let group: Vec<usize> = (0..rows.len()).filter(|&row| rows[row] == *own).collect();
            let is_free = |&row: &usize| !self.case.frozen[row];
            let mut free: Vec<usize> = group.iter().copied().filter(is_free).collect();
            let n_kept = usize::from(free.len() == group.len());
            if free.len() > 1 {
                let rank = |row: usize| match keep {
                    Keep::Nearest => self.distances.last(row, own),
                    Keep::MaxLoss => {
                        let other = self.distances.error(row, &self.choose(row, held));
                        self.distances.error(row, own) - other
                    }
                };
                let near = |row: usize| (rank(row), self.case.keys[row]);
                free.sort_by(|&a, &b| near(a).partial_cmp(&near(b)).unwrap_or(Ordering::Equal));
            }
            movers.extend(free.iter().skip(n_kept));
        }
        movers
    }

    fn choose(&self, row: usize, held: &Held) -> Vec<u16> {
        if self.policy == Policy::Paper {
            return self.step_down(row, held);
        }
        let error = |codes: &Vec<u16>| self.distances.error(row, codes);
        let free = every_id(&self.case.n_codes).into_iter().filter(|codes| !held.contains(codes));
        let nearer = |a: &Vec<u16>, b: &Vec<u16>| error(a).total_cmp(&error(b)).then(a.cmp(b));
        free.min_by(nearer).unwrap_or_default()
    }

    fn step_down(&self, row: usize, held: &Held) -> Vec<u16> {
        let has_room = |prefix: &[u16]| {
            let n_held = held.iter().filter(|codes| codes.starts_with(prefix)).count();
            (n_held as u128) < self.space.capacity(prefix.len())
        };
        let mut codes = self.case.rows()[row].clone();
        codes.pop();
        while !has_room(&codes) {
            codes.pop();
        }
        while codes.len() < self.case.n_codes.len() {
            let mut near = Vec::new();
            self.distances.fill(row, &codes, &mut near);
            let mut order: Vec<u16> = (0..near.len() as u16).collect();
            let at = |code: u16| near[usize::from(code)];
            order.sort_by(|&a, &b| at(a).partial_cmp(&at(b)).unwrap_or(Ordering::Equal));
            let free = |&&code: &&u16| has_room(&[&codes[..], &[code]].concat());
            let nearest = order.iter().find(free).copied();
            codes.extend(nearest);
        }
        codes
    }
}

fn every_id(n_codes: &[usize]) -> Vec<Vec<u16>> {
    n_codes.iter().fold(vec![Vec::new()], |prefixes, &k| {
        let longer = |prefix: &Vec<u16>| {
            let prefix = prefix.clone();
            (0..k as u16).map(move |code| [&prefix[..], &[code]].concat()).collect::<Vec<_>>()
        };
        prefixes.iter().flat_map(longer).collect()
    })
}

/// What could still be saved by moving these rows on in a circle, or in a chain that ends at a free
/// semantic ID: less than nothing if they are where their total error is not the least.
///
/// Between rows i and j lies what i pays more for the place of j than for its own; the semantic IDs
/// that are free are one place more, which is left for nothing.
fn least_saving(rows: &[(usize, Vec<u16>)], free: &Held, distances: &impl Distances) -> f64 {
    let n = rows.len();
    let mut paths = vec![vec![0.0_f64; n + 1]; n + 1];
    for (from, (row, own)) in rows.iter().enumerate() {
        let more = |codes: &Vec<u16>| distances.error(*row, codes) - distances.error(*row, own);
        for (to, (_, codes)) in rows.iter().enumerate() {
            paths[from][to] = more(codes);
        }
        paths[from][n] = free.iter().map(more).fold(f64::INFINITY, f64::min);
    }
    for over in 0..=n {
        for from in 0..=n {
            for to in 0..=n {
                paths[from][to] = paths[from][to].min(paths[from][over] + paths[over][to]);
            }
        }
    }
    (0..=n).map(|place| paths[place][place]).fold(0.0, f64::min)
}

fn cases() -> impl Strategy<Value = Case> {
    proptest::collection::vec(1_usize..=4, 2..=4).prop_flat_map(|n_codes| {
        let room = n_codes.iter().product::<usize>().min(20);
        let codes = proptest::collection::vec(any::<u16>(), room * n_codes.len());
        let numbers = proptest::collection::vec(0_u8..8, 1..40);
        let keys = Just((0..room as u64).map(|key| key + 70).collect::<Vec<_>>()).prop_shuffle();
        let frozen = proptest::collection::vec(any::<bool>(), room);
        (Just(n_codes), 0..=room, codes, numbers, keys, frozen).prop_map(build)
    })
}

type Drawn = (Vec<usize>, usize, Vec<u16>, Vec<u8>, Vec<u64>, Vec<bool>);

/// Take codes modulo K, for some items modulo less, and freeze at most one row of a group.
fn build((n_codes, n_items, codes, numbers, mut keys, mut frozen): Drawn) -> Case {
    let n_levels = n_codes.len();
    let reduce = |(i, &code): (usize, &u16)| {
        let k = n_codes[i % n_levels];
        code % if code > 40_000 { 1 } else { k as u16 }
    };
    let codes: Vec<u16> = codes.iter().enumerate().map(reduce).take(n_items * n_levels).collect();
    keys.truncate(n_items);
    frozen.truncate(n_items);
    let mut seen = BTreeSet::new();
    for (row, own) in codes.chunks(n_levels).enumerate() {
        frozen[row] = frozen[row] && seen.insert(own);
    }
    Case { n_codes, codes, numbers, keys, frozen }
}

fn keeps() -> impl Strategy<Value = Keep> {
    any::<bool>().prop_map(|loss| if loss { Keep::MaxLoss } else { Keep::Nearest })
}

fn plans() -> impl Strategy<Value = Plan> {
    let choices = [
        (Policy::Paper, Reassign::Movers),
        (Policy::Nearest, Reassign::Movers),
        (Policy::Optimal, Reassign::Movers),
        (Policy::Optimal, Reassign::Colliding),
    ];
    (0..choices.len(), keeps(), 2..=MAX_LEVELS).prop_map(move |(choice, keep, open_levels)| {
        let (policy, reassign) = choices[choice];
        Plan { policy, keep, reassign, open_levels, n_threads: 1 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_after_the_other_equals_the_slow_one(case in cases(), keep in keeps()) {
        for policy in [Policy::Paper, Policy::Nearest] {
            let slow = case.resolve_slowly(policy, keep)?;
            prop_assert_eq!(case.resolve_openly(policy, keep)?.codes, slow.concat());
        }
    }

    #[test]
    fn nothing_can_be_saved_after_the_optimum(case in cases(), plan in plans()) {
        let reassign = plan.reassign;
        let plan = Plan { policy: Policy::Optimal, open_levels: MAX_LEVELS, ..plan };
        let (before, resolved) = (case.rows(), case.resolve(&plan)?);
        let after: Vec<Vec<u16>> =
            resolved.codes.chunks(case.n_codes.len()).map(<[u16]>::to_vec).collect();
        let loose = |row: usize| {
            let mut twins = (0..before.len()).filter(|&twin| before[twin] == before[row]);
            match reassign {
                Reassign::Movers => before[row] != after[row],
                Reassign::Colliding => {
                    twins.clone().count() > 1 && !case.frozen[row]
                        && (before[row] != after[row] || !twins.any(|twin| case.frozen[twin]))
                }
            }
        };
        let rows: Vec<(usize, Vec<u16>)> = (0..before.len())
            .filter(|&row| loose(row))
            .map(|row| (row, after[row].clone()))
            .collect();
        let taken: Held = after.iter().cloned().collect();
        let free: Held =
            every_id(&case.n_codes).into_iter().filter(|codes| !taken.contains(codes)).collect();
        let saving = case.with(|_, distances| least_saving(&rows, &free, distances))?;
        prop_assert_eq!(saving, 0.0);
    }

    #[test]
    fn is_unique_moves_only_who_must_and_settles(case in cases(), plan in plans()) {
        let (before, resolved) = (case.rows(), case.resolve(&plan)?);
        let after: Vec<_> = resolved.codes.chunks(case.n_codes.len()).collect();
        prop_assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len());
        let moved: Vec<usize> = (0..after.len()).filter(|&row| before[row] != after[row]).collect();
        for &row in &moved {
            let twins = before.iter().filter(|codes| **codes == before[row]).count();
            prop_assert!(twins > 1 && !case.frozen[row]);
        }
        if plan.reassign == Reassign::Movers {
            let n_groups = before.iter().collect::<BTreeSet<_>>().len();
            prop_assert_eq!(n_groups + moved.len(), before.len());
        }
        prop_assert_eq!(&resolved.moved, &moved);
        prop_assert_eq!(resolved.costs.len(), moved.len());

        let settled = Case { codes: resolved.codes.clone(), ..case }.resolve(&plan)?;
        prop_assert_eq!(settled.codes, resolved.codes);
        prop_assert!(settled.moved.is_empty() && settled.costs.is_empty());
    }

    #[test]
    fn groups_are_those_of_equal_rows(case in cases()) {
        let rows = case.rows();
        let groups = find_collisions(Codes::new(&case.codes, case.n_codes.len())?, 1, &NEVER)?;
        let mut expected = Groups { offsets: vec![0], rows: Vec::new() };
        for own in rows.iter().collect::<BTreeSet<_>>() {
            let group: Vec<usize> = (0..rows.len()).filter(|&row| rows[row] == *own).collect();
            if group.len() > 1 {
                expected.rows.extend(group);
                expected.offsets.push(expected.rows.len());
            }
        }
        prop_assert_eq!(groups, expected);
    }

    #[test]
    fn no_input_panics(
        data in proptest::collection::vec(any::<u16>(), 0..40),
        n_levels in 0_usize..10,
        n_codes in proptest::collection::vec(0_usize..70_000, 0..10),
        values in proptest::collection::vec(any::<f32>(), 0..40),
        shape in any::<[u8; 3]>(),
        frozen in proptest::collection::vec(any::<bool>(), 0..10),
    ) {
        let shape = shape.map(usize::from);
        let rules = RowRules { frozen: Some(&frozen), ..RowRules::default() };
        if let (Ok(codes), Ok(space)) = (Codes::new(&data, n_levels), CodeSpace::new(&n_codes)) {
            let rows = RowList::all(codes.n_rows());
            if let Ok(distances) = DistanceTensor::new(&values, shape, rows, &space) {
                for policy in [Policy::Paper, Policy::Nearest, Policy::Optimal] {
                    let plan = Plan { policy, keep: Keep::MaxLoss, ..Plan::default() };
                    let _ = resolve_collisions(codes, &space, &distances, rules, &plan, &NEVER);
                }
            }
        }
    }
}

#[test]
fn a_group_larger_than_its_prefix_spreads_upwards() -> Result<()> {
    let codes = Codes::new(&[1; 3 * 12], 3)?;
    let space = CodeSpace::new(&[2, 2, 3])?;
    let values = [0.0; 12 * 3 * 3];
    let distances = DistanceTensor::new(&values, [12, 3, 3], RowList::all(12), &space)?;
    let resolved = resolve_collisions(
        codes,
        &space,
        &distances,
        RowRules::default(),
        &Plan::default(),
        &NEVER,
    )?;
    let expected = "111 110 112 100 101 102 000 001 002 010 011 012";
    let spelt: Vec<String> =
        resolved.codes.chunks(3).map(|codes| codes.iter().map(u16::to_string).collect()).collect();
    assert_eq!(spelt.join(" "), expected);
    Ok(())
}

#[test]
fn distances_of_another_table_are_refused() -> Result<()> {
    let three = Codes::new(&[0; 6], 2)?;
    let space = CodeSpace::new(&[2, 2])?;
    let distances = DistanceTensor::new(&[0.0; 8], [2, 2, 2], RowList::all(2), &space)?;
    let refused = resolve_collisions(
        three,
        &space,
        &distances,
        RowRules::default(),
        &Plan::default(),
        &NEVER,
    );
    let message = "`distances`: expected shape (3, [2, 2]) to match `codes`, got (2, [2, 2])";
    assert_eq!(refused.map_err(|error| error.to_string()), Err(message.to_owned()));
    Ok(())
}

/// Rows enough for three threads, almost half of them colliding, in buckets of which some are full.
#[test]
fn threads_make_no_difference() -> Result<()> {
    let (n_codes, n_items) = ([32, 32, 6, 12], 3 << 14);
    let mut state = 9_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let codes: Vec<u16> = (0..n_items * 4).map(|place| random(n_codes[place % 4]) as u16).collect();
    let latents: Vec<f32> = (0..n_items * WIDTH).map(|_| random(1000) as f32 / 250.0).collect();
    let books: Vec<Vec<f32>> = n_codes
        .iter()
        .map(|&k| (0..k * WIDTH).map(|_| random(1000) as f32 / 1000.0).collect())
        .collect();
    let tables = books.iter().zip(n_codes);
    let tables = tables.map(|(book, k)| Table::new("codebooks", book, [k, WIDTH]));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let latents = Table::new("latents", &latents, [n_items, WIDTH])?;
    let distances = Latents::new(latents, RowList::all(n_items), &tables, &NEVER)?;
    let (codes, space) = (Codes::new(&codes, 4)?, CodeSpace::new(&n_codes)?);
    let groups = find_collisions(codes, 1, &NEVER)?;
    assert!(groups.rows.len() > n_items / 3);
    for n_threads in [2, 3] {
        assert_eq!(find_collisions(codes, n_threads, &NEVER)?, groups);
        assert_eq!(count_prefixes(codes, n_threads, &NEVER)?, count_prefixes(codes, 1, &NEVER)?);
    }
    for policy in [Policy::Paper, Policy::Nearest, Policy::Optimal] {
        let resolve = |n_threads| {
            let plan = Plan { policy, keep: Keep::MaxLoss, n_threads, ..Plan::default() };
            resolve_collisions(codes, &space, &distances, RowRules::default(), &plan, &NEVER)
        };
        let one = resolve(1)?;
        let is_elsewhere = |&row: &usize| one.codes[row * 4..][..2] != codes.row(row)[..2];
        assert!((0..n_items).any(|row| is_elsewhere(&row)));
        assert_eq!(resolve(2)?, one);
        assert_eq!(resolve(3)?, one);
    }
    Ok(())
}

/// Two rows leave (0, 0) for nearer codes; it is then the only one left for the fourth of (1, 0).
#[test]
fn codes_given_up_in_one_bucket_are_room_for_another() -> Result<()> {
    let codes = Codes::new(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0], 3)?;
    let space = CodeSpace::new(&[2, 1, 3])?;
    let mut values = [0.0; 6 * 3 * 3];
    for row in [0, 1] {
        values[row * 9 + 6..][..3].copy_from_slice(&[9.0, 1.0, 2.0]);
    }
    let distances = DistanceTensor::new(&values, [6, 3, 3], RowList::all(6), &space)?;
    let plan = Plan { policy: Policy::Optimal, reassign: Reassign::Colliding, ..Plan::default() };
    let resolved =
        resolve_collisions(codes, &space, &distances, RowRules::default(), &plan, &NEVER)?;
    let distinct: BTreeSet<&[u16]> = resolved.codes.chunks(3).collect();
    assert_eq!(distinct.len(), 6);
    Ok(())
}

/// Every call, asked to end before it begins.
#[test]
fn nothing_comes_of_work_that_was_asked_to_end() -> Result<()> {
    let interrupt = Interrupt::default();
    interrupt.ask();
    let data = [1; 3 * 12];
    let (codes, space) = (Codes::new(&data, 3)?, CodeSpace::new(&[2, 2, 3])?);
    let values = [0.0; 12 * 3 * 3];
    let distances = DistanceTensor::new(&values, [12, 3, 3], RowList::all(12), &space)?;
    let (rules, ended) = (RowRules::default(), Some(Error::Interrupted));
    for policy in [Policy::Paper, Policy::Nearest, Policy::Optimal] {
        let plan = Plan { policy, ..Plan::default() };
        let resolved = resolve_collisions(codes, &space, &distances, rules, &plan, &interrupt);
        assert_eq!(resolved.err(), ended);
    }
    assert_eq!(find_collisions(codes, 1, &interrupt).err(), ended);
    assert_eq!(count_prefixes(codes, 1, &interrupt).err(), ended);
    let book = Table::new("codebooks", &[1.0, 2.0], [2, 1])?;
    let latents = Table::new("latents", &[], [0, 1])?;
    assert_eq!(Latents::new(latents, RowList::all(0), &[book], &interrupt).err(), ended);
    Ok(())
}
