//! The binary: hands the arguments to the command they name.
#![forbid(unsafe_code)]

fn main() {}
