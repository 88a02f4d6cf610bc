//! Converts the protobuf messages of the API to their canonical JSON form and back. Uses the message descriptors that
//! the build has compiled into the program.

mod misfit;
mod rounded;

use std::{borrow::Cow, collections::HashSet, fmt, sync::LazyLock};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};
use serde::{
    Serialize,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use thiserror::Error;

pub use self::misfit::Misfit;
use self::rounded::Rounded;
use crate::proto::FILE_DESCRIPTOR_SET;

/// Why a message could not be converted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The API has no message with this name.
    #[error("the API has no message {0}")]
    UnknownMessage(String),
    /// The text is not JSON, or does not match the message. The error states the line and the column.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The bytes are not an encoding of the message.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

/// Reads any JSON value and fails if an object in it repeats a key. A field of a message has two spellings, such as
/// `transaction_id` and `transactionId`; both count as the same key. The keys of a map are compared without such a
/// conversion.
struct UniqueKeys(ValueType);

/// The type of a JSON value.
#[derive(Clone)]
enum ValueType {
    /// A message, or a list of messages.
    Message(MessageDescriptor),
    /// A map. Contains the descriptor of its values.
    Map(FieldDescriptor),
    /// A scalar, or a value that the API does not define.
    Other,
}

/// The text of the error about a repeated key, before and after the key.
const REPEATED_BEGIN: &str = "the key ";
const REPEATED_END: &str = " is repeated";

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// Returns the descriptor of message `name` of package `tally.v1`.
///
/// # Errors
/// [`JsonError::UnknownMessage`] if the package has no message `name`.
pub fn descriptor(name: &str) -> Result<MessageDescriptor, JsonError> {
    let full = format!("tally.v1.{name}");
    POOL.as_ref()
        .and_then(|pool| pool.get_message_by_name(&full))
        .ok_or(JsonError::UnknownMessage(full))
}

/// Converts message `name` of package `tally.v1` to indented JSON. The field names are those of the `.proto` files. The
/// result also contains the fields that have their default value. Numbers have at most six decimals.
///
/// # Errors
/// [`JsonError`] if the API has no message `name`, or the encoding of `message` is not an encoding of `name`.
pub fn to_json<M: Message>(name: &str, message: &M) -> Result<String, JsonError> {
    write_json(name, message, PrettyFormatter::new(), false)
}

/// Does the same as [`to_json`], but on one line.
///
/// # Errors
/// [`JsonError`].
pub fn to_json_line<M: Message>(name: &str, message: &M) -> Result<String, JsonError> {
    write_json(name, message, CompactFormatter, false)
}

/// Does the same as [`to_json_line`], but leaves out the fields that have their default value, as the JSON form of proto3 does. The
/// entries of a map have no fixed order.
///
/// # Errors
/// [`JsonError`].
pub fn to_json_record<M: Message>(name: &str, message: &M) -> Result<String, JsonError> {
    write_json(name, message, CompactFormatter, true)
}

/// Converts a value that is not a message of the API to indented JSON. As in [`to_json`], numbers have at most six decimals.
///
/// # Errors
/// The errors of `value`.
pub fn to_pretty<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    text(PrettyFormatter::new(), |serializer| value.serialize(serializer))
}

/// A serializer that rounds numbers.
type Serializer<'a, F> = serde_json::Serializer<&'a mut Vec<u8>, Rounded<F>>;

/// Returns the text that `write` writes.
fn text<F: Formatter>(
    formatter: F,
    write: impl FnOnce(&mut Serializer<'_, F>) -> serde_json::Result<()>,
) -> serde_json::Result<String> {
    let mut out = Vec::new();
    write(&mut Serializer::with_formatter(&mut out, Rounded(formatter)))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn write_json<M: Message, F: Formatter>(
    name: &str,
    message: &M,
    formatter: F,
    skip_defaults: bool,
) -> Result<String, JsonError> {
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(skip_defaults);
    Ok(text(formatter, |serializer| {
        dynamic.serialize_with_options(serializer, &options).map(|_| ())
    })?)
}

/// Reads message `name` of package `tally.v1` from its JSON form.
///
/// # Errors
/// [`JsonError`] if the API has no message `name`, or the text is not the JSON form of such a message, has an unknown
/// field, or repeats a key of an object at any depth.
pub fn from_json<M: Message + Default>(name: &str, text: &str) -> Result<M, JsonError> {
    let descriptor = descriptor(name)?;
    // This check is necessary, because `DynamicMessage` silently keeps the last value of a repeated key.
    UniqueKeys(ValueType::Message(descriptor.clone()))
        .deserialize(&mut serde_json::Deserializer::from_str(text))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer)?;
    deserializer.end()?;
    // Decoding cannot fail if `M` is the type of message `name`, because the encoder uses the descriptor of that
    // message.
    Ok(M::decode(dynamic.encode_to_vec().as_slice())?)
}

/// Returns the first value that does not fit its field, if `text` is JSON, but not the JSON form of message `name` of package
/// `tally.v1`. Returns `None` if there is no such value, for example because two fields exclude each other.
#[must_use]
pub fn misfit(name: &str, text: &str) -> Option<Misfit> {
    let value = serde_json::from_str(text).ok()?;
    misfit::in_message(&descriptor(name).ok()?, &value, "")
}

/// Returns whether `text` is the text of the error of [`from_json`] about a repeated key, without the line and column. All other texts of
/// [`JsonError::Json`] come from libraries.
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

// ===== impl UniqueKeys =====

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
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

    fn visit_str<E>(self, _value: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(UniqueKeys(self.0.clone()))?.is_some() {}
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
            members.next_value_seed(UniqueKeys(value_type))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ProcessTransactionRequest;

    #[test]
    fn messages_survive_conversion_to_json_and_back() {
        let text = r#"{"transactionId":"t1","transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"5"}],
            "effectiveTime":"1993-01-01T00:00:00Z","metadata":{"k":"v"}}"#;
        let message: ProcessTransactionRequest = from_json("ProcessTransactionRequest", text).unwrap();
        assert_eq!(message.transfers.len(), 1);
        let again = to_json("ProcessTransactionRequest", &message).unwrap();
        assert_eq!(
            from_json::<ProcessTransactionRequest>("ProcessTransactionRequest", &again).unwrap(),
            message
        );
        assert!(again.contains("\"transaction_id\": \"t1\""), "{again}");
        let line = to_json_line("ProcessTransactionRequest", &message).unwrap();
        assert!(
            line.contains("\"transaction_id\":\"t1\"") && !line.contains('\n'),
            "{line}"
        );
    }

    #[test]
    fn an_error_names_the_unknown_field() {
        let wrong =
            from_json::<ProcessTransactionRequest>("ProcessTransactionRequest", r#"{"nope":1}"#).unwrap_err();
        assert!(wrong.to_string().contains("nope"), "{wrong}");
        assert!(to_json("Nope", &ProcessTransactionRequest::default()).is_err());
    }

    #[test]
    fn a_repeated_key_is_an_error_at_any_depth_and_in_either_spelling() {
        let read = |text: &str| from_json::<ProcessTransactionRequest>("ProcessTransactionRequest", text);
        for (text, key) in [
            (
                r#"{"transfers":[{"code":1}],"transfers":[{"code":2}]}"#,
                "transfers",
            ),
            (r#"{"transfers":[{"code":1}],"transfers":null}"#, "transfers"),
            (r#"{"transfers":null,"transfers":[]}"#, "transfers"),
            (r#"{"transactionId":"a","transaction_id":"b"}"#, "transaction_id"),
            (
                r#"{"transactionId":"a","transactionI\u0064":"a"}"#,
                "transactionId",
            ),
            (r#"{"transfers":[{},{"code":1,"code":1}]}"#, "code"),
            (
                r#"{"transfers":[{"minorUnits":"1","minor_units":"2"}]}"#,
                "minor_units",
            ),
            (
                r#"{"transfers":[{"wideMinorUnits":{"low":1,"high":1,"low":1}}]}"#,
                "low",
            ),
            (r#"{"metadata":{"k":"1","k":"2"}}"#, "k"),
            (r#"{"nope":{"x":[{"y":1,"y":1}]}}"#, "y"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("the key {key:?} is repeated at line 1 column ")),
                "{error}"
            );
        }
        // `a_b` and `aB` are two spellings of a field, but two different keys of a map.
        let message =
            read(r#"{"metadata":{"a_b":"1","aB":"2"},"transfers":[{"code":1},{"code":1}]}"#).unwrap();
        assert_eq!((message.metadata.len(), message.transfers.len()), (2, 2));
    }
}
