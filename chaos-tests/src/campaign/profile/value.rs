//! Values of a profile that know what they may be: whatever is refused is
//! refused with its place in the file.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::rng::Rng;

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Expected<MIN, MAX> {
            type Value = Whole<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                let whole = u64::try_from(number).ok().filter(|n| (MIN..=MAX).contains(n));
                whole.map(Whole).ok_or_else(|| {
                    E::custom(format!(
                        "{number} is refused; allowed: a whole number from {MIN} to {MAX}"
                    ))
                })
            }
        }

        deserializer.deserialize_i64(Expected)
    }
}

/// A length of time, as `250ms` or `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// Longer than anybody would wait for a profile.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

fn parse_time(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok().filter(|time| *time <= LONGEST)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_time(&text).map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is no length of time; allowed: as \"250ms\", \"5s\" or \"1m 30s\""
            ))
        })
    }
}

/// Between two bounds, both included: what is drawn anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<T> {
    /// The least.
    pub min: T,
    /// The most.
    pub max: T,
}

/// A time, or two with `..` between them, as `"100ms..2s"`.
pub type Times = Span<Duration>;
/// A number, or two with `..` between them, as `"1..8"`.
pub type Numbers = Span<u64>;

impl Times {
    /// Draws one.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let numbers = Numbers { min: micros(self.min), max: micros(self.max) };
        Duration::from_micros(numbers.draw(rng))
    }
}

impl Numbers {
    /// Draws one.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        let width = (self.max - self.min).saturating_add(1);
        // A span of everything has no width to divide by; such are not accepted.
        self.min + rng.next_u64() % width.max(1)
    }
}

/// Both halves of `a..b`, or twice the same.
fn halves<T: Copy + PartialOrd>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Span<T>> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let (min, max) = (parse(min)?, parse(max)?);
    (min <= max).then_some(Span { min, max })
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        halves(&text, parse_time).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is no length of time; allowed: as \"250ms\", or \"100ms..2s\" to draw \
                 one in between"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected;

        impl Visitor<'_> for Expected {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or as \"1..8\" to draw one in between")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Numbers, E> {
                let number = u64::try_from(number).map_err(|_| {
                    E::custom(format!(
                        "{number} is refused; allowed: a number that is not negative"
                    ))
                })?;
                Ok(Numbers { min: number, max: number })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Numbers, E> {
                halves(text, |half| half.trim().parse().ok()).ok_or_else(|| {
                    E::custom(format!(
                        "{text:?} is no number; allowed: a whole number, or as \"1..8\" to draw \
                         one in between"
                    ))
                })
            }
        }

        deserializer.deserialize_any(Expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_lies_between_the_bounds() {
        let mut rng = Rng::new(1);
        let times: Times = halves("10ms..12ms", parse_time).expect("is a span");
        for _ in 0..100 {
            let drawn = times.draw(&mut rng);
            assert!((Duration::from_millis(10)..=Duration::from_millis(12)).contains(&drawn));
        }
        let numbers = Numbers { min: 3, max: 5 };
        let drawn: std::collections::BTreeSet<_> =
            (0..100).map(|_| numbers.draw(&mut rng)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(Numbers { min: 7, max: 7 }.draw(&mut rng), 7);
    }

    #[test]
    fn halves_in_the_wrong_order_are_none() {
        assert_eq!(halves("2s..1s", parse_time), None);
        assert_eq!(halves("1s..", parse_time), None);
        assert_eq!(halves("1", parse_time), None);
        assert_eq!(parse_time("10years"), None);
    }
}
