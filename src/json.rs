//! The canonical JSON form of protobuf messages, by way of the descriptors that were compiled in.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use thiserror::Error;

use crate::proto::FILE_DESCRIPTOR_SET;

/// Why a message could not be turned into JSON, or back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// There is no such message in the API.
    #[error("no message {0} in the API")]
    UnknownMessage(String),
    /// The text is not JSON, or not of this message. It names line and column.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The bytes are not of this message.
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
}

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// The descriptor of message `name` of package `tally.v1`.
///
/// # Errors
/// If there is none.
pub fn descriptor(name: &str) -> Result<MessageDescriptor, JsonError> {
    let full = format!("tally.v1.{name}");
    POOL.as_ref()
        .and_then(|pool| pool.get_message_by_name(&full))
        .ok_or(JsonError::UnknownMessage(full))
}

/// Message `name` of package `tally.v1` as indented JSON, fields named as in the `.proto` files, zeros included.
///
/// # Errors
/// [`JsonError`].
pub fn to_json<M: Message>(name: &str, message: &M) -> Result<String, JsonError> {
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut out);
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    dynamic.serialize_with_options(&mut serializer, &options)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Reads message `name` of package `tally.v1` from its JSON form. Unknown fields are errors.
///
/// # Errors
/// [`JsonError`].
pub fn from_json<M: Message + Default>(name: &str, text: &str) -> Result<M, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor(name)?, &mut deserializer)?;
    deserializer.end()?;
    // Serialising a message of the same descriptor and reading it back can't fail.
    Ok(M::decode(dynamic.encode_to_vec().as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ProcessTransactionRequest;

    #[test]
    fn messages_come_back_from_their_json_form() {
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
    }

    #[test]
    fn errors_say_where() {
        let wrong =
            from_json::<ProcessTransactionRequest>("ProcessTransactionRequest", r#"{"nope":1}"#).unwrap_err();
        assert!(wrong.to_string().contains("nope"), "{wrong}");
        assert!(to_json("Nope", &ProcessTransactionRequest::default()).is_err());
    }
}
