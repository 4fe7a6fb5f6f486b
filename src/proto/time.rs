//! Time as plain values. Nothing here reads a clock: the host says what time it is.

use std::fmt;
use std::time::Duration;

/// A moment on a monotonic clock: nanoseconds since an origin that the caller chooses and keeps.
///
/// 64 bits hold 584 years; arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// The moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `since_origin` after the origin; saturates.
    pub fn after_origin(since_origin: Duration) -> Self {
        Self(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This moment and `span` more; saturates.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(Self::after_origin(span).0))
    }

    /// The span from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A wall-clock time: milliseconds since 1970-01-01T00:00:00Z, as the `ts` of the protocol has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(u64);

impl Wall {
    /// The last millisecond that four year digits can name: 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The time `millis` milliseconds after the epoch; clamped to [`Wall::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

/// RFC 3339 in UTC with milliseconds, always 24 characters: `2026-11-22T10:00:00.000Z`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, millis) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let numbers = [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, hour),
            (14..16, minute),
            (17..19, second),
            (20..23, millis % 1000),
        ];
        for (place, number) in numbers {
            put_decimal(text.get_mut(place).unwrap_or_default(), number);
        }
        // Digits are ASCII.
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// Fills `digits` with the last decimal digits of `number`.
fn put_decimal(digits: &mut [u8], number: u64) {
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
    }
}

/// Year, month and day of the day `days` after 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March so that the leap day is the last of its year; an era is 400 years.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let shifted = days + DAYS_FROM_MARCH_OF_YEAR_0;
    let (era, day_of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The latest moment that was given. Deadlines that were set from it must not be asked about an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Latest(Mono);

impl Latest {
    /// `now`, but no earlier than any moment that was given before: time that steps back stands still.
    pub(crate) fn or_later(&mut self, now: Now) -> Now {
        self.0 = self.0.max(now.mono);
        Now { mono: self.0, ..now }
    }
}

/// What time it is, on both clocks. Read once per turn by the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: Mono,
    /// For the `ts` of answers and the time of arrival of messages.
    pub wall: Wall,
}
