//! The trie of the semantic IDs that exist: which codes may follow a prefix, and which item a whole
//! semantic ID is.
//!
//! Every question is asked for a batch: once per decoding step for all beams, never beam by beam.

use crate::codes::{CodeSpace, Codes};
use crate::error::{Error, Result};
use crate::sorting::Sorted;

/// The node of no prefix at all: the answer to a step that does not exist.
pub const NOWHERE: i64 = -1;
/// The node of the empty prefix.
pub const ROOT: i64 = 0;

/// A tree laid flat, level after level, so that the children of a node lie side by side.
///
/// A node is a prefix that some item has. Nodes are numbered by depth, then by code, which makes the
/// edge to node n the one at `codes[n - 1]`: an edge needs no target. Three items (1, 2), (0, 2),
/// (1, 0):
///
/// ```text
///           0          root
///        0/   \1
///        1     2       prefixes (0) and (1)
///      2/    0/ \2
///      3     4   5     leaves (0, 2), (1, 0), (1, 2)
///
/// codes    0 1 | 2 | 0 2    the code that leads to node 1, 2 | 3 | 4, 5
/// offsets  0     2   3   5  children of node n are nodes offsets[n] + 1 to offsets[n + 1]
/// levels   0 1 3 6          nodes of depth d are levels[d] to below levels[d + 1]
/// rows     1 2 0            the item at leaf 3, 4, 5
/// n_rows   3                rows that `codes` had; more than items in a restricted trie
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTrie {
    pub(crate) space: CodeSpace,
    pub(crate) n_rows: u32,
    pub(crate) levels: Vec<u32>,
    pub(crate) offsets: Vec<u32>,
    pub(crate) codes: Vec<u16>,
    pub(crate) rows: Vec<u32>,
}

/// Codes that may follow each of a batch of prefixes, ascending.
///
/// For three prefixes of the trie drawn above, (), (9) and (1) one after the other:
///
/// ```text
/// codes    0 1 |  | 0 2
/// offsets  0     2  2     4
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Where each prefix's codes start, and where the last end, (B + 1).
    pub offsets: Vec<usize>,
    /// The codes, prefix after prefix.
    pub codes: Vec<u16>,
}

impl CodeTrie {
    /// Build the trie of a table of distinct semantic IDs. O(N L + N log N).
    ///
    /// # Errors
    /// If the codes do not fit the space, two rows are alike, or there are over 2^32 - 1 nodes.
    pub fn new(codes: Codes<'_>, space: CodeSpace) -> Result<Self> {
        space.check(codes)?;
        let sorted = Sorted::new(codes, &space, 1);
        let twins = sorted.runs(0..sorted.len()).filter(|run| run.len() > 1);
        if let Some((first, second)) =
            twins.map(|run| (sorted.row(run.start), sorted.row(run.start + 1))).min()
        {
            return Err(Error::DuplicateRows { first, second });
        }
        let rows = (0..sorted.len()).map(|place| node_id(sorted.row(place)));
        let rows = rows.collect::<Result<Vec<u32>>>()?;
        drop(sorted);
        let items = rows.iter().map(|&row| codes.row(row as usize));
        Self::from_sorted(items.collect(), rows.clone(), space, node_id(codes.n_rows())?)
    }

    /// Build from distinct semantic IDs in ascending order and their rows.
    fn from_sorted(
        items: Vec<&[u16]>,
        rows: Vec<u32>,
        space: CodeSpace,
        n_rows: u32,
    ) -> Result<Self> {
        let n_levels = space.n_levels();
        // How many codes an item shares with the one before it: it adds the nodes that are deeper.
        let shared: Vec<usize> = (0..items.len())
            .map(|i| match i {
                0 => 0,
                _ => items[i - 1].iter().zip(items[i]).take_while(|(a, b)| a == b).count(),
            })
            .collect();
        let (mut levels, mut offsets, mut codes) = (vec![0, 1], Vec::new(), Vec::new());
        for depth in 0..n_levels {
            for (i, (&shared, item)) in shared.iter().zip(&items).enumerate() {
                if i == 0 || shared < depth {
                    offsets.push(node_id(codes.len())?);
                }
                if i == 0 || shared <= depth {
                    codes.push(item[depth]);
                }
            }
            levels.push(node_id(codes.len() + 1)?);
        }
        if items.is_empty() {
            offsets.push(0);
        }
        offsets.push(node_id(codes.len())?);
        Ok(Self { space, n_rows, levels, offsets, codes, rows })
    }

    /// The number of codes K of each level. O(1).
    pub fn n_codes(&self) -> &[usize] {
        self.space.n_codes()
    }

    /// The number of levels L. O(1).
    pub fn n_levels(&self) -> usize {
        self.space.n_levels()
    }

    /// The number of items, which is the number of leaves. O(1).
    pub fn n_items(&self) -> usize {
        self.rows.len()
    }

    /// The number of rows of the table that the trie, or the one it was cut from, was built from. O(1).
    pub fn n_rows(&self) -> usize {
        self.n_rows as usize
    }

    /// The number of nodes, root and leaves included. O(1).
    pub fn n_nodes(&self) -> usize {
        self.codes.len() + 1
    }

    /// Memory of the arrays in bytes. O(1).
    pub fn nbytes(&self) -> usize {
        4 * (self.levels.len() + self.offsets.len() + self.rows.len()) + 2 * self.codes.len()
    }

    /// The arrays `offsets`, `codes` and `rows` drawn above, for walking elsewhere. O(1).
    pub fn arrays(&self) -> (&[u32], &[u16], &[u32]) {
        (&self.offsets, &self.codes, &self.rows)
    }

    /// The code that leads to each child of a node; none for a leaf. O(1).
    fn children(&self, node: usize) -> &[u16] {
        match self.offsets.get(node..node + 2) {
            Some(&[from, to]) => &self.codes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// O(log K).
    fn child(&self, node: usize, code: u16) -> Option<usize> {
        let place = self.children(node).binary_search(&code).ok()?;
        Some(self.offsets[node] as usize + place + 1)
    }

    /// O(L log K).
    fn descend(&self, prefix: &[u16]) -> Option<usize> {
        prefix.iter().try_fold(0, |node, &code| self.child(node, code))
    }

    fn node(&self, position: usize, node: i64) -> Result<Option<usize>> {
        let last = self.codes.len();
        match usize::try_from(node) {
            Ok(node) if node <= last => Ok(Some(node)),
            _ if node == NOWHERE => Ok(None),
            _ => Err(Error::NoSuchNode { position, node, last }),
        }
    }

    fn depth(&self, node: usize) -> usize {
        self.levels.partition_point(|&start| start as usize <= node).saturating_sub(1)
    }

    /// List the codes that may follow each prefix of a batch of B prefixes of `depth` codes, which
    /// lie in row order; none for an unknown or a whole one. O(B (L log K + K)).
    ///
    /// # Errors
    /// If prefixes have more codes than there are levels, or `prefixes` is not B times `depth` long.
    pub fn allowed(&self, prefixes: &[u16], n_prefixes: usize, depth: usize) -> Result<Allowed> {
        if depth > self.n_levels() {
            return Err(Error::PrefixLength { n_levels: self.n_levels(), got: depth });
        }
        check_table("prefixes", prefixes, n_prefixes, depth)?;
        let mut allowed = Allowed { offsets: vec![0], codes: Vec::new() };
        for i in 0..n_prefixes {
            if let Some(node) = self.descend(&prefixes[i * depth..(i + 1) * depth]) {
                allowed.codes.extend_from_slice(self.children(node));
            }
            allowed.offsets.push(allowed.codes.len());
        }
        Ok(allowed)
    }

    /// The level whose codes follow the nodes of a batch, told by the first that exists. O(B).
    ///
    /// # Errors
    /// If every node is -1, so that none tells it, or one does not exist.
    pub fn level_of(&self, nodes: &[i64]) -> Result<usize> {
        for (position, &node) in nodes.iter().enumerate() {
            if let Some(node) = self.node(position, node)? {
                return Ok(self.depth(node));
            }
        }
        Err(Error::NoLevel)
    }

    /// Mark the codes of a level that may follow each node, (B, K) in row order; none after node -1.
    /// O(B K).
    ///
    /// # Errors
    /// If the level is none from which a code can be chosen, or a node is not of this level.
    pub fn mask(&self, nodes: &[i64], level: usize) -> Result<Vec<bool>> {
        let Some(&n_codes) = self.n_codes().get(level) else {
            return Err(Error::NoSuchLevel { last: self.n_levels() - 1, got: level });
        };
        let mut mask = vec![false; nodes.len() * n_codes];
        for (position, &id) in nodes.iter().enumerate() {
            let Some(node) = self.node(position, id)? else {
                continue;
            };
            if self.depth(node) != level {
                let got = self.depth(node);
                return Err(Error::MixedLevels { expected: level, node: id, got });
            }
            for &code in self.children(node) {
                mask[position * n_codes + usize::from(code)] = true;
            }
        }
        Ok(mask)
    }

    /// Follow one code from each node, (B); -1 where no item has that prefix. O(B log K).
    ///
    /// # Errors
    /// If `codes` is not as long as `nodes`, or a node does not exist.
    pub fn step(&self, nodes: &[i64], codes: &[u16]) -> Result<Vec<i64>> {
        if nodes.len() != codes.len() {
            let (expected, got) = (nodes.len(), codes.len());
            return Err(Error::BatchLength { what: "codes", expected, got });
        }
        let pairs = nodes.iter().zip(codes).enumerate();
        pairs
            .map(|(position, (&node, &code))| {
                let child = self.node(position, node)?.and_then(|node| self.child(node, code));
                Ok(child.map_or(NOWHERE, |child| child as i64))
            })
            .collect()
    }

    /// Find the row of each semantic ID of a batch, (B); -1 where no item has it. O(B L log K).
    ///
    /// # Errors
    /// If the batch has another number of levels.
    pub fn find(&self, batch: Codes<'_>) -> Result<Vec<i64>> {
        if batch.n_levels() != self.n_levels() {
            return Err(Error::LevelCount {
                what: "codes",
                expected: self.n_levels(),
                got: batch.n_levels(),
            });
        }
        let first_leaf = self.n_nodes() - self.n_items();
        let row = |codes: &[u16]| match self.descend(codes) {
            Some(leaf) => i64::from(self.rows[leaf - first_leaf]),
            None => NOWHERE,
        };
        Ok((0..batch.n_rows()).map(|i| row(batch.row(i))).collect())
    }

    /// Cut out the trie of those items whose row is marked, (`n_rows`); rows keep their numbers.
    /// O(N L).
    ///
    /// # Errors
    /// If `keep` does not have one mark per row.
    pub fn restrict(&self, keep: &[bool]) -> Result<Self> {
        if keep.len() != self.n_rows() {
            let (expected, got) = (format!("({},)", self.n_rows), format!("({},)", keep.len()));
            return Err(Error::Shape { what: "rows".to_owned(), expected, got });
        }
        let table = self.table();
        let kept = table.chunks_exact(self.n_levels()).zip(&self.rows);
        let (items, rows) = kept.filter(|(_, &row)| keep[row as usize]).unzip();
        Self::from_sorted(items, rows, self.space.clone(), self.n_rows)
    }

    /// Mark rows by number, as `restrict` wants it. O(N + number of rows).
    ///
    /// # Errors
    /// If a row is not one of the table that the trie was built from.
    pub fn marks(&self, rows: &[i64]) -> Result<Vec<bool>> {
        let mut marks = vec![false; self.n_rows()];
        for &row in rows {
            let mark = usize::try_from(row).ok().and_then(|row| marks.get_mut(row));
            *mark.ok_or(Error::RowRange { n_rows: self.n_rows(), row })? = true;
        }
        Ok(marks)
    }

    /// The semantic IDs at the leaves, in order: every inner node writes its children's codes over
    /// the leaves below it.
    fn table(&self) -> Vec<u16> {
        let (n_levels, n_items) = (self.n_levels(), self.n_items());
        let mut table = vec![0; n_items * n_levels];
        let mut below = vec![1; n_items]; // leaves below each node of the level at hand
        for level in (0..n_levels).rev() {
            let (from, to) = (self.levels[level] as usize, self.levels[level + 1] as usize);
            let edges = &self.codes[to - 1..to - 1 + below.len()];
            let leaves =
                edges.iter().zip(&below).flat_map(|(&code, &n)| std::iter::repeat_n(code, n));
            for (row, code) in table.chunks_exact_mut(n_levels).zip(leaves) {
                row[level] = code;
            }
            below = (from..to)
                .map(|node| {
                    let (first, end) =
                        (self.offsets[node] as usize, self.offsets[node + 1] as usize);
                    below[first + 1 - to..end + 1 - to].iter().sum()
                })
                .collect();
        }
        table
    }
}

fn check_table(what: &str, values: &[u16], n_rows: usize, width: usize) -> Result<()> {
    if n_rows.checked_mul(width) == Some(values.len()) {
        return Ok(());
    }
    let (expected, got) = (format!("({n_rows}, {width})"), format!("({},)", values.len()));
    Err(Error::Shape { what: what.to_owned(), expected, got })
}

fn node_id(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::TooManyNodes { got: number })
}

#[cfg(test)]
mod tests;
