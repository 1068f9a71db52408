//! Decimal numbers of any size, for comparison only: sign, digits without zeros at either end, and
//! the power of ten of the first digit.

use std::cmp::Ordering;
use std::fmt;

use super::parts::{read_array, read_slice, write_slice};

/// A `numeric` in canonical form, ordered as in Postgres: `-Infinity`, numbers, `Infinity`, `NaN`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numeric {
    /// -2: negative infinity, -1, 0, 1: the sign of a number, 2: infinity, 3: `NaN`.
    class: i8,
    /// The number is `0.d₁d₂d₃… × 10^exponent`.
    exponent: i64,
    digits: Box<[u8]>,
}

/// The most digits that Postgres stores before the point.
const MOST_WHOLE_DIGITS: i64 = 131_072;
/// The most digits that it stores after the point.
const MOST_FRACTION_DIGITS: i64 = 16_383;

impl Numeric {
    pub(super) fn parse(text: &str) -> Option<Numeric> {
        let special = |class| Numeric { class, exponent: 0, digits: Box::default() };
        match text {
            "NaN" => return Some(special(3)),
            "Infinity" => return Some(special(2)),
            "-Infinity" => return Some(special(-2)),
            _ => {}
        }
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let all = whole.bytes().chain(fraction.bytes());
        if !all.clone().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits: Vec<u8> = all.map(|byte| byte - b'0').collect();
        let Some(first) = digits.iter().position(|digit| *digit != 0) else {
            return Some(special(0));
        };
        let last = digits.iter().rposition(|digit| *digit != 0)?;
        let exponent = whole.len() as i64 - first as i64 + i64::from(power);
        let digits = &digits[first..=last];
        if exponent > MOST_WHOLE_DIGITS || digits.len() as i64 - exponent > MOST_FRACTION_DIGITS {
            return None;
        }
        Some(Numeric { class: if negative { -1 } else { 1 }, exponent, digits: digits.into() })
    }

    pub(super) fn write(&self, into: &mut Vec<u8>) {
        into.push(self.class as u8);
        into.extend_from_slice(&self.exponent.to_le_bytes());
        write_slice(into, &self.digits);
    }

    /// `None` unless it is in canonical form: two forms of one number would not be equal.
    pub(super) fn read(from: &mut &[u8]) -> Option<Numeric> {
        let class = i8::from_le_bytes(read_array(from)?);
        let exponent = i64::from_le_bytes(read_array(from)?);
        let digits = read_slice(from)?;
        let canonical = match class {
            -1 | 1 => {
                digits.iter().all(|digit| *digit < 10)
                    && digits.first().is_some_and(|digit| *digit != 0)
                    && digits.last().is_some_and(|digit| *digit != 0)
                    && exponent <= MOST_WHOLE_DIGITS
                    && exponent >= digits.len() as i64 - MOST_FRACTION_DIGITS
            }
            -2 | 0 | 2 | 3 => exponent == 0 && digits.is_empty(),
            _ => false,
        };
        canonical.then(|| Numeric { class, exponent, digits: digits.into() })
    }
}

impl From<i64> for Numeric {
    fn from(number: i64) -> Numeric {
        let text = number.unsigned_abs().to_string();
        let digits = text.trim_end_matches('0').bytes().map(|byte| byte - b'0');
        let exponent = if number == 0 { 0 } else { text.len() as i64 };
        Numeric { class: number.signum() as i8, exponent, digits: digits.collect() }
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Numeric) -> Ordering {
        let magnitude =
            || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        self.class.cmp(&other.class).then_with(|| match self.class {
            1 => magnitude(),
            -1 => magnitude().reverse(),
            _ => Ordering::Equal,
        })
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Numeric) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            -2 => f.write_str("-Infinity"),
            0 => f.write_str("0"),
            2 => f.write_str("Infinity"),
            3 => f.write_str("NaN"),
            sign => {
                let digits: String = self.digits.iter().map(|d| char::from(b'0' + d)).collect();
                let sign = if sign < 0 { "-" } else { "" };
                let exponent = self.exponent - self.digits.len() as i64;
                write!(f, "{sign}{digits}e{exponent}")
            }
        }
    }
}
