use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn decoder(bytes: &[u8], flexible: bool) -> Decoder {
    Decoder::new(Bytes::copy_from_slice(bytes), flexible)
}

proptest! {
    #[test]
    fn a_signed_varint_survives(value: i64) {
        let mut bytes = Vec::new();
        put_signed_varint(&mut bytes, value);
        let mut decoder = decoder(&bytes, false);
        prop_assert_eq!(decoder.signed_varint(), Ok(value));
        prop_assert_eq!(decoder.remaining(), 0);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>, flexible: bool) {
        let decoder = decoder(&bytes, flexible);
        let _ = decoder.clone().tags();
        let _ = decoder.clone().string();
        let _ = decoder.clone().bytes();
        let _ = decoder.clone().record_bytes();
        let _ = decoder.clone().array(1, Decoder::i8);
    }

    #[test]
    fn strings_and_bytes_survive(text in ".{0,300}", bytes: Vec<u8>, flexible: bool) {
        let mut encoder = Encoder::new(flexible);
        encoder.string(&text);
        encoder.bytes(&bytes);
        encoder.null_string();
        encoder.null_array();
        encoder.tags();
        let mut decoder = Decoder::new(encoder.finish(), flexible);
        prop_assert_eq!(decoder.string(), Ok(text));
        prop_assert_eq!(decoder.bytes(), Ok(Some(Bytes::from(bytes))));
        prop_assert_eq!(decoder.nullable_string(), Ok(None));
        prop_assert_eq!(decoder.array(1, Decoder::i8), Ok(vec![]));
        prop_assert_eq!(decoder.tags(), Ok(()));
        prop_assert_eq!(decoder.remaining(), 0);
    }
}

/// The examples of the protocol's own tests.
#[test]
fn varints_have_the_bytes_of_the_protocol() {
    let cases: [(i64, &[u8]); 6] = [
        (0, &[0]),
        (-1, &[1]),
        (1, &[2]),
        (-2, &[3]),
        (300, &[216, 4]),
        (i64::from(i32::MIN), &[255, 255, 255, 255, 15]),
    ];
    for (value, expected) in cases {
        let mut bytes = Vec::new();
        put_signed_varint(&mut bytes, value);
        assert_eq!(bytes, expected, "{value}");
    }
}

#[test]
fn a_length_that_exceeds_the_bytes_is_an_error_before_anything_is_allocated() {
    // 2^31 - 1 items, and 2^32 - 2 in the flexible form.
    let plain = i32::MAX.to_be_bytes();
    let flexible = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for (bytes, is_flexible) in [(&plain[..], false), (&flexible[..], true)] {
        assert!(decoder(bytes, is_flexible).array(1, Decoder::i8).is_err());
        assert!(decoder(bytes, is_flexible).bytes().is_err());
        assert!(decoder(bytes, is_flexible).tags().is_ok() != is_flexible);
    }
}

#[test]
fn a_varint_is_bounded() {
    assert!(decoder(&[0xff; 11], false).signed_varint().is_err());
    assert!(decoder(&[0xff, 0xff, 0xff, 0xff, 0x1f], true).bytes().is_err());
    assert!(decoder(&[0x80], false).signed_varint().is_err());
}

#[test]
fn tagged_fields_are_skipped() {
    // Two fields: tag 0 with three bytes, tag 5 without bytes.
    let mut decoder = decoder(&[2, 0, 3, 9, 9, 9, 5, 0, 42], true);
    assert_eq!(decoder.tags(), Ok(()));
    assert_eq!(decoder.i8(), Ok(42));
}

#[test]
fn a_negative_length_is_an_error() {
    assert!(decoder(&(-2_i32).to_be_bytes(), false).bytes().is_err());
    assert!(decoder(&(-2_i16).to_be_bytes(), false).nullable_string().is_err());
}
