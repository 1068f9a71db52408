//! Dates and times as Postgres prints them under `DateStyle = ISO` and `TimeZone = UTC`, and as ISO
//! 8601 has them. The calendar is proleptic Gregorian; the conversion between days and dates follows
//! Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".

use super::ColumnType;

/// Microseconds or days since 2000, as Postgres counts them: its range fits from there, and not from
/// 1970. The ends of the range are the infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub(super) i64);

const US_PER_DAY: i64 = 86_400_000_000;
/// From 1970 to 2000.
const EPOCH_DAYS: i64 = 10_957;
/// 4714-11-24 BC, in days since 2000: where Postgres' calendar begins.
const FIRST_DAY: i64 = -2_451_545;
/// 5874897-12-31, the last `date`.
const LAST_DAY: i64 = 2_145_031_948;
/// 294276-12-31, the last day of a timestamp.
const LAST_TIMESTAMP_DAY: i64 = 106_751_982;

impl Instant {
    /// Before every moment.
    pub const MINUS_INFINITY: Instant = Instant(i64::MIN);
    const INFINITY: Instant = Instant(i64::MAX);
    const FIRST: Instant = Instant(i64::MIN + 1);
    const LAST: Instant = Instant(i64::MAX - 1);

    /// A moment, in microseconds since 1970 UTC.
    pub fn of_unix_us(us: i64) -> Instant {
        let epoch_us = EPOCH_DAYS * US_PER_DAY;
        Instant(us.saturating_sub(epoch_us)).clamp(Instant::FIRST, Instant::LAST)
    }

    /// The microseconds since 1970 UTC of a moment.
    pub fn unix_us(self) -> i64 {
        self.0.saturating_add(EPOCH_DAYS * US_PER_DAY)
    }

    /// The moment so many microseconds later. The infinities stay what they are, and nothing else becomes one.
    pub fn plus_us(self, us: i64) -> Instant {
        match self.is_finite() {
            true => Instant(self.0.saturating_add(us)).clamp(Instant::FIRST, Instant::LAST),
            false => self,
        }
    }

    /// Whether it is none of the infinities.
    pub fn is_finite(self) -> bool {
        self != Instant::MINUS_INFINITY && self != Instant::INFINITY
    }

    pub(super) fn to_text(self, kind: &ColumnType) -> String {
        match self {
            Instant::INFINITY => return "infinity".to_owned(),
            Instant::MINUS_INFINITY => return "-infinity".to_owned(),
            Instant(_) => {}
        }
        let time_of = |us: i64| {
            let (seconds, us) = (us / 1_000_000, us % 1_000_000);
            let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
            format!("{hour:02}:{minute:02}:{second:02}.{us:06}")
        };
        let date_of = |days: i64| {
            let (year, month, day) = civil_from_days(days + EPOCH_DAYS);
            let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
            (format!("{year:04}-{month:02}-{day:02}"), era)
        };
        match kind {
            ColumnType::Date => {
                let (date, era) = date_of(self.0);
                format!("{date}{era}")
            }
            ColumnType::Time => time_of(self.0),
            _ => {
                let (date, era) = date_of(self.0.div_euclid(US_PER_DAY));
                let zone = if *kind == ColumnType::TimestampTz { "+00" } else { "" };
                format!("{date} {}{zone}{era}", time_of(self.0.rem_euclid(US_PER_DAY)))
            }
        }
    }
}

/// The parts of a date or timestamp, as text, with the year as ISO 8601 counts it.
pub(crate) struct Civil<'a> {
    /// Year 0 is 1 BC.
    pub(crate) year: i64,
    pub(crate) month: &'a str,
    pub(crate) day: &'a str,
    /// What follows the date: the time, and a zone.
    pub(crate) rest: &'a str,
}

/// Takes a date apart, whatever follows it; an era at the end of the text belongs to it.
pub(crate) fn split_date(text: &str) -> Option<Civil<'_>> {
    let (text, bc) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (year, after) = unsigned.split_once('-')?;
    let (month, after) = after.split_once('-')?;
    let digits = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let end = after.bytes().take_while(u8::is_ascii_digit).count();
    let (day, rest) = after.split_at(end);
    if !digits(year, 7) || !digits(month, 2) || !digits(day, 2) {
        return None;
    }
    let year: i64 = year.parse::<i64>().ok()? * sign;
    let year = if bc { 1 - year } else { year };
    Some(Civil { year, month, day, rest })
}

fn days_of(civil: &Civil<'_>) -> Option<i64> {
    let (month, day): (i64, i64) = (civil.month.parse().ok()?, civil.day.parse().ok()?);
    let days = days_from_civil(civil.year, month, day);
    // A day that the month does not have is not read back as itself.
    (civil_from_days(days) == (civil.year, month, day)).then_some(days - EPOCH_DAYS)
}

fn infinity(text: &str) -> Option<Instant> {
    match text {
        "infinity" => Some(Instant::INFINITY),
        "-infinity" => Some(Instant::MINUS_INFINITY),
        _ => None,
    }
}

pub(crate) fn parse_date(text: &str) -> Option<Instant> {
    if let Some(instant) = infinity(text) {
        return Some(instant);
    }
    let civil = split_date(text)?;
    let days = days_of(&civil).filter(|days| (FIRST_DAY..=LAST_DAY).contains(days))?;
    civil.rest.is_empty().then_some(Instant(days))
}

/// `hh:mm:ss`, with up to six digits of a fraction, and what follows.
fn time_of_day(text: &str) -> Option<(i64, &str)> {
    let number = |at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let bytes = text.as_bytes();
    let shape = bytes.get(2) == Some(&b':') && bytes.get(5) == Some(&b':');
    let digits =
        |at: usize| bytes.get(at..at + 2).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
    if !shape || !digits(0) || !digits(3) || !digits(6) {
        return None;
    }
    let (hour, minute, second) = (number(0)?, number(3)?, number(6)?);
    let mut rest = &text[8..];
    let mut us = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=6).contains(&length) {
            return None;
        }
        us = fraction[..length].parse::<i64>().ok()? * 10i64.pow(6 - length as u32);
        rest = &fraction[length..];
    }
    let total = ((hour * 60 + minute) * 60 + second) * 1_000_000 + us;
    (minute < 60 && second < 60 && total <= US_PER_DAY).then_some((total, rest))
}

pub(crate) fn parse_time(text: &str) -> Option<Instant> {
    match time_of_day(text)? {
        (us, "") => Some(Instant(us)),
        _ => None,
    }
}

pub(crate) fn parse_timestamp(text: &str, with_zone: bool) -> Option<Instant> {
    if let Some(instant) = infinity(text) {
        return Some(instant);
    }
    let civil = split_date(text)?;
    let days = days_of(&civil)?;
    let (of_day, zone) = match civil.rest.strip_prefix([' ', 'T']) {
        Some(time) => time_of_day(time)?,
        None => (0, civil.rest),
    };
    let offset = match (with_zone, zone) {
        (false, "") | (true, "" | "Z") => 0,
        (true, zone) => parse_offset(zone)?,
        (false, _) => return None,
    };
    let us = days.checked_mul(US_PER_DAY)?.checked_add(of_day)?.checked_sub(offset)?;
    let range = FIRST_DAY * US_PER_DAY..(LAST_TIMESTAMP_DAY + 1) * US_PER_DAY;
    range.contains(&us).then_some(Instant(us))
}

/// `+hh`, `+hh:mm`, `+hh:mm:ss`, less than 16 hours as in Postgres, in microseconds.
fn parse_offset(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.as_bytes().first()? {
        b'+' => (1, &zone[1..]),
        b'-' => (-1, &zone[1..]),
        _ => return None,
    };
    let mut parts = rest.splitn(3, ':').map(|part| {
        let two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        two.then(|| part.parse::<i64>().ok()).flatten()
    });
    let hours = parts.next()??;
    let minutes = parts.next().unwrap_or(Some(0))?;
    let seconds = parts.next().unwrap_or(Some(0))?;
    if hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(sign * ((hours * 60 + minutes) * 60 + seconds) * 1_000_000)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Microseconds since 1970 as RFC 3339 in UTC.
pub fn rfc3339(us: i64) -> String {
    let (year, month, day) = civil_from_days(us.div_euclid(US_PER_DAY));
    let of_day = us.rem_euclid(US_PER_DAY);
    let (seconds, us) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}
