//! Cutting a trie down to some of its items: one pass over every array, from the leaves upwards,
//! without a sort. A node stays if a child of it does.

use std::ops::Range;

use super::rows::RowSet;
use super::store::{read, Code, Owned, Shape, Word};
use super::walk::View;
use super::{node_id, CodeTrie};
use crate::error::{Error, Result};
use crate::memory;
use crate::threads::{in_threads, useful_threads};

/// Shares per thread, so that one which is held up does not hold up all.
const SHARES_PER_THREAD: usize = 4;

/// The most bytes per node that the cuts of all levels take: row, code, size and marks.
const CUTTING_BYTES: usize = 16;

/// What stays of some nodes of one level.
///
/// Of the trie drawn at `CodeTrie`, its second level, without the item (0, 2):
///
/// ```text
/// codes  0 2            the edges that stay
/// sizes  2              children of each node that stays
/// kept   false true     which nodes stay
/// ```
struct Cut<C> {
    codes: Vec<C>,
    sizes: Vec<u32>,
    kept: Vec<bool>,
}

impl CodeTrie {
    /// Cut out the trie of those items whose row is marked, (`n_rows`); rows keep their numbers.
    /// O(N L).
    ///
    /// # Errors
    /// If `keep` does not have one mark per row, or a file that was not verified contradicts itself.
    pub fn restrict(&self, keep: &[bool], n_threads: usize) -> Result<Self> {
        if keep.len() != self.n_rows() {
            let (expected, got) = (format!("({},)", self.n_rows()), format!("({},)", keep.len()));
            return Err(Error::Shape { what: "rows".to_owned(), expected, got });
        }
        self.keep(&RowSet::of_marks(keep)?, n_threads)
    }

    /// Cut out the trie of those items whose row is listed; rows keep their numbers. O(N L + R log R)
    /// for R rows.
    ///
    /// # Errors
    /// If a row is not one of the table that the trie was built from, or a file that was not verified
    /// contradicts itself.
    pub fn restrict_to(&self, rows: &[i64], n_threads: usize) -> Result<Self> {
        self.keep(&RowSet::of_rows(rows, self.n_rows(), self.n_items())?, n_threads)
    }

    fn keep(&self, keep: &RowSet, n_threads: usize) -> Result<Self> {
        let n_threads = useful_threads(n_threads, self.n_items());
        memory::expect(self.n_nodes(), CUTTING_BYTES)?;
        match self.shape.code_bytes() {
            1 => self.cut(self.view::<u8>(), keep, n_threads),
            _ => self.cut(self.view::<[u8; 2]>(), keep, n_threads),
        }
    }

    fn cut<C: Code>(&self, view: View<'_, C>, keep: &RowSet, n_threads: usize) -> Result<Self> {
        let (mut rows, mut kept) = keep_rows(view.rows, keep, n_threads);
        let mut levels: Vec<Vec<Cut<C>>> = Vec::new();
        for level in (0..self.n_levels()).rev() {
            let cuts = self.cut_level(&view, level, (&kept, n_threads))?;
            kept = cuts.iter().flat_map(|cut| &cut.kept).copied().collect();
            levels.push(cuts);
        }
        levels.reverse();
        let mut starts = vec![0, 1];
        let mut n_nodes = 1;
        for cuts in &levels {
            n_nodes += cuts.iter().map(|cut| cut.codes.len()).sum::<usize>();
            starts.push(node_id(n_nodes)?);
        }
        let space = self.shape.space.clone();
        let shape = Shape { space, n_rows: self.shape.n_rows, levels: starts };
        let mut owned = Owned::zeroed(shape.n_bytes())?;
        join(&mut owned, &shape, (&levels, &mut rows));
        Self::of(shape, owned)
    }

    /// Cut the nodes of a level, by which of their children are kept.
    fn cut_level<C: Code>(
        &self,
        view: &View<'_, C>,
        level: usize,
        (kept, n_threads): (&[bool], usize),
    ) -> Result<Vec<Cut<C>>> {
        let nodes = self.shape.levels[level] as usize..self.shape.levels[level + 1] as usize;
        let edges = self.shape.edges(level);
        let ends = [nodes.start, nodes.end].map(|node| read(view.offsets[node]) as usize);
        if ends != [edges.start, edges.end] {
            return Err(Error::Inconsistent {
                what: "offsets whose children lie one level deeper",
            });
        }
        let each = nodes.len().div_ceil(n_threads * SHARES_PER_THREAD).max(1);
        let shares = nodes.clone().step_by(each).map(|from| from..(from + each).min(nodes.end));
        let cuts = in_threads(shares.collect(), n_threads, |share: Range<usize>| {
            cut_nodes(view, share, (edges.start, kept))
        });
        cuts.into_iter().collect()
    }
}

fn cut_nodes<C: Code>(
    view: &View<'_, C>,
    nodes: Range<usize>,
    (first_edge, kept): (usize, &[bool]),
) -> Result<Cut<C>> {
    let n_edges = read(view.offsets[nodes.end]).saturating_sub(read(view.offsets[nodes.start]));
    let mut cut = Cut {
        codes: Vec::with_capacity((n_edges as usize).min(kept.len())),
        sizes: Vec::with_capacity(nodes.len()),
        kept: Vec::with_capacity(nodes.len()),
    };
    for pair in view.offsets[nodes.start..=nodes.end].windows(2) {
        let (from, to) = (read(pair[0]) as usize, read(pair[1]) as usize);
        let marks = from
            .checked_sub(first_edge)
            .and_then(|first| kept.get(first..to.checked_sub(first_edge)?));
        let (Some(marks), Some(codes)) = (marks, view.codes.get(from..to)) else {
            let what = "offsets that give every inner node a child";
            return Err(Error::Inconsistent { what });
        };
        let before = cut.codes.len();
        cut.codes.extend(codes.iter().zip(marks).filter(|(_, &kept)| kept).map(|(&code, _)| code));
        let size = cut.codes.len() - before;
        cut.kept.push(size > 0);
        if size > 0 {
            cut.sizes.push(size as u32);
        }
    }
    Ok(cut)
}

/// The rows that stay, in shares, and which leaves do.
fn keep_rows(rows: &[Word], keep: &RowSet, n_threads: usize) -> (Vec<Vec<Word>>, Vec<bool>) {
    let each = rows.len().div_ceil(n_threads * SHARES_PER_THREAD).max(1);
    let shares = in_threads(rows.chunks(each).collect(), n_threads, |rows: &[Word]| {
        let kept: Vec<bool> = rows.iter().map(|&row| keep.has(read(row))).collect();
        let left = rows.iter().zip(&kept).filter(|(_, &kept)| kept).map(|(&row, _)| row);
        (left.collect::<Vec<_>>(), kept)
    });
    let (rows, kept): (Vec<_>, Vec<_>) = shares.into_iter().unzip();
    (rows, kept.concat())
}

/// Write what stays to its places.
fn join<C: Code>(
    owned: &mut Owned,
    shape: &Shape,
    (levels, rows): (&[Vec<Cut<C>>], &mut Vec<Vec<Word>>),
) {
    let (all_offsets, all_codes, all_rows) = owned.arrays_mut::<C>(shape);
    let (mut node, mut edge, mut end) = (0, 0, 0_u32);
    for cut in levels.iter().flatten() {
        all_codes[edge..edge + cut.codes.len()].copy_from_slice(&cut.codes);
        edge += cut.codes.len();
        for size in &cut.sizes {
            all_offsets[node] = end.to_le_bytes();
            end += size;
            node += 1;
        }
    }
    if let Some(last) = all_offsets.last_mut() {
        *last = end.to_le_bytes();
    }
    let mut leaf = 0;
    for rows in rows {
        all_rows[leaf..leaf + rows.len()].copy_from_slice(rows);
        leaf += rows.len();
    }
}
