//! Walking a trie for whole batches, level by level.
//!
//! A batch is walked in blocks: first every prefix of a block reads where its node's children lie,
//! then every prefix searches them. Neighbours do not wait for each other, so that the processor has
//! many reads from memory under way at once; one prefix after the other, from root to leaf, takes
//! several times as long on a trie that is larger than the caches.

use super::store::{read, Code, Table, Word};
use super::Allowed;

/// Prefixes walked together: their nodes and edges stay in the fastest cache.
pub(crate) const BLOCK: usize = 512;
/// The node of a prefix that no item has, while walking. Nodes are below it.
pub(crate) const NONE: u32 = u32::MAX;

/// The arrays of a trie, read where they lie, with codes of one width.
///
/// Nothing here trusts what they say, as a mapped file need not be verified: a damaged trie gives
/// wrong answers, never a read outside.
pub(crate) struct View<'a, C> {
    pub(crate) offsets: &'a [Word],
    pub(crate) codes: &'a [C],
    pub(crate) rows: &'a [Word],
    pub(crate) table: &'a Table,
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

    /// O(log K).
    fn search(&self, edges: (u32, u32), code: u16) -> u32 {
        let children = self.between(edges);
        let place = usize::from(code);
        if children.get(place).is_some_and(|found| found.get() == code) {
            return edges.0.saturating_add(u32::from(code) + 1); // no code below is left out
        }
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
    pub(crate) fn step(&self, nodes: &[u32], codes: &[u16]) -> Vec<u32> {
        let edges: Vec<_> = nodes.iter().map(|&node| self.edges(node)).collect();
        edges.iter().zip(codes).map(|(&edges, &code)| self.search(edges, code)).collect()
    }

    /// Do something with every code that may follow each node. O(B K).
    pub(crate) fn each<T>(
        &self,
        nodes: &[u32],
        outs: impl Iterator<Item = T>,
        mut work: impl FnMut(&mut T, usize),
    ) {
        let edges: Vec<_> = nodes.iter().map(|&node| self.edges(node)).collect();
        for (&edges, mut out) in edges.iter().zip(outs) {
            self.between(edges).iter().for_each(|code| work(&mut out, usize::from(code.get())));
        }
    }

    /// O(B (L log K + K)).
    pub(crate) fn allowed(&self, prefixes: &[u16], n_prefixes: usize, depth: usize) -> Allowed {
        let mut nodes = vec![NONE; n_prefixes];
        for (block, nodes) in nodes.chunks_mut(BLOCK).enumerate() {
            let start = block * BLOCK * depth;
            self.walk(&prefixes[start..start + nodes.len() * depth], depth, nodes);
        }
        let edges: Vec<_> = nodes.iter().map(|&node| self.edges(node)).collect();
        let mut offsets = Vec::with_capacity(n_prefixes + 1);
        offsets.push(0);
        let mut n_codes = 0;
        for &edges in &edges {
            n_codes += self.between(edges).len();
            offsets.push(n_codes as i64);
        }
        let mut codes = Vec::with_capacity(n_codes);
        for &edges in &edges {
            codes.extend(self.between(edges).iter().map(|code| code.get()));
        }
        Allowed { offsets, codes }
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
                *node = self.search(edges, code);
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
