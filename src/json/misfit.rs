//! Finds the value in a JSON text that does not fit its field. The errors of the libraries name a column only.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

/// A value that does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The field with its place, such as `transfers[0].minor_units`, in the names of the `.proto` files.
    pub field: String,
    /// The value in JSON; the text of a string without quotes.
    pub value: String,
    /// The values that fit, in words.
    pub expected: String,
}

/// The package of messages that have a special JSON form, such as times.
const WELL_KNOWN: &str = "google.protobuf.";

/// Finds the value in `value`, which should be the message `message`. `path` is its field; empty for the whole text.
pub(super) fn in_message(message: &MessageDescriptor, value: &Value, path: &str) -> Option<Misfit> {
    let Value::Object(members) = value else {
        return Some(Misfit {
            field: if path.is_empty() { "the line" } else { path }.to_owned(),
            value: value.to_string(),
            expected: "an object, such as {}".to_owned(),
        });
    };
    members.iter().find_map(|(key, member)| {
        let field = message
            .get_field_by_json_name(key)
            .or_else(|| message.get_field_by_name(key))?;
        let path = match path {
            "" => field.name().to_owned(),
            path => format!("{path}.{}", field.name()),
        };
        in_field(message, key, &field, member, &path)
    })
}

fn in_field(
    message: &MessageDescriptor,
    key: &str,
    field: &FieldDescriptor,
    value: &Value,
    path: &str,
) -> Option<Misfit> {
    let fits = |value: &Value| {
        let alone = Map::from_iter([(key.to_owned(), value.clone())]);
        DynamicMessage::deserialize(message.clone(), Value::Object(alone)).is_ok()
    };
    if fits(value) {
        return None;
    }
    let inner = field
        .kind()
        .as_message()
        .filter(|inner| !field.is_map() && !inner.full_name().starts_with(WELL_KNOWN))
        .cloned();
    match (value, inner) {
        (Value::Array(elements), inner) if field.is_list() => {
            let (index, element) = elements
                .iter()
                .enumerate()
                .find(|(_, element)| !fits(&Value::Array(vec![(*element).clone()])))?;
            let path = format!("{path}[{index}]");
            match inner {
                Some(inner) => in_message(&inner, element, &path),
                None => Some(leaf(path, element, expected(&field.kind()))),
            }
        }
        (_, _) if field.is_list() => Some(leaf(path.to_owned(), value, "a list, such as []".to_owned())),
        (_, _) if field.is_map() => Some(leaf(
            path.to_owned(),
            value,
            "an object whose values are strings".to_owned(),
        )),
        (_, Some(inner)) => in_message(&inner, value, path),
        (_, None) => Some(leaf(path.to_owned(), value, expected(&field.kind()))),
    }
}

fn leaf(field: String, value: &Value, expected: String) -> Misfit {
    Misfit {
        field,
        value: match value {
            Value::String(text) => text.clone(),
            other
            @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                other.to_string()
            }
        },
        expected,
    }
}

/// Describes the values that fit a field of this kind.
fn expected(kind: &Kind) -> String {
    // The service checks the lower bounds of signed numbers: most fields must not be negative.
    let signed = |last: i64| format!("a whole number of at most {last}");
    let unsigned = |last: u64| format!("a whole number from 0 to {last}");
    match kind {
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => signed(i32::MAX.into()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => signed(i64::MAX),
        Kind::Uint32 | Kind::Fixed32 => unsigned(u32::MAX.into()),
        Kind::Uint64 | Kind::Fixed64 => unsigned(u64::MAX),
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a string in double quotes".to_owned(),
        Kind::Bytes => "bytes in base64".to_owned(),
        Kind::Enum(values) => {
            let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "a time of RFC 3339, such as \"2026-01-31T12:00:00Z\"",
            "google.protobuf.Duration" => "a number of seconds with the unit s, such as \"3600s\"",
            "google.protobuf.FieldMask" => {
                "names of fields in lowerCamelCase, separated by commas, such as \"status,overdraftLimit\""
            }
            _ => "an object, such as {}",
        }
        .to_owned(),
    }
}
