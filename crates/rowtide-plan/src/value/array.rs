//! Arrays, as rules ask for them: whether something is among the elements. So an array is the set of its elements, whatever
//! its dimensions and their order, and null may be one of them.

use serde_json::Value as Json;

use super::array_text::{ArrayPart, array_parts};
use super::{ColumnType, InvalidValue, Value};

/// The most elements of a claim that is an array; one with more is null.
pub const MAX_CLAIM_ELEMENTS: usize = 1_000;

impl ColumnType {
    /// What an array has for elements, if rules can compare these.
    pub fn element(&self) -> Option<&ColumnType> {
        match self {
            ColumnType::Array(element) => element.family().map(|_| &**element),
            _ => None,
        }
    }
}

impl Value {
    /// The set of these.
    fn array(mut elements: Vec<Value>) -> Value {
        elements.sort_unstable();
        elements.dedup();
        Value::Array(elements.into())
    }

    /// What Postgres prints for an array, of any dimensions.
    pub(super) fn parse_array(element: &ColumnType, text: &str) -> Result<Value, InvalidValue> {
        let (mut is_open, mut elements) = (false, Vec::new());
        let take = |part: ArrayPart<'_>| {
            match part {
                ArrayPart::Open => is_open = true,
                ArrayPart::Close | ArrayPart::Comma => {}
                ArrayPart::Null => elements.push(Value::Null),
                ArrayPart::Element(text) => elements.push(Value::parse(element, &text).ok()?),
            }
            is_open.then_some(())
        };
        array_parts(text, take).ok_or_else(|| InvalidValue::new(text))?;
        Ok(Value::array(elements))
    }

    /// A claim as an array: null if it is none, or has more than [`MAX_CLAIM_ELEMENTS`]. Elements that do not fit the type
    /// are left out.
    pub(super) fn array_of_claim(element: &ColumnType, claim: &Json) -> Value {
        let Json::Array(items) = claim else { return Value::Null };
        if items.len() > MAX_CLAIM_ELEMENTS {
            return Value::Null;
        }
        let of = |item: &Json| (item.is_null(), Value::from_claim(element, item));
        let fit = items.iter().map(of).filter(|(is_null, value)| *is_null || !value.is_null());
        Value::array(fit.map(|(_, value)| value).collect())
    }

    /// The set of values that topics are made of: the elements of an array, or the value itself; never null.
    pub fn anchors(&self) -> impl Iterator<Item = &Value> {
        let values = match self {
            Value::Array(elements) => elements,
            value => std::slice::from_ref(value),
        };
        values.iter().filter(|value| !value.is_null())
    }
}

/// `{"a",NULL}`: what Postgres reads.
pub(super) fn to_text(elements: &[Value], kind: &ColumnType) -> String {
    let kind = kind.element().unwrap_or(kind);
    let quoted = |element: &Value| match element.to_text(kind) {
        None => "NULL".to_owned(),
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    format!("{{{}}}", elements.iter().map(quoted).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn texts(array: &Value) -> String {
        let kind = ColumnType::Array(Box::new(ColumnType::Text));
        array.to_text(&kind).unwrap_or_else(|| "null".to_owned())
    }

    #[test]
    fn an_array_is_the_set_of_its_elements() {
        let array = |text| Value::parse_array(&ColumnType::Text, text).unwrap();
        assert_eq!(texts(&array(r#"{b,"a ",b,NULL}"#)), r#"{NULL,"a ","b"}"#);
        assert_eq!(array("[0:1]={a,b}"), array("{{b},{a}}"));
        assert_eq!(texts(&array(r#"{"\"\\,{}"}"#)), r#"{"\"\\,{}"}"#);
        assert_eq!(texts(&array("{}")), "{}");
        assert!(Value::parse_array(&ColumnType::Int, "{1,x}").is_err());
        assert!(Value::parse_array(&ColumnType::Int, "1").is_err());
    }

    #[test]
    fn a_claim_that_is_no_array_is_null_and_elements_that_do_not_fit_are_left_out() {
        let ints = |json: serde_json::Value| Value::array_of_claim(&ColumnType::Int, &json);
        let set = |values: &[Value]| Value::Array(values.into());
        assert_eq!(
            ints(serde_json::json!([3, "1", 3, "x", {}, [7], null])),
            set(&[Value::Null, Value::Int(1), Value::Int(3)])
        );
        assert_eq!(ints(serde_json::json!([])), set(&[]));
        for none in [serde_json::json!(3), serde_json::json!("{3}"), serde_json::json!({ "a": 3 })]
        {
            assert_eq!(ints(none), Value::Null);
        }
        let many = |count: usize| serde_json::Value::from(vec![1; count]);
        assert_eq!(ints(many(MAX_CLAIM_ELEMENTS)), set(&[Value::Int(1)]));
        assert_eq!(ints(many(MAX_CLAIM_ELEMENTS + 1)), Value::Null);
    }
}
