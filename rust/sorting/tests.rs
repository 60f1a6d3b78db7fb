//! Orders that neither threads nor the width of words change.

use super::*;
use crate::interrupt::NEVER;

fn rows(sorted: &Sorted) -> Vec<usize> {
    (0..sorted.len()).map(|place| sorted.row(place)).collect()
}

fn table(n_rows: usize) -> Vec<u16> {
    let code = |i: usize| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u16 % 40;
    (0..n_rows * 3).map(code).collect()
}

#[test]
fn rows_sort_by_code_then_row_with_and_without_room_for_both_in_a_word() -> Result<()> {
    let codes = Codes::new(&[2, 0, 0, 9, 2, 0, 0, 1], 2)?;
    for n_codes in [vec![3, 10], vec![1 << 16, 1 << 16]] {
        assert_eq!(rows(&Sorted::new(codes, &CodeSpace::new(&n_codes)?, 1, &NEVER)?), [3, 1, 0, 2]);
    }
    let eight = [&[7_u16; 8][..], &[6; 8]].concat();
    let space = CodeSpace::new(&[1 << 16; 8])?;
    let sorted = Sorted::new(Codes::new(&eight, 8)?, &space, 1, &NEVER)?;
    assert_eq!((rows(&sorted), sorted.word(1)), (vec![1, 0], space.first_word(&[7; 8])));
    Ok(())
}

#[test]
fn threads_and_the_width_of_words_make_no_difference() -> Result<()> {
    let data = table(100_000);
    let codes = Codes::new(&data, 3)?;
    let (narrow, wide) = (CodeSpace::new(&[40; 3])?, CodeSpace::new(&[1 << 16; 3])?);
    let mut expected: Vec<usize> = (0..codes.n_rows()).collect();
    expected.sort_by_key(|&row| codes.row(row));
    for (space, n_threads) in [(&narrow, 1), (&narrow, 3), (&wide, 2)] {
        assert!(rows(&Sorted::new(codes, space, n_threads, &NEVER)?) == expected);
        let sorted = Sorted::new(codes, space, n_threads, &NEVER)?;
        let runs = sorted.runs(0..sorted.len()).filter(|run| run.len() > 1);
        let shared: Vec<usize> = runs.flatten().map(|place| sorted.row(place)).collect();
        assert!(rows(&sharing(codes, space, n_threads, &NEVER)?) == shared);
    }
    Ok(())
}

#[test]
fn prefixes_end_where_they_end() -> Result<()> {
    let codes = Codes::new(&[0, 0, 0, 1, 0, 1, 2, 0, 2, 3, 2, 3, 2, 3], 2)?;
    let sorted = Sorted::new(codes, &CodeSpace::new(&[3, 4])?, 1, &NEVER)?;
    assert_eq!([0, 1, 3, 4].map(|place| sorted.next_prefix(place, 2)), [3, 3, 7, 7]);
    assert_eq!([0, 1, 3, 4].map(|place| sorted.next_prefix(place, 0)), [1, 3, 4, 7]);
    assert_eq!(sorted.next_prefix(0, 4), 7);
    Ok(())
}
