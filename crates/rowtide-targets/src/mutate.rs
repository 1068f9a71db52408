//! Mutations of inputs: of bits and bytes, of the numbers that lengths are, of pieces, and of what texts are made of:
//! words that the target knows, brackets that nest, numbers at their limits. They know no format, but what they do
//! keeps the form of most of them.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// The longest input that is made, in bytes.
const MAX_INPUT: usize = 64 << 10;

const NUMBERS: [&[u8]; 14] = [
    b"0",
    b"-1",
    b"1e308",
    b"1e-308",
    b"-0",
    b"0.5",
    b"9007199254740993",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"-9223372036854775809",
    b"1e999",
    b"NaN",
    b"00",
];
const TEXTS: [&[u8]; 12] = [
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xc3",
    "é".as_bytes(),
    "\u{202e}".as_bytes(),
];
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Another input, made of `seed` and of pieces of `other`.
pub(crate) fn mutate(rng: &mut SmallRng, seed: &[u8], other: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    // Most often one thing is wrong, sometimes many are.
    let count = 1 << rng.random_range(0..4_u32).min(rng.random_range(0..4));
    for _ in 0..count {
        once(rng, &mut bytes, other, words);
        bytes.truncate(MAX_INPUT);
    }
    bytes
}

fn once(rng: &mut SmallRng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let place = |rng: &mut SmallRng, bytes: &[u8]| rng.random_range(0..=bytes.len());
    let range = |rng: &mut SmallRng, bytes: &[u8]| {
        let from = rng.random_range(0..=bytes.len());
        from..rng.random_range(from..=bytes.len().min(from + 64))
    };
    let at = place(rng, bytes);
    match rng.random_range(0..13) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(range(rng, bytes))),
        4 => {
            let piece = bytes[range(rng, bytes)].to_vec();
            insert(bytes, at, &piece);
        }
        5 => {
            let piece = &other[range(rng, other)];
            insert(bytes, at, piece);
        }
        6 => {
            let from = place(rng, other);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        7 => {
            let edge = EDGES.choose(rng).copied().unwrap_or_default();
            let width = [1, 2, 4, 8].choose(rng).copied().unwrap_or(1);
            let big = edge.to_be_bytes();
            let little = edge.to_le_bytes();
            let number = if rng.random() { &big[8 - width..] } else { &little[..width] };
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number.iter().copied());
        }
        8 => {
            let all = [&NUMBERS[..], &TEXTS[..], words].concat();
            let word = all.choose(rng).copied().unwrap_or_default();
            insert(bytes, at, word);
        }
        9 => replace_token(rng, bytes, words),
        10 => {
            let (open, close) = [(b'[', b']'), (b'{', b'}'), (b'(', b')'), (b'"', b'"')]
                .choose(rng)
                .copied()
                .unwrap_or((0, 0));
            let depth = 1 << rng.random_range(0..9_u32);
            insert(bytes, at, &vec![close; depth]);
            let from = rng.random_range(0..=at);
            insert(bytes, from, &vec![open; depth]);
        }
        11 if bytes.len() > 1 => {
            let to = rng.random_range(0..bytes.len());
            bytes.swap(at.min(to), to);
        }
        _ => {
            let piece = bytes[range(rng, bytes)].to_vec();
            for _ in 0..rng.random_range(0..64) {
                insert(bytes, at, &piece);
            }
        }
    }
}

/// Puts something else in the place of a number or a word.
fn replace_token(rng: &mut SmallRng, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-+".contains(byte);
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|at| is_token(&bytes[*at]) && (*at == 0 || !is_token(&bytes[at - 1])))
        .collect();
    let Some(start) = starts.choose(rng).copied() else { return };
    let end = start + bytes[start..].iter().take_while(|byte| is_token(byte)).count();
    let all = [&NUMBERS[..], &TEXTS[..], words].concat();
    let word = all.choose(rng).copied().unwrap_or_default();
    bytes.splice(start..end, word.iter().copied());
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if bytes.len() + piece.len() <= MAX_INPUT {
        bytes.splice(at..at, piece.iter().copied());
    }
}
