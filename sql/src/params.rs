//! Values for a statement's placeholders.
//!
//! Values keep the type they came with, and the engine coerces as it would a literal. Two exceptions, for
//! protocols that have no other way to say it: a null takes the type that the plan expects, and text given
//! where the plan expects a number, a date and the like is read as one.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use datafusion::{common::ParamValues, scalar::ScalarValue};
use starmere_lake::echo::{cut, cut_at};

use crate::{error::QueryError, statement::Parameters};

/// Values for one run of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Params {
    /// For `?` and `$1`, in order.
    Positional(Vec<ScalarValue>),
    /// For `$name`; names without the sign.
    Named(Vec<(String, ScalarValue)>),
}

impl Default for Params {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

impl Params {
    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Positional(values) => values.is_empty(),
            Self::Named(values) => values.is_empty(),
        }
    }
}

/// The values as DataFusion wants them, matched against what the statement asks for.
///
/// # Errors
/// `Invalid`: too many or too few values, a name that is not asked for, text that cannot be read as the type
/// the plan expects.
pub(crate) fn bind(
    wanted: &Parameters,
    types: &HashMap<String, Option<DataType>>,
    given: &Params,
) -> Result<ParamValues, QueryError> {
    match (wanted, given) {
        (Parameters::Positional(count), Params::Positional(values)) => {
            if values.len() != *count {
                return Err(miscounted(*count, values.len()));
            }
            let values = wanted
                .ids()
                .iter()
                .zip(values)
                .map(|(id, value)| fit(id, value, types))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(ParamValues::from(values))
        }
        (Parameters::Named(ids), Params::Named(values)) => {
            if let Some((name, _)) = values.iter().find(|(name, _)| !ids.iter().any(|id| is(id, name))) {
                return Err(QueryError::invalid(format!("the statement has no parameter `${}`", cut(name)))
                    .with_hint(format!("it has {}", cut_at(1000, &ids.join(", ")))));
            }
            let mut bound = Vec::with_capacity(ids.len());
            for id in ids {
                let value = values.iter().find(|(name, _)| is(id, name)).map(|(_, value)| value);
                let value =
                    value.ok_or_else(|| QueryError::invalid(format!("parameter `{}` has no value", cut(id))))?;
                bound.push((bare(id).to_owned(), fit(id, value, types)?));
            }
            Ok(ParamValues::from(bound))
        }
        (Parameters::Positional(0), Params::Named(values)) if values.is_empty() => {
            Ok(ParamValues::from(Vec::<ScalarValue>::new()))
        }
        (Parameters::Positional(count), Params::Named(_)) => {
            Err(QueryError::invalid(format!("the statement's {count} parameters have no names: give a list of values")))
        }
        (Parameters::Named(ids), Params::Positional(_)) => Err(QueryError::invalid(format!(
            "the parameters {} go by name: give a value for each name",
            cut_at(1000, &ids.join(", "))
        ))),
    }
}

fn miscounted(wanted: usize, given: usize) -> QueryError {
    QueryError::invalid(format!("the statement has {wanted} parameters, but {given} values came with it"))
}

/// `$name` without its sign.
pub(crate) fn bare(id: &str) -> &str {
    id.trim_start_matches(['$', ':', '?', '@'])
}

fn is(id: &str, name: &str) -> bool {
    bare(id) == bare(name)
}

fn fit(id: &str, value: &ScalarValue, types: &HashMap<String, Option<DataType>>) -> Result<ScalarValue, QueryError> {
    let Some(Some(wanted)) = types.get(id) else {
        return Ok(value.clone());
    };
    let text = value.data_type().is_string();
    let read = if value.is_null() {
        ScalarValue::try_from(wanted)
    } else if text && !wanted.is_string() {
        value.cast_to(wanted)
    } else {
        return Ok(value.clone());
    };
    read.map_err(|_| {
        let (id, value) = (cut(id), value.to_string());
        QueryError::invalid(format!("parameter `{id}`: `{}` is not a value of type {wanted}", cut(&value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(entries: &[(&str, Option<DataType>)]) -> HashMap<String, Option<DataType>> {
        entries.iter().map(|(id, wanted)| ((*id).to_owned(), wanted.clone())).collect()
    }

    fn positional(bound: ParamValues) -> Vec<ScalarValue> {
        let ParamValues::List(values) = bound else { panic!("named") };
        values.into_iter().map(|value| value.value).collect()
    }

    #[test]
    fn text_is_read_and_null_is_typed_but_numbers_stay() {
        let types = types(&[
            ("$1", Some(DataType::Int32)),
            ("$2", Some(DataType::Date32)),
            ("$3", Some(DataType::Int32)),
            ("$4", None),
        ]);
        let given = Params::Positional(vec![
            ScalarValue::from("42"),
            ScalarValue::Null,
            ScalarValue::from(2.5_f64),
            ScalarValue::from("stays"),
        ]);
        let values = positional(bind(&Parameters::Positional(4), &types, &given).unwrap());
        assert_eq!(values[0], ScalarValue::from(42_i32));
        assert_eq!(values[1], ScalarValue::Date32(None));
        assert_eq!(values[2], ScalarValue::from(2.5_f64));
        assert_eq!(values[3], ScalarValue::from("stays"));
    }

    #[test]
    fn unreadable_text_names_the_parameter() {
        let types = types(&[("$1", Some(DataType::Int32))]);
        let given = Params::Positional(vec![ScalarValue::from("abc")]);
        let error = bind(&Parameters::Positional(1), &types, &given).unwrap_err();
        assert!(error.to_string().contains("`$1`"), "{error}");
    }

    #[test]
    fn counts_and_names_must_agree() {
        let none = HashMap::new();
        let one = Params::Positional(vec![ScalarValue::from(1_i64)]);
        assert!(bind(&Parameters::Positional(2), &none, &one).is_err());
        assert!(bind(&Parameters::Positional(0), &none, &one).is_err());
        let names = Parameters::Named(vec!["$a".to_owned()]);
        assert!(bind(&names, &none, &one).is_err());
        let named = |name: &str| Params::Named(vec![(name.to_owned(), ScalarValue::from(1_i64))]);
        assert!(bind(&names, &none, &named("b")).is_err());
        assert!(bind(&names, &none, &Params::Named(vec![])).is_err());
        assert!(bind(&names, &none, &named("a")).is_ok());
        assert!(bind(&Parameters::Positional(0), &none, &Params::default()).is_ok());
    }
}
