//! Values as other types, as a cast in SQL makes them.

use std::borrow::Cow;

use super::{ColumnType, Numeric, Value};

impl Value {
    /// The value as another type, which it can always be: text, or of an integer a number of another kind.
    pub fn cast(&self, kind: &ColumnType) -> Cow<'_, Value> {
        match (self, kind) {
            (Value::Int(number), ColumnType::Numeric) => {
                Cow::Owned(Value::Numeric(Box::new(Numeric::from(*number))))
            }
            (Value::Int(number), ColumnType::Float8) => Cow::Owned(Value::float(*number as f64)),
            (Value::Bool(_) | Value::Int(_) | Value::Uuid(_), ColumnType::Text) => {
                let text = self.to_text(kind).unwrap_or_default();
                Cow::Owned(Value::Text(text.into()))
            }
            // A narrower number, text of a kind and a label are what they are as a wider one, or as text.
            _ => Cow::Borrowed(self),
        }
    }
}
