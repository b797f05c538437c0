//! Properties that must hold for any input: one file per fuzz target, each with a `check` that panics on a violation.
//! cargo-fuzz and `tests/suite/fuzz.rs` call the same functions.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    missing_docs
)]

pub mod answers;
pub mod callback;
pub mod config;
pub mod envelope;
pub mod head;
pub mod merge;
pub mod message;

/// Draws choices from the fuzzer's bytes; zeroes after the last byte.
pub struct Draw<'a>(pub &'a [u8]);

impl<'a> Draw<'a> {
    pub fn done(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `n` (1 to 255).
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// One of the words between single spaces.
    pub fn one_of<'w>(&mut self, words: &'w str) -> &'w str {
        let words: Vec<&str> = words.split(' ').collect();
        self.of(&words)
    }

    /// The bytes before the next `end`, which is consumed too; all bytes without one.
    pub fn until(&mut self, end: u8) -> &'a [u8] {
        let length = self.0.iter().position(|byte| *byte == end);
        let (taken, rest) = self.0.split_at(length.unwrap_or(self.0.len()));
        self.0 = rest.get(1..).unwrap_or_default();
        taken
    }
}
