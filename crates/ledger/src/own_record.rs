//! Reads records that this process has written and that never left its memory, so that no checksum is needed.

use super::{
    codec::{Malformed, Reader},
    effects::Effects,
    record::{
        CHECKSUM_BYTES, Frame, KIND_COMMITTED, KIND_DERIVED, PRINCIPAL_BIT, Record, take_content, take_framed,
    },
    transaction::TransactionView,
};

/// Where the parts of the record of a committed transaction are in its bytes.
#[derive(Debug, Clone, Copy)]
pub struct OwnCommitted {
    content: usize,
    /// The end of the transaction and the start of the effects, if the record has effects.
    effects: Option<usize>,
    end: usize,
}

/// Reads a record that this process has written and that never left its memory, so that no checksum is needed.
///
/// # Errors
/// [`Malformed`] if the bytes do not start with a record.
pub fn take_own_record(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let (content, _) = take_framed(&mut Reader::new(bytes))?;
    let mut rest = Reader::new(content);
    let frame = Frame::take(&mut rest)?;
    take_content(frame.kind, &mut rest)
}

/// Finds the parts of a record that this process has written. Returns `None` unless the record is that of the committed
/// transaction with this id.
#[inline]
#[must_use]
pub fn own_committed(bytes: &[u8], id: &[u8]) -> Option<OwnCommitted> {
    let mut rest = Reader::new(bytes);
    let length = usize::try_from(rest.varint_u64().ok()?).ok()?;
    let end = (bytes.len() - rest.rest().len() + length).checked_sub(CHECKSUM_BYTES)?;
    let kind = rest.u8().ok()?;
    rest.skip_varint().ok()?;
    rest.skip_varint().ok()?;
    if kind & PRINCIPAL_BIT != 0 {
        rest.short_bytes().ok()?;
    }
    let links = usize::try_from(rest.varint_u64().ok()?).ok()?;
    rest.bytes(links).ok()?;
    let content_bytes = match kind & !PRINCIPAL_BIT {
        KIND_COMMITTED => None,
        KIND_DERIVED => Some(usize::try_from(rest.varint_u64().ok()?).ok()?),
        _ => return None,
    };
    let content = bytes.len() - rest.rest().len();
    (rest.short_bytes().ok()? == id).then_some(OwnCommitted {
        content,
        effects: content_bytes.map(|length| content + length),
        end,
    })
}

impl OwnCommitted {
    /// Reads the record from `bytes`, in which [`own_committed`] has found its parts.
    ///
    /// # Errors
    /// [`Malformed`] if `bytes` are other bytes.
    #[inline]
    pub fn take(self, bytes: &[u8]) -> Result<Record<'_>, Malformed> {
        let part = |from: usize, to: usize| {
            bytes.get(from..to).ok_or(Malformed {
                what: "the record that was found",
            })
        };
        let effects = match self.effects {
            Some(from) => Some(Effects::take(&mut Reader::new(part(from, self.end)?))?),
            None => None,
        };
        let content = part(self.content, self.effects.map_or(self.end, |effects| effects))?;
        Ok(Record::Committed {
            transaction: TransactionView::parse(content)?,
            effects,
        })
    }
}
