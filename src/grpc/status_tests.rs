//! Tests of the errors that no client can cause over the network. `tests/it/service/statuses` tests the other
//! errors.

use super::*;

/// Returns the code and the reason of an error, and the value of `executed`.
fn described(status: &Status) -> (Code, String, String) {
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason, info.metadata[EXECUTED].clone())
}

fn expected(code: Code, reason: &str, executed: &str) -> (Code, String, String) {
    (code, reason.to_owned(), executed.to_owned())
}

#[test]
fn rare_errors_have_their_reason_and_whether_the_call_was_executed() {
    for (status, code, reason, executed) in [
        (outcome_missing(), Code::Internal, "REPLY_LOST", "unknown"),
        (
            engine(&BatchError::Lost.into()),
            Code::Internal,
            "REPLY_LOST",
            "unknown",
        ),
        (
            engine(&BatchError::Interrupted.into()),
            Code::Aborted,
            "STREAM_INTERRUPTED",
            "false",
        ),
        (
            engine(&EngineError::Store(StoreFault::Damaged {
                segment: 1,
                offset: 2,
            })),
            Code::DataLoss,
            "DATA_DAMAGED",
            "unknown",
        ),
        (
            accounts_full(TableFull::Accounts),
            Code::ResourceExhausted,
            "ACCOUNTS_FULL",
            "false",
        ),
        (
            accounts_full(TableFull::Assets),
            Code::ResourceExhausted,
            "ASSETS_FULL",
            "false",
        ),
        (
            call_cancelled(&"reset"),
            Code::Cancelled,
            "CALL_CANCELLED",
            "false",
        ),
    ] {
        assert_eq!(described(&status), expected(code, reason, executed));
        let value = to_value(&status);
        assert_eq!((value.code, value.details.len()), (code.into(), 1));
    }
}

#[test]
fn a_full_disk_has_a_delay_and_says_whether_a_part_was_executed() {
    for (executed_part, executed) in [(false, "false"), (true, "unknown")] {
        let status = engine(&StoreFault::DiskFull { executed_part }.into());
        let expected = expected(Code::ResourceExhausted, "DISK_FULL", executed);
        assert_eq!(described(&status), expected);
        assert!(status.get_details_retry_info().is_some());
    }
}

#[test]
fn a_delay_is_written_for_people() {
    for (micros, text) in [(12_300, "13 ms"), (1_200_000, "2 s")] {
        let retry_after = Duration::from_micros(micros);
        let status = engine(&BatchError::Full { retry_after }.into());
        assert_eq!(status.message(), format!("the queue is full; retry in {text}"));
    }
    let status = request_too_slow(Duration::from_secs(10));
    assert_eq!(status.message(), "the request did not arrive within 10 s");
}

#[test]
fn complete_adds_an_error_info_to_an_error_of_a_library_and_keeps_its_code_and_text() {
    for (code, reason) in [
        (Code::Internal, "MALFORMED_MESSAGE"),
        (Code::NotFound, "NOT_FOUND"),
        (Code::Unknown, "LIBRARY_ERROR"),
    ] {
        let mut headers = trailers(&Status::new(code, "the text"));
        complete(&mut headers);
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!(described(&status), expected(code, reason, "false"));
        assert_eq!(status.message(), "the text");
        // A second call of `complete` changes nothing.
        let before = headers.clone();
        complete(&mut headers);
        assert_eq!(headers, before);
    }
    let mut headers = trailers(&ok());
    complete(&mut headers);
    assert_eq!(headers.len(), 1, "success has no details");
}
