//! The trie beside brute force, and its bytes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn tries() -> impl Strategy<Value = (Vec<Vec<u16>>, Vec<usize>)> {
    proptest::collection::vec(1_usize..=4, 2..=4).prop_flat_map(|n_codes| {
        let row: Vec<_> = n_codes.iter().map(|&k| 0..k as u16).collect();
        let rows = proptest::collection::btree_set(row, 0..20);
        let rows = rows.prop_map(|rows| rows.into_iter().collect::<Vec<_>>()).prop_shuffle();
        (rows, Just(n_codes))
    })
}

fn build(rows: &[Vec<u16>], n_codes: &[usize]) -> Result<CodeTrie> {
    CodeTrie::new(Codes::new(&rows.concat(), n_codes.len())?, CodeSpace::new(n_codes)?)
}

/// All prefixes of a length, codes one beyond the space included.
fn every_prefix(n_codes: &[usize]) -> Vec<Vec<u16>> {
    n_codes.iter().fold(vec![Vec::new()], |prefixes, &k| {
        let extend = |prefix: &Vec<u16>| -> Vec<Vec<u16>> {
            (0..=k as u16).map(|code| [&prefix[..], &[code]].concat()).collect()
        };
        prefixes.iter().flat_map(extend).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_equal_brute_force((rows, n_codes) in tries()) {
        let trie = build(&rows, &n_codes)?;
        for depth in 0..=n_codes.len() {
            let prefixes = every_prefix(&n_codes[..depth]);
            let allowed = trie.allowed(&prefixes.concat(), prefixes.len(), depth)?;
            for (i, prefix) in prefixes.iter().enumerate() {
                let follow = rows.iter().filter(|row| row.starts_with(prefix));
                let follow: BTreeSet<u16> =
                    follow.filter_map(|row| row.get(depth).copied()).collect();
                let listed = &allowed.codes[allowed.offsets[i]..allowed.offsets[i + 1]];
                prop_assert_eq!(listed, follow.iter().copied().collect::<Vec<_>>());

                let node = prefix.iter().try_fold(vec![ROOT], |node, &code| trie.step(&node, &[code]))?;
                let known = prefix.is_empty() || rows.iter().any(|row| row.starts_with(prefix));
                prop_assert_eq!(node != [NOWHERE], known);
                if let Some(&k) = n_codes.get(depth) {
                    let mask = trie.mask(&node, depth)?;
                    let marked: Vec<bool> = (0..k as u16).map(|c| follow.contains(&c)).collect();
                    prop_assert_eq!(mask, marked);
                }
            }
        }
        let everything = every_prefix(&n_codes);
        let found = trie.find(Codes::new(&everything.concat(), n_codes.len())?)?;
        for (codes, row) in everything.iter().zip(found) {
            let expected = rows.iter().position(|other| other == codes);
            prop_assert_eq!(row, expected.map_or(NOWHERE, |row| row as i64));
        }
    }

    #[test]
    fn a_part_is_the_trie_of_the_part(
        (rows, n_codes) in tries(),
        keep in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let part = build(&rows, &n_codes)?.restrict(&keep[..rows.len()])?;
        let kept: Vec<usize> = (0..rows.len()).filter(|&row| keep[row]).collect();
        let left: Vec<Vec<u16>> = kept.iter().map(|&row| rows[row].clone()).collect();
        let rebuilt = build(&left, &n_codes)?;
        prop_assert_eq!((&part.codes, &part.offsets), (&rebuilt.codes, &rebuilt.offsets));
        prop_assert_eq!(&part.levels, &rebuilt.levels);
        let rows: Vec<u32> = rebuilt.rows.iter().map(|&row| kept[row as usize] as u32).collect();
        prop_assert_eq!(&part.rows, &rows);
        prop_assert_eq!(CodeTrie::from_bytes(&part.to_bytes())?, part);
    }

    #[test]
    fn damaged_bytes_are_errors_or_tries_that_do_not_panic(
        (rows, n_codes) in tries(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = build(&rows, &n_codes)?.to_bytes();
        prop_assert!(CodeTrie::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        let mut content = bytes[..bytes.len() - 8].to_vec();
        for (place, value) in damage {
            let place = place.index(content.len());
            content[place] = value;
        }
        let bytes = crate::trie_file::seal(content);
        if let Ok(trie) = CodeTrie::from_bytes(&bytes) {
            let nodes: Vec<i64> = (NOWHERE..trie.n_nodes() as i64).collect();
            trie.step(&nodes, &vec![1; nodes.len()])?;
            if trie.n_rows() < 1000 {
                trie.restrict(&vec![true; trie.n_rows()])?;
            }
            trie.find(Codes::new(&vec![0; trie.n_levels()], trie.n_levels())?)?;
            prop_assert_eq!(trie.to_bytes(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(CodeTrie::from_bytes(&tail).is_err());
        let content = [&b"MQLTRIE\x01\x02\0\0\0\0\0\0\0"[..], &tail].concat();
        prop_assert!(CodeTrie::from_bytes(&content).is_err());
    }
}

#[test]
fn it_lies_in_memory_as_drawn() -> Result<()> {
    let trie = build(&[vec![1, 2], vec![0, 2], vec![1, 0]], &[2, 3])?;
    assert_eq!(trie.codes, [0, 1, 2, 0, 2]);
    assert_eq!(trie.offsets, [0, 2, 3, 5]);
    assert_eq!(trie.levels, [0, 1, 3, 6]);
    assert_eq!(trie.rows, [1, 2, 0]);
    Ok(())
}
