//! What must hold whatever the bytes are: one file for each target, each with a `check` that panics if it does
//! not. The fuzzer's targets and `tests/fuzz.rs` call the same.
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

/// Draws small choices from the fuzzer's bytes; zeroes when they are used up.
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

    /// A number below `n`, which is 1 to 255.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// What stands before the next `end`, which is dropped; all that is left if there is none.
    pub fn until(&mut self, end: u8) -> &'a [u8] {
        let length = self.0.iter().position(|byte| *byte == end);
        let (taken, rest) = self.0.split_at(length.unwrap_or(self.0.len()));
        self.0 = rest.get(1..).unwrap_or_default();
        taken
    }
}
