//! Constant intervals as Postgres reads them, of which each is always as long: in UTC a day has 24 hours. A month has not always
//! as many days, and is told apart.

/// The longest interval, some 10,000 years, in microseconds.
const LONGEST_US: i128 = 315_576_000_000_000_000;

/// Why a text is no interval that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntervalProblem {
    /// It names months, or years.
    Months,
    /// It is longer than any use of it.
    TooLong,
    /// It is none, or is written in a way that is not read here.
    Unknown,
}

/// The microseconds of an interval: `24 hours`, `1 day 02:30`, `-90 minutes`, `2 weeks ago`.
pub(super) fn parse(text: &str) -> Result<i64, IntervalProblem> {
    use IntervalProblem::{Months, TooLong, Unknown};
    let text = text.to_ascii_lowercase();
    let mut words = text.split_ascii_whitespace().peekable();
    let (mut total, mut has_any, mut is_ago) = (0_i128, false, false);
    while let Some(word) = words.next() {
        if is_ago {
            return Err(Unknown);
        }
        if word == "ago" && has_any {
            is_ago = true;
            continue;
        }
        if word.contains(':') {
            total += time(word).ok_or(Unknown)?;
            has_any = true;
            continue;
        }
        let is_of_number = |c: char| c.is_ascii_digit() || "+-.".contains(c);
        let end = word.find(|c| !is_of_number(c)).unwrap_or(word.len());
        let (number, mut unit) = word.split_at(end);
        if unit.is_empty() {
            unit = words.next().ok_or(Unknown)?;
        }
        let millionths = number_in_millionths(number).ok_or(Unknown)?;
        let us = unit_us(unit).ok_or(Unknown)?.ok_or(Months)?;
        let product = millionths.checked_mul(us).ok_or(TooLong)?;
        if product % 1_000_000 != 0 {
            return Err(Unknown);
        }
        total += product / 1_000_000;
        has_any = true;
    }
    if !has_any {
        return Err(Unknown);
    }
    if total.abs() > LONGEST_US {
        return Err(TooLong);
    }
    i64::try_from(if is_ago { -total } else { total }).map_err(|_| TooLong)
}

/// How long a unit is; `None` within where that depends on which it is.
fn unit_us(unit: &str) -> Option<Option<i128>> {
    const SECOND: i128 = 1_000_000;
    Some(match unit {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => Some(1),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Some(1_000),
        "s" | "sec" | "secs" | "second" | "seconds" => Some(SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60 * SECOND),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3_600 * SECOND),
        "d" | "day" | "days" => Some(86_400 * SECOND),
        "w" | "week" | "weeks" => Some(604_800 * SECOND),
        "mon" | "mons" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years" | "decade"
        | "decades" | "century" | "centuries" => None,
        _ => return None,
    })
}

/// `hh:mm` or `hh:mm:ss`, with a sign and a fraction.
fn time(word: &str) -> Option<i128> {
    let (sign, word) = match word.as_bytes().first()? {
        b'-' => (-1, &word[1..]),
        b'+' => (1, &word[1..]),
        _ => (1, word),
    };
    let mut parts = word.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    let is_whole = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if parts.next().is_some() || !is_whole(hours) || !is_whole(minutes) {
        return None;
    }
    let (hours, minutes): (i128, i128) = (hours.parse().ok()?, minutes.parse().ok()?);
    let us = number_in_millionths(seconds).filter(|us| (0..60_000_000).contains(us))?;
    let is_time = minutes < 60 && hours < 1_000_000_000 && !seconds.starts_with(['+', '-']);
    is_time.then_some(sign * ((hours * 60 + minutes) * 60_000_000 + us))
}

/// A decimal number with up to six digits behind the point.
fn number_in_millionths(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if digits.len() < 1 + usize::from(digits.contains('.'))
        || whole.len() > 18
        || fraction.len() > 6
        || !are_digits(whole)
        || !are_digits(fraction)
    {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = format!("{fraction:0<6}").parse().ok()?;
    Some(sign * (whole * 1_000_000 + fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_postgres_reads_them() {
        const HOUR: i64 = 3_600_000_000;
        let read = [
            ("24 hours", 24 * HOUR),
            ("1 day", 24 * HOUR),
            ("1day", 24 * HOUR),
            ("1.5 days", 36 * HOUR),
            ("1 week 2 days -03:30", 213 * HOUR - HOUR / 2),
            ("24:00:00", 24 * HOUR),
            ("00:00:00.5", 500_000),
            ("-90 minutes", -HOUR * 3 / 2),
            ("90 min ago", -HOUR * 3 / 2),
            ("1h 30m", HOUR * 3 / 2),
            ("250 ms", 250_000),
            ("  2 HOURS ", 2 * HOUR),
            ("-.5 sec", -500_000),
        ];
        for (text, us) in read {
            assert_eq!(parse(text), Ok(us), "{text}");
        }
    }

    #[test]
    fn what_is_no_interval_is_told_from_months() {
        for text in ["1 month", "2 years 1 day", "3mons"] {
            assert_eq!(parse(text), Err(IntervalProblem::Months), "{text}");
        }
        for text in
            ["", "day", "1", "ago", "1 day ago ago", "1:2:3:4", "00:61", "1 fortnight", "-", "."]
        {
            assert_eq!(parse(text), Err(IntervalProblem::Unknown), "{text}");
        }
        assert_eq!(parse("20000000 days"), Err(IntervalProblem::TooLong));
        assert_eq!(parse("999999999999999999 weeks"), Err(IntervalProblem::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn reading_is_total(text in "\\PC{0,30}") {
            let _ = parse(&text);
        }
    }
}
