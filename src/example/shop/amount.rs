//! Amounts of money and quantities as events carry them: as numbers, as text, and sometimes as neither.

use super::json::Object;
use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Cents(i32),
    /// Tenths of a cent do not fit `decimal(18,2)`.
    TooPrecise,
    Words,
}

impl Amount {
    pub(super) fn fits(self) -> bool {
        self.cents().is_some()
    }

    pub(super) fn cents(self) -> Option<i64> {
        match self {
            Amount::Cents(cents) => Some(cents.into()),
            Amount::TooPrecise | Amount::Words => None,
        }
    }

    pub(super) fn write(self, key: &'static str, object: &mut Object, random: &mut Random) {
        match self {
            Amount::Cents(cents) => match random.below(10) {
                0..5 => object.json(key, decimal(cents.into())),
                5..7 => object.json(key, short(cents)),
                7..9 => object.text(key, &decimal(cents.into())),
                _ => object.text(key, &format!("{}00", decimal(cents.into()))),
            },
            Amount::TooPrecise => object.text(key, "12.505"),
            Amount::Words => object.text(key, "on request"),
        }
    }

    /// As the first merchandise system did: text with a decimal comma.
    pub(super) fn write_with_comma(self, key: &'static str, object: &mut Object) {
        match self {
            Amount::Cents(cents) => object.text(key, &decimal(cents.into()).replace('.', ",")),
            Amount::TooPrecise | Amount::Words => object.text(key, "auf Anfrage"),
        }
    }
}

/// `12.50`
pub(super) fn decimal(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

/// `12.5`, and `12` for twelve.
fn short(cents: i32) -> String {
    decimal(cents.into()).trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    Is(i32),
    Words,
    Fraction,
    TooLarge,
}

impl Quantity {
    pub(super) fn value(self) -> Option<i32> {
        match self {
            Quantity::Is(value) => Some(value),
            Quantity::Words | Quantity::Fraction | Quantity::TooLarge => None,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Quantity::Is(value) => value.to_string(),
            Quantity::Words => "three".to_owned(),
            Quantity::Fraction => "1.5".to_owned(),
            Quantity::TooLarge => "3000000000".to_owned(),
        }
    }
}
