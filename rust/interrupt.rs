//! How long work ends early: another thread asks for it, and the work looks now and then.
//!
//! Work that was asked to end may leave any result half done, as nobody will see it: whoever began the
//! work asks `check` before it hands out what came of it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Items of a long list that are worked off between two looks.
pub(crate) const STEP: usize = 1 << 16;

/// A request to end work early, once made never taken back.
///
/// Of three threads, one asked the others to end:
///
/// ```text
/// asked  true      all three see it with their next look
/// ```
#[derive(Debug, Default)]
pub struct Interrupt {
    asked: AtomicBool,
}

/// For work that nobody asks to end.
pub static NEVER: Interrupt = Interrupt { asked: AtomicBool::new(false) };

impl Interrupt {
    /// Ask the work to end. O(1).
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Was it asked to end? A look costs no more than a read from memory. O(1).
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Refuse to hand out what came of work that was asked to end. O(1).
    ///
    /// # Errors
    /// If it was.
    pub fn check(&self) -> Result<()> {
        if self.is_asked() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// A list in pieces of `each`, as many as there are before the work is asked to end.
    pub(crate) fn pieces<'a, T>(
        &'a self,
        list: &'a [T],
        each: usize,
    ) -> impl Iterator<Item = &'a [T]> + 'a {
        list.chunks(each).take_while(|_| !self.is_asked())
    }

    /// Sort numbers; a list that is long is halved first, again and again. O(N log N).
    pub(crate) fn sort<T: Ord>(&self, list: &mut [T]) {
        if list.len() <= STEP * 16 {
            return list.sort_unstable();
        }
        if !self.is_asked() {
            let middle = list.len() / 2;
            let (below, _, above) = list.select_nth_unstable(middle);
            self.sort(below);
            self.sort(above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_on_once_it_was_asked_to_end() {
        let (interrupt, list) = (Interrupt::default(), [1, 2, 3]);
        assert_eq!(interrupt.check(), Ok(()));
        let seen = interrupt.pieces(&list, 1).inspect(|piece| {
            if piece[0] == 2 {
                interrupt.ask();
            }
        });
        assert_eq!(seen.count(), 2);
        assert_eq!(interrupt.check(), Err(Error::Interrupted));
    }

    #[test]
    fn long_lists_are_sorted_like_short_ones() {
        let number = |i: usize| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        for n in [0, 1, 1000, STEP * 70] {
            let mut list: Vec<usize> = (0..n).map(number).collect();
            let mut expected = list.clone();
            expected.sort_unstable();
            Interrupt::default().sort(&mut list);
            assert!(list == expected);
        }
    }
}
