//! The positional parameters of a request, kept as they were written until somebody asks for one.

use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::failure::Failure;

/// The parameters of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params<'a>(Vec<&'a RawValue>);

impl<'a> Params<'a> {
    /// Reads a list; nothing, or `null`, is an empty one.
    pub(crate) fn parse(raw: Option<&'a RawValue>) -> Result<Self, Failure> {
        let list: Option<Vec<&RawValue>> = match raw {
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|_| invalid("the parameters must be an array".to_owned()))?,
            None => None,
        };
        Ok(Self(list.unwrap_or_default()))
    }

    /// The parameter at `index`, which must be there.
    pub(crate) fn required<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<T, Failure> {
        let value = self.optional(index, name)?;
        value
            .ok_or_else(|| invalid(format!("missing value for required argument {index} ({name})")))
    }

    /// The parameter at `index`, unless it is missing or `null`.
    pub(crate) fn optional<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(raw) = self.0.get(index) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map_err(|error| invalid(format!("invalid argument {index} ({name}): {error}")))
    }

    /// The list with `value` at `index`, and everything else as it was written. A list that ends
    /// before `index` is left as it is: it lacks what no default stands for.
    pub(crate) fn with(&self, index: usize, value: &RawValue) -> Box<RawValue> {
        let replaced = |(at, old): (usize, &'a RawValue)| if at == index { value } else { old };
        let mut list: Vec<&RawValue> = self.0.iter().copied().enumerate().map(replaced).collect();
        if list.len() == index {
            list.push(value);
        }
        to_raw_value(&list).expect("JSON that was read can be written")
    }
}

fn invalid(reason: String) -> Failure {
    Failure::InvalidParams(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_missing_or_unfit_parameter_is_named() {
        let list = raw(r#"["0x1", 5, null]"#);
        let params = Params::parse(Some(&list)).unwrap();

        let unfit = params.required::<bool>(1, "full").unwrap_err();
        assert!(unfit.to_string().starts_with("invalid argument 1 (full): "), "{unfit}");
        for missing in [2, 3] {
            let failure = params.required::<bool>(missing, "full").unwrap_err();
            assert!(matches!(failure, Failure::InvalidParams(_)));
            assert!(failure.to_string().contains(&format!("argument {missing} (full)")));
            assert!(params.optional::<bool>(missing, "full").unwrap().is_none());
        }
    }

    #[test]
    fn nothing_and_null_are_an_empty_list_and_named_parameters_are_refused() {
        let (null, named) = (raw("null"), raw(r#"{"a":1}"#));

        assert!(Params::parse(None).unwrap().0.is_empty());
        assert!(Params::parse(Some(&null)).unwrap().0.is_empty());
        assert!(matches!(Params::parse(Some(&named)), Err(Failure::InvalidParams(_))));
    }

    #[test]
    fn replacing_one_parameter_leaves_the_others_as_they_were_written() {
        let (list, number) = (raw(r#"[ {"a":  1e2}, "latest" ]"#), raw("\"0x5\""));
        let replaced = |index| {
            let params = Params::parse(Some(&list)).unwrap();
            params.with(index, &number).get().to_owned()
        };

        assert_eq!(replaced(1), r#"[{"a":  1e2},"0x5"]"#);
        assert_eq!(replaced(2), r#"[{"a":  1e2},"latest","0x5"]"#);
        assert_eq!(replaced(3), r#"[{"a":  1e2},"latest"]"#);
    }
}
