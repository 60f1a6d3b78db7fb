//! What can be wrong with the input: one variant per cause, each with a message that says what to do.

/// The faults that this crate reports. The binding turns each into a Python exception: a
/// `ValueError`, unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The number of levels L is out of range.
    #[error("`{what}`: expected 2 to 8 levels, got {got}")]
    Levels {
        /// The argument.
        what: &'static str,
        /// Levels given.
        got: usize,
    },
    /// The number of codes K of a level is out of range.
    #[error("`n_codes`: expected 1 to 65536 codes at level {level}, got {got}")]
    LevelSize {
        /// The level.
        level: usize,
        /// Codes given.
        got: usize,
    },
    /// There are not as many entries as there are levels.
    #[error("`{what}`: expected {expected} entries, one per level, got {got}")]
    LevelCount {
        /// The argument.
        what: &'static str,
        /// The levels L of `codes`.
        expected: usize,
        /// Entries given.
        got: usize,
    },
    /// A setting is not one of those that there are.
    #[error("`{what}`: expected {expected}, got {got}")]
    Choice {
        /// The argument.
        what: &'static str,
        /// What there is.
        expected: &'static str,
        /// What was given, written as Python does.
        got: String,
    },
    /// A list of rows is not in order, or has one that is not there.
    #[error("`rows`: expected ascending rows below {n_rows}, got {got} at place {place}")]
    RowList {
        /// The number of rows N.
        n_rows: usize,
        /// The first bad row.
        got: i64,
        /// Its place in the list.
        place: usize,
    },
    /// A list of rows lacks one whose numbers are needed.
    #[error(
        "`rows`: expected every row that shares its codes and is not frozen, row {row} is missing"
    )]
    RowMissing {
        /// The lowest such row.
        row: usize,
    },
    /// An array's shape does not fit `codes`.
    #[error("`{what}`: expected shape {expected} to match `codes`, got {got}")]
    Shape {
        /// The argument.
        what: String,
        /// The shape that fits, written as Python does.
        expected: String,
        /// The shape given.
        got: String,
    },
    /// A code is not below the K of its level.
    #[error("`codes`: expected codes below {n_codes} at level {level}, got {code} in row {row}")]
    CodeRange {
        /// The first bad row.
        row: usize,
        /// Its first bad level.
        level: usize,
        /// The code there.
        code: u16,
        /// K of the level.
        n_codes: usize,
    },
    /// A row that has to be ranked has a number that cannot be ranked.
    #[error("`{what}`: expected finite numbers, got NaN or infinity in row {row}")]
    NotFinite {
        /// The argument.
        what: &'static str,
        /// The first bad row among those that are looked at.
        row: usize,
    },
    /// A codebook has NaN or infinity.
    #[error(
        "`codebooks`: expected finite numbers, got NaN or infinity at level {level}, code {code}"
    )]
    CodebookNotFinite {
        /// The level.
        level: usize,
        /// The first bad code.
        code: usize,
    },
    /// Two rows share a semantic ID, and neither may move.
    #[error(
        "`frozen`: expected frozen rows with codes of their own, got rows {first} and {second} \
         with the same codes; unfreeze one of them"
    )]
    FrozenCollision {
        /// The lower row.
        first: usize,
        /// The higher row.
        second: usize,
    },
    /// There are more items than codes to give.
    #[error(
        "`codes`: expected at most {capacity} items for the code space, got {n_items}; use more \
         levels or larger codebooks"
    )]
    TooManyItems {
        /// Items given.
        n_items: usize,
        /// The product of K over the levels.
        capacity: u128,
    },
    /// The work was asked to end before it was done: a `KeyboardInterrupt`.
    #[error("the work was asked to end before it was done")]
    Interrupted,
    /// A trie needs every item to have codes of its own.
    #[error(
        "`codes`: expected rows without duplicates, got the same codes in rows {first} and \
         {second}; resolve collisions first"
    )]
    DuplicateRows {
        /// The lower row.
        first: usize,
        /// The higher row.
        second: usize,
    },
    /// A trie has more nodes than its 32-bit node ids can number.
    #[error("`codes`: expected a trie of at most 4294967295 nodes, got {got}; use fewer items")]
    TooManyNodes {
        /// Nodes needed, or rows.
        got: usize,
    },
    /// A prefix is longer than a semantic ID.
    #[error("`prefixes`: expected at most {n_levels} codes per prefix, got {got}")]
    PrefixLength {
        /// The levels L of the trie.
        n_levels: usize,
        /// Codes given.
        got: usize,
    },
    /// Two arrays of one batch differ in length.
    #[error("`{what}`: expected {expected} entries, one per node, got {got}")]
    BatchLength {
        /// The argument.
        what: &'static str,
        /// Entries of `nodes`.
        expected: usize,
        /// Entries given.
        got: usize,
    },
    /// A number is no node of the trie.
    #[error("`nodes`: expected -1 to {last}, got {node} at position {position}")]
    NoSuchNode {
        /// Position in the batch.
        position: usize,
        /// The number there.
        node: i64,
        /// The highest node.
        last: usize,
    },
    /// A level has no codes to choose from.
    #[error("`level`: expected 0 to {last}, got {got}; after the last level nothing follows")]
    NoSuchLevel {
        /// The last level, L - 1.
        last: usize,
        /// The level given.
        got: usize,
    },
    /// A node is not at the level that the mask is for.
    #[error("`nodes`: expected nodes at level {expected}, got {node} of level {got}; mask one level at a time")]
    MixedLevels {
        /// The level of the mask.
        expected: usize,
        /// The node.
        node: i64,
        /// Its level.
        got: usize,
    },
    /// No node of the batch says which level is meant.
    #[error("`level`: expected a number, got None and no node that tells it; give `level`")]
    NoLevel,
    /// A row to keep is no row of the codes that the trie was built from.
    #[error("`rows`: expected rows from 0 to below {n_rows}, got {row}")]
    RowRange {
        /// Rows of the codes that the trie was built from.
        n_rows: usize,
        /// The row given.
        row: i64,
    },
    /// Memory that cannot be had: a `MemoryError`.
    #[error("memory: expected {n_bytes} free bytes, got fewer; give fewer rows at once")]
    Memory {
        /// Bytes asked for at once.
        n_bytes: usize,
    },
    /// Bytes that are no trie.
    #[error("trie file: expected it to start with `MQLTRIE` and a version, got something else; save it again")]
    NotATrie,
    /// A trie of another version of the format.
    #[error(
        "trie file: expected format version {expected}, got {got}; build the trie again and save it"
    )]
    FileVersion {
        /// The version that this build reads.
        expected: u8,
        /// The version found.
        got: u8,
    },
    /// A file that was cut off or has something after its end.
    #[error("trie file: expected {expected} bytes, got {got}; save it again")]
    FileLength {
        /// Bytes that the header promises, or that it takes itself.
        expected: u64,
        /// Bytes found.
        got: usize,
    },
    /// A file whose bytes changed after it was written.
    #[error(
        "trie file: expected checksum {expected:016x} of the {part}, got {got:016x}; save it again"
    )]
    Checksum {
        /// What it is of, header or arrays.
        part: &'static str,
        /// The checksum in the file.
        expected: u64,
        /// The checksum of its bytes.
        got: u64,
    },
    /// A file whose numbers do not describe a trie.
    #[error("trie file: expected {what}; save it again")]
    Inconsistent {
        /// What does not hold.
        what: &'static str,
    },
}

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests;
