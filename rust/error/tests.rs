//! Every message, word for word.

use super::Error;

/// The names of all variants. The match has no wildcard: a new variant does not compile until it is
/// here, and then fails below until its message is.
fn name(error: &Error) -> &'static str {
    match error {
        Error::Levels { .. } => "Levels",
        Error::LevelSize { .. } => "LevelSize",
        Error::LevelCount { .. } => "LevelCount",
        Error::Choice { .. } => "Choice",
        Error::RowList { .. } => "RowList",
        Error::RowMissing { .. } => "RowMissing",
        Error::Shape { .. } => "Shape",
        Error::CodeRange { .. } => "CodeRange",
        Error::NotFinite { .. } => "NotFinite",
        Error::CodebookNotFinite { .. } => "CodebookNotFinite",
        Error::FrozenCollision { .. } => "FrozenCollision",
        Error::TooManyItems { .. } => "TooManyItems",
        Error::Interrupted => "Interrupted",
        Error::DuplicateRows { .. } => "DuplicateRows",
        Error::TooManyNodes { .. } => "TooManyNodes",
        Error::PrefixLength { .. } => "PrefixLength",
        Error::BatchLength { .. } => "BatchLength",
        Error::NoSuchNode { .. } => "NoSuchNode",
        Error::NoSuchLevel { .. } => "NoSuchLevel",
        Error::MixedLevels { .. } => "MixedLevels",
        Error::NoLevel => "NoLevel",
        Error::RowRange { .. } => "RowRange",
        Error::Memory { .. } => "Memory",
        Error::NotATrie => "NotATrie",
        Error::FileVersion { .. } => "FileVersion",
        Error::FileLength { .. } => "FileLength",
        Error::Checksum { .. } => "Checksum",
        Error::Inconsistent { .. } => "Inconsistent",
    }
}
const N_VARIANTS: usize = 28;

fn table() -> Vec<(Error, &'static str)> {
    let text = str::to_owned;
    vec![
        (Error::Levels { what: "codes", got: 9 }, "`codes`: expected 2 to 8 levels, got 9"),
        (
            Error::LevelSize { level: 1, got: 0 },
            "`n_codes`: expected 1 to 65536 codes at level 1, got 0",
        ),
        (
            Error::LevelCount { what: "codebooks", expected: 4, got: 3 },
            "`codebooks`: expected 4 entries, one per level, got 3",
        ),
        (
            Error::Choice {
                what: "policy",
                expected: "'paper', 'nearest' or 'optimal'",
                got: text("'best'"),
            },
            "`policy`: expected 'paper', 'nearest' or 'optimal', got 'best'",
        ),
        (
            Error::RowList { n_rows: 9, got: 12, place: 3 },
            "`rows`: expected ascending rows below 9, got 12 at place 3",
        ),
        (
            Error::RowMissing { row: 5 },
            "`rows`: expected every row that shares its codes and is not frozen, row 5 is missing",
        ),
        (
            Error::Shape {
                what: text("distances"),
                expected: text("(12101, 4, 256)"),
                got: text("(12101, 4, 128)"),
            },
            "`distances`: expected shape (12101, 4, 256) to match `codes`, got (12101, 4, 128)",
        ),
        (
            Error::CodeRange { row: 7, level: 3, code: 300, n_codes: 256 },
            "`codes`: expected codes below 256 at level 3, got 300 in row 7",
        ),
        (
            Error::NotFinite { what: "latents", row: 7 },
            "`latents`: expected finite numbers, got NaN or infinity in row 7",
        ),
        (
            Error::CodebookNotFinite { level: 1, code: 5 },
            "`codebooks`: expected finite numbers, got NaN or infinity at level 1, code 5",
        ),
        (
            Error::FrozenCollision { first: 3, second: 8 },
            "`frozen`: expected frozen rows with codes of their own, got rows 3 and 8 with the \
             same codes; unfreeze one of them",
        ),
        (
            Error::TooManyItems { n_items: 300, capacity: 256 },
            "`codes`: expected at most 256 items for the code space, got 300; use more levels or \
             larger codebooks",
        ),
        (Error::Interrupted, "the work was asked to end before it was done"),
        (
            Error::DuplicateRows { first: 3, second: 8 },
            "`codes`: expected rows without duplicates, got the same codes in rows 3 and 8; \
             resolve collisions first",
        ),
        (
            Error::TooManyNodes { got: 4_294_967_296 },
            "`codes`: expected a trie of at most 4294967295 nodes, got 4294967296; use fewer items",
        ),
        (
            Error::PrefixLength { n_levels: 4, got: 5 },
            "`prefixes`: expected at most 4 codes per prefix, got 5",
        ),
        (
            Error::BatchLength { what: "codes", expected: 20, got: 19 },
            "`codes`: expected 20 entries, one per node, got 19",
        ),
        (
            Error::NoSuchNode { position: 2, node: 9, last: 5 },
            "`nodes`: expected -1 to 5, got 9 at position 2",
        ),
        (
            Error::NoSuchLevel { last: 3, got: 4 },
            "`level`: expected 0 to 3, got 4; after the last level nothing follows",
        ),
        (
            Error::MixedLevels { expected: 1, node: 0, got: 0 },
            "`nodes`: expected nodes at level 1, got 0 of level 0; mask one level at a time",
        ),
        (
            Error::NoLevel,
            "`level`: expected a number, got None and no node that tells it; give `level`",
        ),
        (Error::RowRange { n_rows: 3, row: -1 }, "`rows`: expected rows from 0 to below 3, got -1"),
        (
            Error::Memory { n_bytes: 4096 },
            "memory: expected 4096 free bytes, got fewer; give fewer rows at once",
        ),
        (
            Error::NotATrie,
            "trie file: expected it to start with `MQLTRIE` and a version, got something else; \
             save it again",
        ),
        (
            Error::FileVersion { expected: 3, got: 2 },
            "trie file: expected format version 3, got 2; build the trie again and save it",
        ),
        (
            Error::FileLength { expected: 118, got: 72 },
            "trie file: expected 118 bytes, got 72; save it again",
        ),
        (
            Error::Checksum { part: "header", expected: 0xfe, got: 0xff },
            "trie file: expected checksum 00000000000000fe of the header, got 00000000000000ff; \
             save it again",
        ),
        (
            Error::Inconsistent { what: "a row of its own for every item" },
            "trie file: expected a row of its own for every item; save it again",
        ),
    ]
}

#[test]
fn every_variant_has_its_message() {
    let mut names: Vec<&str> = table().iter().map(|(error, _)| name(error)).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), N_VARIANTS);
    for (error, message) in table() {
        assert_eq!(error.to_string(), message);
    }
}
