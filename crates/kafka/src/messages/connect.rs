//! `ApiVersions`, `SaslHandshake` and `SaslAuthenticate`.

use bytes::Bytes;

use super::{API_VERSIONS, Api, SASL_AUTHENTICATE, SASL_HANDSHAKE};
use crate::error::{ErrorCode, Malformed};

/// The versions that a broker supports, for each kind of call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    key: i16,
    first: i16,
    last: i16,
}

impl Versions {
    /// Returns the versions that may be used before the broker has said which versions it supports.
    pub(crate) fn before_the_answer() -> Self {
        let range = |api: &Api| Range {
            key: api.key,
            first: 0,
            last: i16::MAX,
        };
        Self {
            ranges: vec![range(&API_VERSIONS)],
        }
    }

    /// Returns the best version of `api` that the broker and this client speak.
    pub(crate) fn best(&self, api: &Api) -> Option<i16> {
        let range = self.ranges.iter().find(|range| range.key == api.key)?;
        let spoken = api.versions.iter().copied();
        spoken
            .into_iter()
            .find(|version| (range.first..=range.last).contains(version))
    }
}

pub(crate) fn api_versions_request(version: i16) -> Bytes {
    let mut encoder = API_VERSIONS.encoder(version);
    encoder.string("tally-kafka");
    encoder.string(env!("CARGO_PKG_VERSION"));
    encoder.tags();
    encoder.finish()
}

pub(crate) fn api_versions_answer(version: i16, answer: Bytes) -> Result<(ErrorCode, Versions), Malformed> {
    let mut decoder = API_VERSIONS.decoder(version, answer)?;
    let code = ErrorCode(decoder.i16()?);
    // A broker that does not speak this version answers in version 0, which has another layout. So read only the code.
    if code != ErrorCode::NONE {
        return Ok((code, Versions::default()));
    }
    let ranges = decoder.array(7, |item| {
        let range = Range {
            key: item.i16()?,
            first: item.i16()?,
            last: item.i16()?,
        };
        item.tags()?;
        Ok(range)
    })?;
    decoder.i32()?;
    decoder.tags()?;
    Ok((code, Versions { ranges }))
}

pub(crate) fn sasl_handshake_request(version: i16, mechanism: &str) -> Bytes {
    let mut encoder = SASL_HANDSHAKE.encoder(version);
    encoder.string(mechanism);
    encoder.finish()
}

/// Returns the error code and the mechanisms that the broker offers.
pub(crate) fn sasl_handshake_answer(
    version: i16,
    answer: Bytes,
) -> Result<(ErrorCode, Vec<String>), Malformed> {
    let mut decoder = SASL_HANDSHAKE.decoder(version, answer)?;
    let code = ErrorCode(decoder.i16()?);
    let mechanisms = decoder.array(2, |item| item.string())?;
    Ok((code, mechanisms))
}

pub(crate) fn sasl_authenticate_request(version: i16, bytes: &[u8]) -> Bytes {
    let mut encoder = SASL_AUTHENTICATE.encoder(version);
    encoder.bytes(bytes);
    encoder.tags();
    encoder.finish()
}

/// The answer to one step of a SASL mechanism.
#[derive(Debug)]
pub(crate) struct SaslAnswer {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    pub(crate) bytes: Bytes,
    /// The broker ends the session after this time, in ms; 0: never.
    pub(crate) lifetime_ms: i64,
}

pub(crate) fn sasl_authenticate_answer(version: i16, answer: Bytes) -> Result<SaslAnswer, Malformed> {
    let mut decoder = SASL_AUTHENTICATE.decoder(version, answer)?;
    let answer = SaslAnswer {
        code: ErrorCode(decoder.i16()?),
        message: decoder.nullable_string()?,
        bytes: decoder.bytes()?.unwrap_or_default(),
        lifetime_ms: decoder.i64()?,
    };
    decoder.tags()?;
    Ok(answer)
}
