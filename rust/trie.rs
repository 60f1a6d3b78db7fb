//! The trie of the semantic IDs that exist: which codes may follow a prefix, and which item a whole
//! semantic ID is.
//!
//! Every question is asked for a batch: once per decoding step for all beams, never beam by beam.

mod build;
mod restrict;
pub(crate) mod rows;
pub(crate) mod store;
mod walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::codes::Codes;
use crate::error::{Error, Result};
use crate::memory::{filled, room};
use crate::threads::{in_threads, useful_threads};
use store::{words, Bytes, Code, Marks, Owned, Shape, Table};
use walk::{View, BLOCK, NONE};

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
/// rows     1 2 0            the item at leaf 3, 4, 5
/// levels   0 1 3 6          nodes of depth d are levels[d] to below levels[d + 1]
/// n_rows   3                rows that `codes` had; more than items in a restricted trie
/// table    0 0 3 | 4 0 5    the node after two codes, 0 where there is none; see `Table`
/// marks                     which codes follow the first nodes; see `Marks`
/// ```
///
/// The first three lie in `bytes` as they do in a file, which may be a mapped one. Ten
/// million items of 4 x 256 codes take at most 10 bytes each: 4 for the row, 1 for the last code, and
/// 5 for the prefix above it, if they do not share that; all else takes 3 MB.
#[derive(Clone)]
pub struct CodeTrie {
    pub(crate) shape: Shape,
    pub(crate) bytes: Bytes,
    table: Table,
    marks: Marks,
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
    pub offsets: Vec<i64>,
    /// The codes, prefix after prefix.
    pub codes: Vec<u16>,
}

/// Ask a question of the arrays, whose codes have one byte or two.
macro_rules! ask {
    ($trie:expr, $view:ident => $answer:expr) => {
        match $trie.shape.code_bytes() {
            1 => {
                let $view = $trie.view::<u8>();
                $answer
            }
            _ => {
                let $view = $trie.view::<[u8; 2]>();
                $answer
            }
        }
    };
}

impl CodeTrie {
    fn of(shape: Shape, owned: Owned) -> Result<Self> {
        Self::around(shape, Arc::new(owned))
    }

    /// Take bytes that have the length that `shape` wants, and fill table and marks from them.
    /// O(nodes of the first three levels).
    pub(crate) fn around(shape: Shape, bytes: Bytes) -> Result<Self> {
        let (mut table, mut marks) = (Table::new(&shape)?, Marks::new(&shape)?);
        let mut trie = Self { shape, bytes, table: Table::default(), marks: Marks::default() };
        ask!(trie, view => {
            view.fill_table(&mut table);
            view.fill_marks(&mut marks);
        });
        (trie.table, trie.marks) = (table, marks);
        Ok(trie)
    }

    /// The number of codes K of each level. O(1).
    pub fn n_codes(&self) -> &[usize] {
        self.shape.space.n_codes()
    }

    /// The number of levels L. O(1).
    pub fn n_levels(&self) -> usize {
        self.shape.space.n_levels()
    }

    /// The number of items, which is the number of leaves. O(1).
    pub fn n_items(&self) -> usize {
        self.shape.n_items()
    }

    /// The number of rows of the table that the trie, or the one it was cut from, was built from. O(1).
    pub fn n_rows(&self) -> usize {
        self.shape.n_rows as usize
    }

    /// The number of nodes, root and leaves included. O(1).
    pub fn n_nodes(&self) -> usize {
        self.shape.n_nodes()
    }

    /// Where the nodes of each depth start, and where the leaves end, (L + 2). O(1).
    pub fn levels(&self) -> &[u32] {
        &self.shape.levels
    }

    /// Memory of header, arrays, table and marks in bytes, mapped or not. O(1).
    pub fn nbytes(&self) -> usize {
        let numbers = self.levels().len() + self.table.nodes.len();
        self.shape.n_bytes() + 4 * numbers + self.marks.nbytes()
    }

    /// The bytes of `offsets`, numbers of 32 bits. O(1).
    pub fn offset_bytes(&self) -> &[u8] {
        self.array(self.shape.offsets())
    }

    /// The bytes of `codes`, each of `code_bytes`. O(1).
    pub fn code_array(&self) -> &[u8] {
        self.array(self.shape.codes())
    }

    /// The bytes of `rows`, numbers of 32 bits. O(1).
    pub fn row_bytes(&self) -> &[u8] {
        self.array(self.shape.rows())
    }

    /// Bytes per code: 1 if every level has at most 256 codes, else 2. O(1).
    pub fn code_bytes(&self) -> usize {
        self.shape.code_bytes()
    }

    /// The node after the first codes, and K of the one or two levels that it is a table of; no
    /// level where K is too large for the number of items. O(1).
    pub fn table(&self) -> (&[u32], &[usize]) {
        (&self.table.nodes, &self.n_codes()[..self.table.depth])
    }

    fn array(&self, range: Range<usize>) -> &[u8] {
        // Never shorter than the shape says; a file that has shrunk since is the one way.
        (*self.bytes).as_ref().get(range).unwrap_or_default()
    }

    fn view<C: Code>(&self) -> View<'_, C> {
        View {
            offsets: words(self.offset_bytes()),
            codes: C::slice(self.code_array()),
            rows: words(self.row_bytes()),
            table: &self.table,
            marks: &self.marks,
            first_leaf: self.shape.first_leaf(),
        }
    }

    /// The node of a number, `NONE` for -1.
    fn node(&self, position: usize, node: i64) -> Result<u32> {
        let last = self.n_nodes() - 1;
        match u32::try_from(node) {
            Ok(id) if id as usize <= last => Ok(id),
            _ if node == NOWHERE => Ok(NONE),
            _ => Err(Error::NoSuchNode { position, node, last }),
        }
    }

    fn depth(&self, node: u32) -> usize {
        self.levels().partition_point(|&start| start <= node).saturating_sub(1)
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
        ask!(self, view => view.allowed(prefixes, n_prefixes, depth))
    }

    /// The level whose codes follow the nodes of a batch, told by the first that exists. O(B).
    ///
    /// # Errors
    /// If every node is -1, so that none tells it, or one does not exist.
    pub fn level_of(&self, nodes: &[i64]) -> Result<usize> {
        for (position, &node) in nodes.iter().enumerate() {
            let node = self.node(position, node)?;
            if node != NONE {
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
        let n_codes = self.codes_of(level)?;
        let nodes = self.of_level(nodes, level)?;
        ask!(self, view => view.mask(&nodes, n_codes))
    }

    /// The same marks as bits, (B, ceil(K / 8)): code c is bit c % 8, the lowest first, of byte
    /// c / 8. O(B K).
    ///
    /// # Errors
    /// As `mask`.
    pub fn mask_bits(&self, nodes: &[i64], level: usize) -> Result<Vec<u8>> {
        let width = self.codes_of(level)?.div_ceil(8);
        let nodes = self.of_level(nodes, level)?;
        ask!(self, view => view.mask_bits(&nodes, width))
    }

    fn codes_of(&self, level: usize) -> Result<usize> {
        let last = self.n_levels() - 1;
        self.n_codes().get(level).copied().ok_or(Error::NoSuchLevel { last, got: level })
    }

    /// Nodes that all are of a level, or none.
    fn of_level(&self, nodes: &[i64], level: usize) -> Result<Vec<u32>> {
        let own = self.levels()[level]..self.levels()[level + 1];
        let check = |(position, &id): (usize, &i64)| match self.node(position, id)? {
            node if node == NONE || own.contains(&node) => Ok(node),
            node => Err(Error::MixedLevels { expected: level, node: id, got: self.depth(node) }),
        };
        self.each(nodes, check)
    }

    fn each(
        &self,
        nodes: &[i64],
        check: impl Fn((usize, &i64)) -> Result<u32>,
    ) -> Result<Vec<u32>> {
        let mut checked = room(nodes.len())?;
        for entry in nodes.iter().enumerate() {
            checked.push(check(entry)?);
        }
        Ok(checked)
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
        let nodes = self.each(nodes, |(position, &node)| self.node(position, node))?;
        let stepped = ask!(self, view => view.step(&nodes, codes))?;
        let mut numbers = room(stepped.len())?;
        numbers.extend(stepped.into_iter().map(node_number));
        Ok(numbers)
    }

    /// Find the row of each semantic ID of a batch, (B); -1 where no item has it. O(B L log K).
    ///
    /// # Errors
    /// If the batch has another number of levels.
    pub fn find(&self, batch: Codes<'_>, n_threads: usize) -> Result<Vec<i64>> {
        let n_levels = self.n_levels();
        if batch.n_levels() != n_levels {
            let (expected, got) = (n_levels, batch.n_levels());
            return Err(Error::LevelCount { what: "codes", expected, got });
        }
        let n_threads = useful_threads(n_threads, batch.n_rows());
        let mut found = filled(NOWHERE, batch.n_rows())?;
        let each = batch.n_rows().div_ceil(n_threads).max(1);
        let shares = batch.data().chunks(each * n_levels).zip(found.chunks_mut(each));
        in_threads(shares.collect(), n_threads, |(table, found): (&[u16], &mut [i64])| {
            let blocks = table.chunks(BLOCK * n_levels).zip(found.chunks_mut(BLOCK));
            ask!(self, view => blocks.for_each(|(table, found)| view.find(table, n_levels, found)));
        });
        Ok(found)
    }
}

impl PartialEq for CodeTrie {
    fn eq(&self, other: &Self) -> bool {
        let arrays = |trie: &Self| {
            [trie.offset_bytes(), trie.code_array(), trie.row_bytes()]
                == [other.offset_bytes(), other.code_array(), other.row_bytes()]
        };
        self.shape == other.shape && arrays(self)
    }
}

impl fmt::Debug for CodeTrie {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CodeTrie").field("shape", &self.shape).finish_non_exhaustive()
    }
}

fn node_number(node: u32) -> i64 {
    if node == NONE {
        NOWHERE
    } else {
        i64::from(node)
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
