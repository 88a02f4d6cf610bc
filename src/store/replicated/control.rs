//! The bodies of the control blocks: what a claim, a resignation and an end say.

use std::str;

/// Longest text in a control block, in bytes. An address is shorter (`store.replicated.advertise`).
const TEXT_BYTES_MAX: usize = 1024;

/// The body of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimBody {
    /// The address at which the claimant can be reached.
    pub address: String,
    /// The version of the program that the claimant runs.
    pub version: String,
}

/// The body of a resignation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResignBody {
    /// The address of the replica that should lead next, if one was named.
    pub successor: Option<String>,
}

// ===== impl ClaimBody =====

impl ClaimBody {
    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_text(&mut bytes, &self.address);
        put_text(&mut bytes, &self.version);
        bytes
    }

    /// Decodes the body. Returns `None` if the bytes are not such a body.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (address, bytes) = take_text(bytes)?;
        let (version, bytes) = take_text(bytes)?;
        bytes.is_empty().then(|| ClaimBody {
            address: address.to_owned(),
            version: version.to_owned(),
        })
    }
}

// ===== impl ResignBody =====

impl ResignBody {
    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(successor) = &self.successor {
            put_text(&mut bytes, successor);
        }
        bytes
    }

    /// Decodes the body. Returns `None` if the bytes are not such a body.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(ResignBody { successor: None });
        }
        let (successor, bytes) = take_text(bytes)?;
        bytes.is_empty().then(|| ResignBody {
            successor: Some(successor.to_owned()),
        })
    }
}

/// Appends a text with its length in front.
///
/// # Panics
/// If the text is longer than [`TEXT_BYTES_MAX`]. The check of the settings prevents this.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len())
        .ok()
        .filter(|length| usize::from(*length) <= TEXT_BYTES_MAX);
    let Some(length) = length else {
        panic!("a text of {} bytes does not fit a control block", text.len());
    };
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (text, bytes) = bytes.split_at_checked(length)?;
    (length <= TEXT_BYTES_MAX).then_some(())?;
    Some((str::from_utf8(text).ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_decode_from_their_bytes_and_from_no_others() {
        let claim = ClaimBody {
            address: "http://10.0.0.1:50051".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let bytes = claim.encode();
        assert_eq!(ClaimBody::decode(&bytes), Some(claim));
        for length in 0..bytes.len() {
            assert_eq!(ClaimBody::decode(&bytes[..length]), None);
        }
        assert_eq!(ClaimBody::decode(&[bytes, vec![0]].concat()), None);
        for successor in [None, Some("http://b:1".to_owned())] {
            let resign = ResignBody { successor };
            assert_eq!(ResignBody::decode(&resign.encode()), Some(resign));
        }
        assert_eq!(ResignBody::decode(&[9]), None);
        assert_eq!(ResignBody::decode(&[1, 0, 0xff]), None);
    }
}
