//! Walking a trie for whole batches, level by level.
//!
//! A batch is walked in blocks: first every prefix of a block reads where its node's children lie,
//! then every prefix searches them. Neighbours do not wait for each other, so that the processor has
//! many reads from memory under way at once; one prefix after the other, from root to leaf, takes
//! several times as long on a trie that is larger than the caches.

use super::store::{rank, read, Code, Marks, Table, Word};
use super::Allowed;
use crate::error::Result;
use crate::memory::{filled, room, zeros};

/// Prefixes walked together: their nodes and edges stay in the fastest cache.
pub(crate) const BLOCK: usize = 512;
/// The node of a prefix that no item has, while walking. Nodes are below it.
pub(crate) const NONE: u32 = u32::MAX;

/// The bits of each byte, the lowest first.
const SPREAD: [[bool; 8]; 256] = {
    let mut spread = [[false; 8]; 256];
    let mut place = 0;
    while place < 256 * 8 {
        spread[place / 8][place % 8] = (place / 8) >> (place % 8) & 1 == 1;
        place += 1;
    }
    spread
};

/// The arrays of a trie, read where they lie, with codes of one width.
///
/// Nothing here trusts what they say, as a mapped file need not be verified: a damaged trie gives
/// wrong answers, never a read outside.
pub(crate) struct View<'a, C> {
    pub(crate) offsets: &'a [Word],
    pub(crate) codes: &'a [C],
    pub(crate) rows: &'a [Word],
    pub(crate) table: &'a Table,
    pub(crate) marks: &'a Marks,
    pub(crate) first_leaf: usize,
}

impl<C: Code> View<'_, C> {
    /// Where the edges to a node's children start and end; nowhere for a leaf. O(1).
    pub(crate) fn edges(&self, node: u32) -> (u32, u32) {
        let node = node as usize;
        match self.offsets.get(node..node.saturating_add(2)) {
            Some(&[from, to]) => (read(from), read(to)),
            _ => (0, 0),
        }
    }

    fn between(&self, (from, to): (u32, u32)) -> &[C] {
        self.codes.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The code that leads to each child of a node; none for a leaf. O(1).
    pub(crate) fn children(&self, node: u32) -> &[C] {
        self.between(self.edges(node))
    }

    pub(crate) fn fill_table(&self, table: &mut Table) {
        for (first, code) in (1_u32..).zip(self.children(0)) {
            if table.depth == 1 {
                table.set([code.get(), 0], first);
                continue;
            }
            let (start, end) = self.edges(first);
            let children = if table.depth == 2 { self.between((start, end)) } else { &[] };
            for (child, next) in (1..).zip(children) {
                table.set([code.get(), next.get()], start.saturating_add(child));
            }
        }
    }

    pub(crate) fn fill_marks(&self, marks: &mut Marks) {
        for node in 0..marks.len() as u32 {
            self.children(node).iter().for_each(|code| marks.set(node, code.get()));
        }
    }

    /// O(1) for the first levels, O(log K) below.
    fn search(&self, node: u32, edges: (u32, u32), code: u16) -> u32 {
        if let Some(bits) = self.marks.get(node) {
            return rank(bits, code).map_or(NONE, |rank| edges.0.saturating_add(rank + 1));
        }
        let children = self.between(edges);
        // Halves without a branch: which half it is cannot be predicted.
        let (mut base, mut size) = (0, children.len());
        while size > 1 {
            let half = size / 2;
            base = if children[base + half].get() <= code { base + half } else { base };
            size -= half;
        }
        match children.get(base) {
            Some(found) if found.get() == code => edges.0.saturating_add(base as u32 + 1),
            _ => NONE,
        }
    }

    /// Follow one code from each node, `NONE` where there is none. O(B log K).
    pub(crate) fn step(&self, nodes: &[u32], codes: &[u16]) -> Result<Vec<u32>> {
        let edges = self.all_edges(nodes)?;
        let steps = nodes.iter().zip(&edges).zip(codes);
        let mut found = room(nodes.len())?;
        found.extend(steps.map(|((&node, &edges), &code)| self.search(node, edges, code)));
        Ok(found)
    }

    fn all_edges(&self, nodes: &[u32]) -> Result<Vec<(u32, u32)>> {
        let mut edges = room(nodes.len())?;
        edges.extend(nodes.iter().map(|&node| self.edges(node)));
        Ok(edges)
    }

    /// Mark the codes that may follow each node, `n_codes` marks each. O(B K).
    pub(crate) fn mask(&self, nodes: &[u32], n_codes: usize) -> Result<Vec<bool>> {
        let edges = self.all_edges(nodes)?;
        let mut mask = zeros(nodes.len().saturating_mul(n_codes))?;
        for ((&node, &edges), mask) in nodes.iter().zip(&edges).zip(mask.chunks_exact_mut(n_codes))
        {
            if let Some(bits) = self.marks.get(node) {
                for (marks, word) in mask.chunks_mut(64).zip(bits) {
                    for (marks, byte) in marks.chunks_mut(8).zip(word.to_le_bytes()) {
                        marks.copy_from_slice(&SPREAD[usize::from(byte)][..marks.len()]);
                    }
                }
                continue;
            }
            for code in self.between(edges) {
                if let Some(mark) = mask.get_mut(usize::from(code.get())) {
                    *mark = true;
                }
            }
        }
        Ok(mask)
    }

    /// The same as bits, `width` bytes each. O(B K).
    pub(crate) fn mask_bits(&self, nodes: &[u32], width: usize) -> Result<Vec<u8>> {
        let edges = self.all_edges(nodes)?;
        let mut mask = zeros(nodes.len().saturating_mul(width))?;
        for ((&node, &edges), mask) in nodes.iter().zip(&edges).zip(mask.chunks_exact_mut(width)) {
            if let Some(bits) = self.marks.get(node) {
                for (bytes, word) in mask.chunks_mut(8).zip(bits) {
                    bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
                }
                continue;
            }
            for code in self.between(edges) {
                if let Some(byte) = mask.get_mut(usize::from(code.get() / 8)) {
                    *byte |= 1 << (code.get() % 8);
                }
            }
        }
        Ok(mask)
    }

    /// O(B (L log K + K)).
    pub(crate) fn allowed(
        &self,
        prefixes: &[u16],
        n_prefixes: usize,
        depth: usize,
    ) -> Result<Allowed> {
        let mut nodes = filled(NONE, n_prefixes)?;
        for (block, nodes) in nodes.chunks_mut(BLOCK).enumerate() {
            let start = block * BLOCK * depth;
            self.walk(&prefixes[start..start + nodes.len() * depth], depth, nodes);
        }
        let edges = self.all_edges(&nodes)?;
        let mut offsets = room(n_prefixes.saturating_add(1))?;
        offsets.push(0);
        let mut n_codes = 0_usize;
        for &edges in &edges {
            n_codes += self.between(edges).len();
            offsets.push(n_codes as i64);
        }
        let mut codes = room(n_codes)?;
        for &edges in &edges {
            codes.extend(self.between(edges).iter().map(|code| code.get()));
        }
        Ok(Allowed { offsets, codes })
    }

    /// Walk prefixes of `depth` codes, at most `BLOCK`, in row order. O(B L log K).
    pub(crate) fn walk(&self, prefixes: &[u16], depth: usize, nodes: &mut [u32]) {
        let start = if self.table.depth <= depth { self.table.depth } else { 0 };
        if start == 0 {
            nodes.fill(0);
        } else {
            for (node, prefix) in nodes.iter_mut().zip(prefixes.chunks_exact(depth)) {
                *node = self.table.get(prefix).unwrap_or(NONE);
            }
        }
        let mut edges = [(0, 0); BLOCK];
        for level in start..depth {
            for (edges, &node) in edges.iter_mut().zip(&*nodes) {
                *edges = self.edges(node);
            }
            let codes = prefixes.iter().skip(level).step_by(depth);
            for ((node, &edges), &code) in nodes.iter_mut().zip(&edges).zip(codes) {
                *node = self.search(*node, edges, code);
            }
        }
    }

    /// Find the rows of whole semantic IDs, at most `BLOCK`. O(B L log K).
    pub(crate) fn find(&self, table: &[u16], n_levels: usize, rows: &mut [i64]) {
        let mut nodes = [NONE; BLOCK];
        let nodes = &mut nodes[..rows.len()];
        self.walk(table, n_levels, nodes);
        for (row, &node) in rows.iter_mut().zip(&*nodes) {
            let leaf = (node as usize).checked_sub(self.first_leaf);
            let found = leaf.and_then(|leaf| self.rows.get(leaf));
            *row = found.map_or(super::NOWHERE, |&row| i64::from(read(row)));
        }
    }
}
