//! The parts of mql4grec that branch or walk over integers and trees: finding and resolving
//! collisions of semantic IDs, and the trie of the semantic IDs that exist.
//!
//! An item has one code per level; its L codes are its semantic ID. Everything here takes slices and
//! numbers, knows neither Python nor files, never panics, and gives the same output for the same
//! input on every machine. `python` alone knows numpy.
//!
//! The letters: N items, L levels (2 to 8), K codes per level (up to 65,536), E numbers per latent,
//! B entries per batch, M rows that move.
#![deny(unsafe_code)]
// Mapping a file and lending memory to numpy are unsafe by their nature, and only the binding does so.
#![cfg_attr(not(feature = "python"), forbid(unsafe_code))]

mod assignment;
pub mod codes;
pub mod collision;
pub mod distances;
pub mod error;
pub mod interrupt;
mod kinds;
mod memory;
mod occupancy;
#[cfg(feature = "python")]
mod python;
mod search;
mod sorting;
mod suspects;
mod threads;
pub mod trie;
pub mod trie_file;

pub use error::{Error, Result};
