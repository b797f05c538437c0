//! The fuzzer's targets without the fuzzer: their seeds, and the same mutations of them each time.
//!
//! `cargo fuzz-short` takes seconds; `FUZZ_ROUNDS=100000 cargo test --release --test suite fuzz::` as long as you
//! like. An input that fails is kept in a file that the message names; once mended, it goes to
//! `fuzz/seeds/TARGET/`.
//!
//! The fuzzer proper, with cargo-fuzz and a stable compiler: `mkdir -p fuzz/corpus/TARGET`, then
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run -s none --no-trace-compares TARGET fuzz/corpus/TARGET fuzz/seeds/TARGET --
//! -runs=10000000 -max_len=128`. Comparisons are not traced because that takes more than half of the time.

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

use std::panic::catch_unwind;
use std::path::Path;

use fastrand::Rng;

/// Mutated inputs of each target, unless `FUZZ_ROUNDS` says otherwise.
const ROUNDS: u64 = 1500;
/// Mutated inputs are no longer than this, or than their seed.
const LONGEST: usize = 2048;

/// All seeds of a target, in order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A few small changes of one seed, some of them with pieces of another.
fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.choice(seeds).cloned().unwrap_or_default();
    let longest = LONGEST.max(input.len());
    for _ in 0..1 << rng.u32(0..5) {
        let at = rng.usize(0..=input.len());
        let end = (at + (1 << rng.u32(0..7))).min(input.len());
        match rng.u32(0..9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << rng.u32(0..8),
            2 if at < input.len() => input[at] = rng.u8(..),
            3 => input.insert(at, *rng.choice(b"\0\n\r\t \"'%&+,-/09:;<=>A[]az{}\x7f\xff").unwrap()),
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                let to = rng.usize(0..=input.len());
                input.splice(to..to, again);
            }
            6 | 7 => {
                let other = rng.choice(seeds).unwrap();
                let from = rng.usize(0..=other.len());
                let piece = other[from..(from + (1 << rng.u32(0..7))).min(other.len())].to_vec();
                let replaced = if rng.bool() { end } else { at };
                input.splice(at..replaced, piece);
            }
            _ => input.extend((0..rng.usize(0..16)).map(|_| rng.u8(..))),
        }
    }
    input.truncate(longest);
    input
}

/// Checks one input; one that fails is kept and told.
fn try_one(target: &str, check: fn(&[u8]), input: &[u8], which: &str) {
    if catch_unwind(|| check(input)).is_err() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
        let kept = std::fs::write(&file, input);
        panic!(
            "{target}, {which}: see above; kept in {} ({kept:?}):\n{}",
            file.display(),
            input.escape_ascii()
        );
    }
}

fn fuzz(target: &str, check: fn(&[u8])) {
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let seeds = seeds(target);
    try_one(target, check, b"", "nothing at all");
    for (number, seed) in seeds.iter().enumerate() {
        try_one(target, check, seed, &format!("seed {number}"));
    }
    for round in 0..rounds {
        let input = mutated(&mut Rng::with_seed(round), &seeds);
        try_one(target, check, &input, &format!("round {round}"));
    }
}

#[test]
fn callbacks() {
    fuzz("callback", bodies::callback::check);
}

#[test]
fn envelopes() {
    fuzz("envelope", bodies::envelope::check);
}

#[test]
fn messages() {
    fuzz("message", bodies::message::check);
}

#[test]
fn configurations() {
    fuzz("config", bodies::config::check);
}

#[test]
fn answers() {
    fuzz("answers", bodies::answers::check);
}

#[test]
fn merges() {
    fuzz("merge", bodies::merge::check);
}

#[test]
fn heads() {
    fuzz("head", bodies::head::check);
}

#[test]
#[should_panic(expected = "round")]
fn an_input_that_fails_is_found_and_told() {
    // Fails for what some mutation of some seed has, and no seed.
    fuzz("head", |input| assert!(!input.windows(2).any(|pair| pair == b"\r\r"), "planted"));
}
