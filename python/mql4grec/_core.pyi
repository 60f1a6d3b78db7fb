"""Rust core: collisions of semantic IDs and the trie of those that exist.

Letters: N items, L levels (2 to 8), K codes per level (up to 65,536), E numbers per latent, B
entries per batch, M rows that move. Arrays must have the dtype stated (`TypeError` otherwise);
every other misuse is a `ValueError`, and memory that cannot be had a `MemoryError`. The GIL is
released while a call works; where that may take long, a signal is handled within a tenth of a
second, and what its handler raises (`KeyboardInterrupt` for Ctrl-C) ends the call. The same input
gives the same output on every machine. A trie reads copies of its arguments, and the resolver
copies of codes, keys and rows: other threads may write into the arrays meanwhile.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CodeTrie",
    "count_prefixes",
    "find_collisions",
    "resolve_collisions",
    "resolve_collisions_from_latents",
]

def find_collisions(
    codes: NDArray[np.uint16], /, *, n_threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows that share a semantic ID.

    Args:
        codes: uint16 (N, L).
        n_threads: At most so many; None: as many as there are cores.

    Returns:
        Groups of two or more rows in the order of their codes, rows ascending: offsets int64
        (groups + 1) and rows int64; group g is `rows[offsets[g]:offsets[g + 1]]`.
    """

def count_prefixes(codes: NDArray[np.uint16], /, *, n_threads: int | None = None) -> list[int]:
    """Count the distinct prefixes of 1 to L codes (L).

    Args:
        codes: uint16 (N, L).
        n_threads: At most so many; None: as many as there are cores.
    """

def resolve_collisions(
    codes: NDArray[np.uint16],
    distances: NDArray[np.float32],
    /,
    *,
    policy: Literal["paper", "nearest", "optimal"] = "paper",
    keep: Literal["nearest", "max_loss"] = "nearest",
    reassign: Literal["movers", "colliding"] = "movers",
    open_levels: int = 2,
    keys: NDArray[np.uint64] | None = None,
    frozen: NDArray[np.bool_] | None = None,
    rows: NDArray[np.int64] | None = None,
    n_codes: Sequence[int] | None = None,
    n_threads: int | None = None,
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.float32]]:
    """Give every row codes of its own, by given distances.

    One row of each group that shares a semantic ID keeps it, and the others move within their
    bucket: the rows that share the first L - `open_levels` codes. Buckets know nothing of each
    other. In a bucket, groups choose in the order of their codes, rows of a group by rank. Rows
    for which their bucket has no room are placed last, one after the other, each below the longest
    prefix of its own codes that has room.

    Whatever the settings: all rows end up distinct whenever N is at most the product of K; rows
    that share nothing and frozen rows never move; with `reassign="movers"` as few rows move as
    have to; running it again changes nothing; ties go to the lower code, then the lower key, then
    the lower row.

    The error of a row is the sum of its distances over the levels. Once a row changes a code above
    its last level, the distances given for its deeper levels are stale: they are used as they are.
    `resolve_collisions_from_latents` is exact there.

    Args:
        codes: uint16 (N, L).
        distances: Squared distances of each row to every code of each level, float32 (N, L, K), or
            (R, L, K) with `rows`. Only rows that share a semantic ID are looked at; an array that
            does not lie in C order is copied first.
        policy: `"paper"`, the published rule: the nearest free code of the last level; if there is
            none, the nearest code one level higher below which there is room, and the nearest
            from there down; and so on upwards. `"nearest"`: the free semantic ID of the bucket
            with the least error, one row after the other. `"optimal"`: all movers of a bucket
            together, with the least total error; exact for up to 1,024 movers in a bucket, then in
            blocks of so many. Of several assignments as good, which one is not promised, only that
            it is always the same.
        keep: Who keeps the codes: `"nearest"`, the row with the least distance at the last level;
            `"max_loss"`, the row whose error would grow most by moving.
        reassign: `"movers"`: all but one row of each group move. `"colliding"`, with `"optimal"`
            only: all rows of groups without a frozen row are assigned, to their old codes too.
        open_levels: How many of the last levels may change from the start, 2 to 8; those above
            change only where a bucket is full. L or more: any free semantic ID.
        keys: Order among rows of the same rank, uint64 (N); the row numbers if None. With distinct
            keys, the result does not depend on the order of the rows.
        frozen: Rows that keep their codes, bool (N). A frozen row in a group is the one that keeps.
        rows: For which rows there are numbers, ascending, int64 (R): at least all that share a
            semantic ID and are not frozen. None: for all N. No difference to the result.
        n_codes: K of each level (L), the largest being K of `distances`; that for all if None.
        n_threads: At most so many; None: as many as there are cores. No difference to the result.

    Returns:
        Codes uint16 (N, L); the rows that moved, ascending, int64 (M); the error that each of them
        gained, negative if it lost some, float32 (M) (exact if only the last level changed).

    Raises:
        ValueError: If shapes do not fit, a code is not below its level's K, a row that is looked at
            has NaN or infinity or is not in `rows`, two frozen rows share codes, N is above the
            product of K, or a setting is not one of those above.
    """

def resolve_collisions_from_latents(
    codes: NDArray[np.uint16],
    latents: NDArray[np.float32],
    codebooks: Sequence[NDArray[np.float32]],
    /,
    *,
    policy: Literal["paper", "nearest", "optimal"] = "paper",
    keep: Literal["nearest", "max_loss"] = "nearest",
    reassign: Literal["movers", "colliding"] = "movers",
    open_levels: int = 2,
    keys: NDArray[np.uint64] | None = None,
    frozen: NDArray[np.bool_] | None = None,
    rows: NDArray[np.int64] | None = None,
    n_threads: int | None = None,
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.float32]]:
    """Give every row codes of its own, by distances computed for the rows that share.

    Settings and guarantees are those of `resolve_collisions`. The residual at a level is the latent
    minus the vectors of the codes above it, so that distances are exact for whatever prefix a row
    moves to; the error of a row is the squared norm of what all its codes leave, summed in float64.

    Args:
        codes: uint16 (N, L).
        latents: float32 (N, E), or (R, E) with `rows`. Only rows that share a semantic ID are
            looked at.
        codebooks: One float32 (K, E) per level; K may differ.
        policy: As in `resolve_collisions`.
        keep: As in `resolve_collisions`.
        reassign: As in `resolve_collisions`.
        open_levels: As in `resolve_collisions`.
        keys: As in `resolve_collisions`, uint64 (N).
        frozen: As in `resolve_collisions`, bool (N).
        rows: As in `resolve_collisions`, int64 (R).
        n_threads: As in `resolve_collisions`.

    Returns:
        As `resolve_collisions`; the gained errors are exact.

    Raises:
        ValueError: As `resolve_collisions`, or if a codebook has NaN or infinity.
    """

@final
class CodeTrie:
    """The trie of the semantic IDs that exist; never changes once built.

    A node is a number: 0 the root, -1 no node at all, from which no step leads anywhere. Tries know
    nothing of each other: text and picture codes of one catalog, and several shops, have one each.
    """

    def __new__(
        cls, codes: NDArray[np.uint16], n_codes: Sequence[int], *, n_threads: int | None = None
    ) -> CodeTrie:
        """Build the trie.

        Args:
            codes: uint16 (N, L), rows distinct.
            n_codes: K of each level (L).
            n_threads: At most so many; None: as many as there are cores.

        Raises:
            ValueError: If two rows are alike, or a code is not below its level's K.
        """

    @staticmethod
    def load(path: str | PathLike[str], /, *, verify: bool = False) -> CodeTrie:
        """Map the file that `save` wrote: its arrays are read where they lie, when they are asked.

        The file must not be written into while the trie is in use; `save` replaces it instead.

        Args:
            path: The file.
            verify: Read all of it and check that nothing was changed and nothing contradicts
                itself. Otherwise only the header and the length are checked, and a file damaged
                behind its header gives wrong answers.

        Raises:
            OSError: If the file cannot be read, or is no regular file.
            ValueError: If it is no trie, of another version, cut off or changed.
        """

    def save(self, path: str | PathLike[str], /) -> None:
        """Write the trie to a file, which is replaced once all is written and safe on the disk.

        Raises:
            OSError: If the file cannot be written, or there is something that is no regular file:
                a link, a folder, a device, a pipe.
        """

    @property
    def root(self) -> int:
        """Node of the empty prefix."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    @property
    def n_levels(self) -> int:
        """Number of levels L."""

    @property
    def n_nodes(self) -> int:
        """Number of nodes, root and leaves included."""

    @property
    def n_codes(self) -> list[int]:
        """Number of codes K of each level."""

    @property
    def levels(self) -> list[int]:
        """First node of each depth from 0 to L, and one after the last leaf (L + 2)."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes, mapped or not: arrays, table, marks of the first levels, header."""

    def arrays(
        self,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint32]]:
        """View the arrays, for walking the trie elsewhere (on a GPU).

        Nothing is copied: the views are read-only, and keep the trie alive.

        Returns:
            Offsets uint32 (inner nodes + 1): the children of node n are the nodes `offsets[n] + 1`
            to `offsets[n + 1]`. Codes (nodes - 1), uint8 if every K is at most 256 and uint16
            otherwise: `codes[n - 1]` leads to node n. Rows uint32 (items): the rows of the leaves,
            which are the last nodes.
        """

    def table(self) -> NDArray[np.uint32] | None:
        """View the table of nodes after the first codes, read-only and without a copy.

        Returns:
            uint32 (K of the first level, K of the second), 0 where no item begins so; (K of the
            first level) where the two are many for so few items; None where the first is, too.
        """

    def allowed(
        self, prefixes: NDArray[np.uint16], /
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """List the codes that may follow each prefix, ascending.

        Args:
            prefixes: uint16 (B, l) with l from 0 to L.

        Returns:
            Offsets int64 (B + 1) and codes uint16; those of prefix i are
            `codes[offsets[i]:offsets[i + 1]]`, none for an unknown or a whole one.
        """

    def mask(self, nodes: NDArray[np.int64], level: int | None = None) -> NDArray[np.bool_]:
        """Mark the codes that may follow each node.

        Args:
            nodes: int64 (B), all of one level, or -1.
            level: That level, from 0; None: told by the nodes.

        Returns:
            bool (B, K of the level), all False after -1.

        Raises:
            ValueError: If nodes are of different levels or leaves, or all are -1 and `level` is
                None.
        """

    def mask_bits(self, nodes: NDArray[np.int64], level: int | None = None) -> NDArray[np.uint8]:
        """Mark the codes that may follow each node, eight to a byte.

        Args:
            nodes: As for `mask`.
            level: As for `mask`.

        Returns:
            uint8 (B, ceil(K / 8)): code c is bit c % 8, the lowest first, of byte c // 8, as
            `np.packbits(mask, axis=1, bitorder="little")` has it.

        Raises:
            ValueError: As `mask`.
        """

    def step(self, nodes: NDArray[np.int64], codes: NDArray[np.uint16], /) -> NDArray[np.int64]:
        """Follow one code from each node.

        Args:
            nodes: int64 (B).
            codes: uint16 (B).

        Returns:
            Nodes int64 (B), -1 where no item has that prefix.
        """

    def find(
        self, codes: NDArray[np.uint16], /, *, n_threads: int | None = None
    ) -> NDArray[np.int64]:
        """Find the row of each semantic ID.

        Args:
            codes: uint16 (B, L).
            n_threads: At most so many, for large batches; None: as many as there are cores.

        Returns:
            int64 (B), -1 where no item has it.
        """

    def restrict(
        self, rows: NDArray[np.int64] | NDArray[np.bool_], /, *, n_threads: int | None = None
    ) -> CodeTrie:
        """Cut out the trie of some items; `find` still gives the original rows.

        Args:
            rows: int64 rows in any order, or a mark per row of the original codes, bool (N). Rows
                that an earlier `restrict` left out stay out.
            n_threads: At most so many; None: as many as there are cores.

        Raises:
            ValueError: If a row is none of the original codes, or a loaded file that was not
                verified contradicts itself.
        """
