//! The resolver beside a slow one, and what it promises.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::distances::{DistanceTensor, Latents, RowList, Table};

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
        Ok(work(&CodeSpace::new(&self.n_codes)?, &Latents::new(latents, rows, &tables)?))
    }

    fn resolve(&self) -> Result<Resolution> {
        // Within the last two levels first, as if all levels were open: then nobody is left over.
        self.resolve_by(&Plan { open_levels: MAX_LEVELS, ..Plan::default() })
    }

    fn resolve_by(&self, plan: &Plan) -> Result<Resolution> {
        let rules = RowRules { keys: Some(&self.keys), frozen: Some(&self.frozen) };
        let codes = Codes::new(&self.codes, self.n_codes.len())?;
        self.with(|space, distances| resolve_collisions(codes, space, distances, rules, plan))?
    }

    fn resolve_slowly(&self) -> Result<Vec<Vec<u16>>> {
        self.with(|space, distances| slow(self, space, distances))
    }
}

fn slow(case: &Case, space: &CodeSpace, distances: &impl Distances) -> Vec<Vec<u16>> {
    let mut rows = case.rows();
    let mut held: BTreeSet<Vec<u16>> = rows.iter().cloned().collect();
    let mut movers: Vec<usize> = Vec::new();
    for own in &held {
        let group: Vec<usize> = (0..rows.len()).filter(|&row| rows[row] == *own).collect();
        let mut free: Vec<usize> = group.iter().copied().filter(|&r| !case.frozen[r]).collect();
        let near = |row: usize| (distances.last(row, own), case.keys[row]);
        free.sort_by(|&a, &b| near(a).partial_cmp(&near(b)).unwrap_or(Ordering::Equal));
        movers.extend(free.iter().skip(usize::from(free.len() == group.len())));
    }
    let has_room = |held: &BTreeSet<Vec<u16>>, prefix: &[u16]| {
        let n_held = held.iter().filter(|codes| codes.starts_with(prefix)).count();
        (n_held as u128) < space.capacity(prefix.len())
    };
    for row in movers {
        let mut codes = rows[row].clone();
        codes.pop();
        while !has_room(&held, &codes) {
            codes.pop();
        }
        while codes.len() < case.n_codes.len() {
            let mut near = Vec::new();
            distances.fill(row, &codes, &mut near);
            let mut order: Vec<u16> = (0..near.len() as u16).collect();
            let at = |code: u16| near[usize::from(code)];
            order.sort_by(|&a, &b| at(a).partial_cmp(&at(b)).unwrap_or(Ordering::Equal));
            let free = |&&code: &&u16| has_room(&held, &[&codes[..], &[code]].concat());
            let nearest = order.iter().find(free).copied();
            codes.extend(nearest);
        }
        held.insert(codes.clone());
        rows[row] = codes;
    }
    rows
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_slow_one(case in cases()) {
        prop_assert_eq!(case.resolve()?.codes, case.resolve_slowly()?.concat());
    }

    #[test]
    fn is_unique_moves_only_who_must_and_settles(case in cases()) {
        let (before, resolved) = (case.rows(), case.resolve()?);
        let after: Vec<_> = resolved.codes.chunks(case.n_codes.len()).collect();
        prop_assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len());
        let moved: Vec<usize> = (0..after.len()).filter(|&row| before[row] != after[row]).collect();
        for &row in &moved {
            let twins = before.iter().filter(|codes| **codes == before[row]).count();
            prop_assert!(twins > 1 && !case.frozen[row]);
        }
        prop_assert_eq!(&resolved.moved, &moved);
        prop_assert_eq!(resolved.costs.len(), moved.len());

        let settled = Case { codes: resolved.codes.clone(), ..case }.resolve()?;
        prop_assert_eq!(settled.codes, resolved.codes);
        prop_assert!(settled.moved.is_empty() && settled.costs.is_empty());
    }

    #[test]
    fn groups_are_those_of_equal_rows(case in cases()) {
        let rows = case.rows();
        let groups = find_collisions(Codes::new(&case.codes, case.n_codes.len())?, 1);
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
                    let _ = resolve_collisions(codes, &space, &distances, rules, &plan);
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
    let resolved =
        resolve_collisions(codes, &space, &distances, RowRules::default(), &Plan::default())?;
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
    let refused =
        resolve_collisions(three, &space, &distances, RowRules::default(), &Plan::default());
    let message = "`distances`: expected shape (3, [2, 2]) to match `codes`, got (2, [2, 2])";
    assert_eq!(refused.map_err(|error| error.to_string()), Err(message.to_owned()));
    Ok(())
}
