//! Finds what the library accepts silently in the JSON form of a message.

use std::{borrow::Cow, collections::HashSet, fmt};

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::time::{TimeError, parse_time};

/// Reads any JSON value and finds what `DynamicMessage` accepts silently: an object that repeats a key, and a time that is a leap second.
///
/// A field of a message has two spellings, such as `transaction_id` and `transactionId`; both count as the same key. The keys of a map
/// are compared without such a conversion.
pub(super) struct Strict(pub(super) ValueType);

/// The type of a JSON value.
#[derive(Clone)]
pub(super) enum ValueType {
    /// A message, or a list of messages.
    Message(MessageDescriptor),
    /// A map. Contains the descriptor of its values.
    Map(FieldDescriptor),
    /// A scalar, or a value that the API does not define.
    Other,
}

/// The message of a time.
pub(super) const TIMESTAMP: &str = "google.protobuf.Timestamp";
/// The text of the error about a repeated key, before and after the key.
const REPEATED_BEGIN: &str = "the key ";
const REPEATED_END: &str = " is repeated";

/// Returns whether `text` is the text of `from_json`'s error about a repeated key, without the place. All other texts of
/// `JsonError::Json` come from libraries.
#[must_use]
pub fn is_repeated_key(text: &str) -> bool {
    text.starts_with(REPEATED_BEGIN) && text.ends_with(REPEATED_END)
}

// ===== impl ValueType =====

impl ValueType {
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind().as_message() {
            Some(entry) if field.is_map() => ValueType::Map(entry.map_entry_value_field()),
            Some(message) => ValueType::Message(message.clone()),
            None => ValueType::Other,
        }
    }

    /// Returns the name under which a key is compared with other keys, and the type of its value. For a field of a
    /// message, the name is the one in the `.proto` file.
    fn member<'a>(&self, key: Cow<'a, str>) -> (Cow<'a, str>, Self) {
        match self {
            ValueType::Message(message) => {
                let field = message.get_field_by_json_name(&key);
                match field.or_else(|| message.get_field_by_name(&key)) {
                    Some(field) => (Cow::Owned(field.name().to_owned()), ValueType::of(&field)),
                    None => (key, ValueType::Other),
                }
            }
            ValueType::Map(value) => (key, ValueType::of(value)),
            ValueType::Other => (key, ValueType::Other),
        }
    }
}

// ===== impl Strict =====

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _value: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _value: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _value: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match &self.0 {
            ValueType::Message(message)
                if message.full_name() == TIMESTAMP && parse_time(value) == Err(TimeError::LeapSecond) =>
            {
                Err(E::custom(TimeError::LeapSecond))
            }
            ValueType::Message(_) | ValueType::Map(_) | ValueType::Other => Ok(()),
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(Strict(self.0.clone()))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = members.next_key::<Cow<'de, str>>()? {
            let shown = key.to_string();
            let (name, value_type) = self.0.member(key);
            if !seen.insert(name.into_owned()) {
                return Err(A::Error::custom(format_args!(
                    "{REPEATED_BEGIN}{shown:?}{REPEATED_END}"
                )));
            }
            members.next_value_seed(Strict(value_type))?;
        }
        Ok(())
    }
}
