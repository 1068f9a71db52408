//! Conditions on the present: a column of times beside `now()`, moved by a constant interval. What time it is, is handed in; a
//! row is in, or is not, for a stretch of time whose ends its own value says.

use crate::operand::{Comparison, Operand};
use crate::value::{Instant, Value};

/// `column < now() + offset`, or another of the comparisons that have an order.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeTest {
    /// `<`, `<=`, `>` or `>=`.
    pub comparison: Comparison,
    /// The column, of type `timestamptz`.
    pub column: Operand,
    /// What is added to the present, in microseconds; may be negative.
    pub offset_us: i64,
}

impl TimeTest {
    /// SQL's answer for a value of the column; null for null.
    pub fn judge(&self, value: &Value, now: Instant) -> Option<bool> {
        let order = value.compare(&Value::Time(now.plus_us(self.offset_us)))?;
        Some(self.comparison.holds(order))
    }

    /// The answer for this value is another one at most once: when the present is this moment, or becomes a later one. `None` if it never
    /// is another one.
    pub fn turns_at(&self, value: &Value) -> Option<Instant> {
        match value {
            Value::Time(instant) => instant.is_finite().then(|| instant.plus_us(-self.offset_us)),
            _ => None,
        }
    }

    /// The interval behind `now()` as SQL that means the same in every time zone; empty if there is none.
    pub(crate) fn interval_sql(&self) -> String {
        self.interval(|us| {
            let (seconds, us) = (us / 1_000_000, us % 1_000_000);
            let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
            format!("{hours}:{minutes:02}:{seconds:02}.{us:06}")
        })
    }

    /// As [`TimeTest::interval_sql`], for people.
    pub(crate) fn interval_text(&self) -> String {
        const UNITS: [(u64, &str); 6] = [
            (86_400_000_000, "day"),
            (3_600_000_000, "hour"),
            (60_000_000, "minute"),
            (1_000_000, "second"),
            (1_000, "millisecond"),
            (1, "microsecond"),
        ];
        self.interval(|us| {
            let unit = UNITS.iter().find(|(unit, _)| us.is_multiple_of(*unit));
            let (unit, name) = unit.unwrap_or(&UNITS[5]);
            let count = us / unit;
            format!("{count} {name}{}", if count == 1 { "" } else { "s" })
        })
    }

    fn interval(&self, text: impl Fn(u64) -> String) -> String {
        match self.offset_us {
            0 => String::new(),
            us => {
                let sign = if us < 0 { '-' } else { '+' };
                format!(" {sign} interval '{}'", text(us.unsigned_abs()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::ColumnType;

    fn time(text: &str) -> Value {
        Value::parse(&ColumnType::TimestampTz, text).unwrap()
    }

    fn instant(text: &str) -> Instant {
        match time(text) {
            Value::Time(instant) => instant,
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_answer_turns_once_where_it_is_said_to() {
        use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
        let value = time("2026-03-29 02:30:00+00");
        for comparison in [Less, LessOrEqual, Greater, GreaterOrEqual] {
            for offset_us in [0, -86_400_000_000, 1_500_000] {
                let test = TimeTest { comparison, column: Operand::Column(0), offset_us };
                let at = test.turns_at(&value).unwrap();
                let [before, on, after] = [-1, 0, 1].map(|us| test.judge(&value, at.plus_us(us)));
                assert_ne!(before, after, "{test:?}");
                assert!(on == before || on == after);
                assert_eq!(test.judge(&value, Instant::MINUS_INFINITY), before);
            }
        }
    }

    #[test]
    fn null_is_unknown_and_the_infinities_never_turn() {
        let (comparison, column) = (Comparison::Greater, Operand::Column(0));
        let test = TimeTest { comparison, column, offset_us: -5 };
        let now = instant("2026-01-01 00:00:00+00");
        assert_eq!(test.judge(&Value::Null, now), None);
        assert_eq!(test.turns_at(&Value::Null), None);
        assert_eq!(test.judge(&time("infinity"), now), Some(true));
        assert_eq!(test.judge(&time("-infinity"), now), Some(false));
        assert_eq!(test.turns_at(&time("infinity")), None);
    }

    #[test]
    fn intervals_are_written_for_postgres_and_for_people() {
        let test = |offset_us| TimeTest {
            comparison: Comparison::Less,
            column: Operand::Column(0),
            offset_us,
        };
        let day = 86_400_000_000;
        assert_eq!(test(-7 * day).interval_sql(), " - interval '168:00:00.000000'");
        assert_eq!(test(-7 * day).interval_text(), " - interval '7 days'");
        assert_eq!(test(90_000_000).interval_text(), " + interval '90 seconds'");
        assert_eq!(test(60_500_000).interval_sql(), " + interval '0:01:00.500000'");
        assert_eq!(test(0).interval_sql(), "");
    }
}
