//! The trie beside brute force, and its bytes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::store::HEADER_BYTES;
use super::*;
use crate::codes::CodeSpace;
use crate::trie_file::checksum;

fn tries() -> impl Strategy<Value = (Vec<Vec<u16>>, Vec<usize>)> {
    proptest::collection::vec(1_usize..=4, 2..=4).prop_flat_map(|n_codes| {
        let row: Vec<_> = n_codes.iter().map(|&k| 0..k as u16).collect();
        let rows = proptest::collection::btree_set(row, 0..20);
        let rows = rows.prop_map(|rows| rows.into_iter().collect::<Vec<_>>()).prop_shuffle();
        (rows, Just(n_codes))
    })
}

fn build(rows: &[Vec<u16>], n_codes: &[usize]) -> Result<CodeTrie> {
    CodeTrie::new(Codes::new(&rows.concat(), n_codes.len())?, CodeSpace::new(n_codes)?, 1)
}

fn file(trie: &CodeTrie) -> Vec<u8> {
    let (header, arrays) = trie.to_parts();
    [&header, arrays].concat()
}

fn load(bytes: &[u8]) -> Result<CodeTrie> {
    let unverified = CodeTrie::from_bytes(Arc::new(bytes.to_vec()), false)?;
    let verified = CodeTrie::from_bytes(Arc::new(bytes.to_vec()), true)?;
    assert_eq!(verified, unverified);
    Ok(verified)
}

/// Make both checksums right again.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let arrays = checksum(&bytes[HEADER_BYTES..]).to_le_bytes();
    bytes[HEADER_BYTES - 16..HEADER_BYTES - 8].copy_from_slice(&arrays);
    let header = checksum(&bytes[..HEADER_BYTES - 8]).to_le_bytes();
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&header);
    bytes
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    words(bytes).iter().map(|&word| store::read(word)).collect()
}

/// Ask everything, of all nodes and more.
fn exercise(trie: &CodeTrie) -> Result<()> {
    let nodes: Vec<i64> = (NOWHERE..trie.n_nodes() as i64).collect();
    let n_levels = trie.n_levels();
    for code in [0, 1, 3, u16::MAX] {
        trie.step(&nodes, &vec![code; nodes.len()])?;
        trie.find(Codes::new(&vec![code; n_levels], n_levels)?, 1)?;
        for depth in 0..=n_levels {
            trie.allowed(&vec![code; depth], 1, depth)?;
        }
    }
    for level in 0..n_levels {
        let own = trie.levels()[level]..trie.levels()[level + 1];
        let own: Vec<i64> = own.map(i64::from).collect();
        trie.mask(&own, level)?;
        trie.mask_bits(&own, level)?;
    }
    if trie.n_rows() < 1000 {
        match trie.restrict(&vec![true; trie.n_rows()], 1) {
            Ok(_) | Err(Error::Inconsistent { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
                let listed = &allowed.codes[allowed.offsets[i] as usize..allowed.offsets[i + 1] as usize];
                prop_assert_eq!(listed, follow.iter().copied().collect::<Vec<_>>());

                let node = prefix.iter().try_fold(vec![ROOT], |node, &code| trie.step(&node, &[code]))?;
                let known = prefix.is_empty() || rows.iter().any(|row| row.starts_with(prefix));
                prop_assert_eq!(node != [NOWHERE], known);
                if let Some(&k) = n_codes.get(depth) {
                    let mask = trie.mask(&node, depth)?;
                    let marked: Vec<bool> = (0..k as u16).map(|c| follow.contains(&c)).collect();
                    prop_assert_eq!(&mask, &marked);
                    let bits = trie.mask_bits(&node, depth)?;
                    let bit = |code: usize| bits[code / 8] >> (code % 8) & 1 == 1;
                    prop_assert_eq!((0..8 * bits.len()).map(bit).filter(|&b| b).count(), follow.len());
                    prop_assert_eq!((0..k).map(bit).collect::<Vec<_>>(), marked);
                }
            }
        }
        let everything = every_prefix(&n_codes);
        let found = trie.find(Codes::new(&everything.concat(), n_codes.len())?, 2)?;
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
        let all = rows.clone();
        let part = build(&rows, &n_codes)?.restrict(&keep[..rows.len()], 2)?;
        let kept: Vec<usize> = (0..rows.len()).filter(|&row| keep[row]).collect();
        let left: Vec<Vec<u16>> = kept.iter().map(|&row| rows[row].clone()).collect();
        let rebuilt = build(&left, &n_codes)?;
        prop_assert_eq!(part.code_array(), rebuilt.code_array());
        prop_assert_eq!(part.offset_bytes(), rebuilt.offset_bytes());
        prop_assert_eq!((part.levels(), part.table()), (rebuilt.levels(), rebuilt.table()));
        let rows = numbers(rebuilt.row_bytes());
        let rows: Vec<u32> = rows.iter().map(|&row| kept[row as usize] as u32).collect();
        prop_assert_eq!(numbers(part.row_bytes()), rows);
        prop_assert_eq!(load(&file(&part))?, part.clone());
        let listed: Vec<i64> = kept.iter().rev().map(|&row| row as i64).collect();
        prop_assert_eq!(build(&all, &n_codes)?.restrict_to(&listed, 1)?, part);
    }

    #[test]
    fn damaged_bytes_are_errors_or_tries_that_do_not_panic(
        (rows, n_codes) in tries(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = file(&build(&rows, &n_codes)?);
        prop_assert!(load(&bytes[..cut.index(bytes.len())]).is_err());
        let mut damaged = bytes.clone();
        for (place, value) in damage {
            let place = place.index(damaged.len());
            damaged[place] = value;
        }
        prop_assert!(damaged == bytes || load(&damaged).is_err());
        for bytes in [sealed(damaged.clone()), damaged] {
            for verify in [false, true] {
                if let Ok(trie) = CodeTrie::from_bytes(Arc::new(bytes.clone()), verify) {
                    exercise(&trie)?;
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load(&tail).is_err());
        let content = [&b"MQLTRIE\x03\x02\0\0\0\0\0\0\0"[..], &tail].concat();
        prop_assert!(load(&content).is_err());
        let mut content = [&content[..], &[0; HEADER_BYTES]].concat();
        content.truncate(HEADER_BYTES);
        prop_assert!(load(&sealed(content)).is_err());
    }
}

#[test]
fn it_lies_in_memory_as_drawn() -> Result<()> {
    let trie = build(&[vec![1, 2], vec![0, 2], vec![1, 0]], &[2, 3])?;
    assert_eq!(trie.code_array(), [0, 1, 2, 0, 2]);
    assert_eq!(numbers(trie.offset_bytes()), [0, 2, 3, 5]);
    assert_eq!(trie.levels(), [0, 1, 3, 6]);
    assert_eq!(numbers(trie.row_bytes()), [1, 2, 0]);
    assert_eq!(trie.table(), (&[0, 0, 3, 4, 0, 5][..], &[2, 3][..]));
    let marks = [0, 1, 2].map(|node| trie.marks.get(node).map(|bits| bits[0]));
    assert_eq!(marks, [Some(0b0011), Some(0b0100), Some(0b0101)]);
    assert_eq!(store::rank(&[0b0101, 0, 0, 1], 2), Some(1));
    assert_eq!(store::rank(&[0b0101, 0, 0, 1], 192), Some(2));
    assert_eq!(store::rank(&[0b0101, 0, 0, 1], 1), None);
    assert_eq!(store::rank(&[0b0101, 0, 0, 1], 300), None);
    Ok(())
}

#[test]
fn codes_of_two_bytes_lie_the_same_way() -> Result<()> {
    let trie = build(&[vec![1, 299], vec![0, 2], vec![1, 0]], &[2, 300])?;
    assert_eq!((trie.marks.get(0).is_some(), trie.marks.get(1)), (true, None)); // 256 bits are few
    let nodes = [2, NOWHERE];
    let marked: Vec<usize> = trie
        .mask(&nodes, 1)?
        .iter()
        .enumerate()
        .filter(|(_, &mark)| mark)
        .map(|(i, _)| i)
        .collect();
    assert_eq!(marked, [0, 299]);
    let bits = trie.mask_bits(&nodes, 1)?;
    assert_eq!((bits.len(), bits[0], bits[37]), (2 * 38, 1, 1 << 3));
    assert_eq!(bits.iter().filter(|&&byte| byte != 0).count(), 2);
    assert_eq!(trie.code_bytes(), 2);
    assert_eq!(trie.code_array(), [0, 0, 1, 0, 2, 0, 0, 0, 43, 1]);
    assert_eq!(numbers(trie.offset_bytes()), [0, 2, 3, 5]);
    assert_eq!(load(&file(&trie))?, trie);
    Ok(())
}

/// Numbers that look random.
fn scattered(i: usize) -> usize {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) ^ (i >> 3)
}

#[test]
fn threads_make_no_difference() -> Result<()> {
    let n_codes = [60, 1, 50, 40];
    let n_rows = 60 * 50 * 40;
    let all: Vec<usize> = (0..n_rows).filter(|&i| !scattered(i).is_multiple_of(3)).collect();
    let row = |&i: &usize| {
        let i = i * 7919 % n_rows; // a permutation, as 7919 is prime
        [(i / 2000) as u16, 0, (i / 40 % 50) as u16, (i % 40) as u16]
    };
    let table: Vec<u16> = all.iter().flat_map(row).collect();
    let codes = Codes::new(&table, 4)?;
    let keep: Vec<bool> = (0..all.len()).map(|i| scattered(i).is_multiple_of(5)).collect();
    let one = CodeTrie::new(codes, CodeSpace::new(&n_codes)?, 1)?;
    let cut = one.restrict(&keep, 1)?;
    for n_threads in [2, 3, 5] {
        let trie = CodeTrie::new(codes, CodeSpace::new(&n_codes)?, n_threads)?;
        assert!(file(&trie) == file(&one));
        assert!(trie.find(codes, n_threads)? == (0..all.len() as i64).collect::<Vec<_>>());
        assert!(file(&trie.restrict(&keep, n_threads)?) == file(&cut));
    }
    let twin = [&table[..], &table[4..8], &table[..4], &table[4..8]].concat();
    for n_threads in [1, 2, 4] {
        let twins = CodeTrie::new(Codes::new(&twin, 4)?, CodeSpace::new(&n_codes)?, n_threads);
        assert_eq!(twins, Err(Error::DuplicateRows { first: 0, second: all.len() + 1 }));
        let mut beyond = table.clone();
        (beyond[4 * 70_001 + 1], beyond[4 * 75_000]) = (1, 60);
        let wrong = CodeTrie::new(Codes::new(&beyond, 4)?, CodeSpace::new(&n_codes)?, n_threads);
        let expected = Error::CodeRange { row: 70_001, level: 1, code: 1, n_codes: 1 };
        assert_eq!(wrong, Err(expected));
    }
    Ok(())
}

#[test]
fn a_table_is_as_deep_as_it_stays_small() -> Result<()> {
    for (n_codes, expected) in [
        (vec![64, 64, 2], &[64, 64][..]),
        (vec![64, 65, 2], &[64]),
        (vec![4097, 1, 2], &[]),
        (vec![4096, 65536, 2], &[4096]),
    ] {
        let trie = build(&[n_codes.iter().map(|&k| (k - 1) as u16).collect()], &n_codes)?;
        assert_eq!(trie.table().1, expected);
        let own: Vec<u16> = n_codes.iter().map(|&k| (k - 1) as u16).collect();
        let below = [own[0], own[1], own[2] - 1];
        let found = trie.find(Codes::new(&[&own[..], &below].concat(), 3)?, 1)?;
        assert_eq!(found, [0, NOWHERE]);
        assert_eq!(trie.allowed(&own[..1], 1, 1)?.codes, [own[1]]);
    }
    Ok(())
}

#[test]
fn what_a_file_claims_takes_no_memory() -> Result<()> {
    let trie = build(&[vec![1, 2], vec![0, 2], vec![1, 0]], &[2, 3])?;
    let mut bytes = file(&trie);
    bytes[16..24].copy_from_slice(&u64::from(u32::MAX).to_le_bytes());
    let claiming = load(&sealed(bytes.clone()))?;
    assert_eq!(claiming.n_rows(), u32::MAX as usize);
    let part = claiming.restrict_to(&[2, i64::from(u32::MAX) - 1, 0], 1)?;
    assert_eq!((part.n_items(), numbers(part.row_bytes())), (2, vec![2, 0]));
    assert!(matches!(claiming.restrict_to(&[1 << 32], 1), Err(Error::RowRange { .. })));
    bytes[320..324].copy_from_slice(&2_u32.to_le_bytes()); // twice row 2
    let what = "a row of its own for every item";
    assert_eq!(load(&sealed(bytes)), Err(Error::Inconsistent { what }));
    Ok(())
}
