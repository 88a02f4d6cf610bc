//! Why a connection failed: the cause in plain English, found in the error chains of the network and TLS libraries.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use rustls::{AlertDescription, CertificateError};
use thiserror::Error;
use tonic::{Code, Status, TimeoutExpired};

use crate::terminal::{units::time, without_error_numbers};

/// Why a connection could not be opened, or was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The machine has no service at this port.
    Refused,
    /// The host name has no address.
    UnknownHost,
    /// The network has no way to the host.
    Unreachable,
    /// No answer arrived in time. The time is the limit, if it is known.
    TimedOut(Option<Duration>),
    /// The service does not answer with TLS.
    NoTls,
    /// No known authority has signed the certificate of the service.
    UnknownAuthority,
    /// The certificate of the service is for another name.
    OtherName,
    /// The certificate of the service has expired, or is not valid yet.
    NotValidNow,
    /// The certificate of the service is the certificate of an authority.
    AuthorityAsService,
    /// The certificate of the service can't be used for another reason.
    UnusableCertificate,
    /// The service rejected the TLS connection, for example because it requires a certificate of the client.
    RejectedByService,
    /// TLS failed for another reason.
    TlsFailed,
    /// The service has closed the connection, because it has too many of them or too much to do (GOAWAY with ENHANCE_YOUR_CALM).
    TooMany,
    /// The connection was closed before an answer arrived.
    Closed,
    /// None of several endpoints answers: each with its fault.
    NoneAnswers(Vec<(String, Fault)>),
    /// Another cause, in the words of the operating system, or the message of the service.
    Other(String),
    /// Another cause, for which only a library has a text.
    Unknown,
}

/// A call failed at one of several endpoints.
#[derive(Debug, Error)]
#[error("the call to {endpoint} failed")]
pub(super) struct EndpointError {
    /// The endpoint.
    pub(super) endpoint: Arc<str>,
    /// The cause.
    pub(super) source: Box<dyn Error + Send + Sync>,
}

/// None of several endpoints answers.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub(super) struct NoAnswer(pub(super) Fault);

/// Returns the name of a status code in the specification of gRPC, for example `UNAVAILABLE`.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Number of causes of an error that are examined. Real chains are shorter.
pub(super) const CAUSES_MAX: usize = 16;
/// The words of the HTTP/2 library for the error code ENHANCE_YOUR_CALM. Its type is not accessible.
const ENHANCE_YOUR_CALM: &str = "detected excessive load generating behavior";
/// The words of the certificate library for the certificate of an authority in the place of a server's. Its type is not accessible.
const AUTHORITY_AS_SERVICE: &str = "CaUsedAsEndEntity";

// ===== impl Fault =====

impl Fault {
    /// Finds the cause in the chain of `error`, which is an error of tonic.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        let mut closed = false;
        let mut words = None;
        for _ in 0..CAUSES_MAX {
            let Some(cause) = next else { break };
            if cause.is::<TimeoutExpired>() {
                return Fault::TimedOut(None);
            }
            if let Some(NoAnswer(fault)) = cause.downcast_ref::<NoAnswer>() {
                return fault.clone();
            }
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Fault::of_tls(error);
            }
            let io = cause.downcast_ref::<io::Error>();
            if let Some(fault) = io.and_then(Fault::of_io) {
                return fault;
            }
            // After these words, the library adds what the service says about the connection.
            if closed && cause.to_string().contains(ENHANCE_YOUR_CALM) {
                return Fault::TooMany;
            }
            closed |= cause.is::<hyper::Error>();
            if let Some(io) = io.filter(|io| io.raw_os_error().is_some()) {
                words = Some(without_error_numbers(io.to_string()));
            }
            // An I/O error can contain another error. `source` returns the cause of the contained error and skips this
            // error, so the loop asks for the contained error first.
            next = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => cause.source(),
            };
        }
        match words {
            _ if closed => Fault::Closed,
            Some(words) => Fault::Other(words),
            None => Fault::Unknown,
        }
    }

    /// Returns why a call failed. If the service answered, this is the message of the service.
    #[must_use]
    pub fn of_call(status: &Status) -> Self {
        match status.source() {
            Some(source) => Fault::of(source),
            None => Fault::Other(status.message().to_owned()),
        }
    }

    /// Returns the fault with the limit of its time, if no answer arrived in time.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        match self {
            Fault::TimedOut(_) => Fault::TimedOut(Some(limit)),
            other @ (Fault::Refused
            | Fault::UnknownHost
            | Fault::Unreachable
            | Fault::NoTls
            | Fault::UnknownAuthority
            | Fault::OtherName
            | Fault::NotValidNow
            | Fault::AuthorityAsService
            | Fault::UnusableCertificate
            | Fault::RejectedByService
            | Fault::TlsFailed
            | Fault::TooMany
            | Fault::Closed
            | Fault::NoneAnswers(_)
            | Fault::Other(_)
            | Fault::Unknown) => other,
        }
    }

    /// Returns whether another attempt may succeed without a change of the settings.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Fault::NoneAnswers(faults) => faults.iter().any(|(_, fault)| fault.is_temporary()),
            Fault::NoTls
            | Fault::UnknownAuthority
            | Fault::OtherName
            | Fault::NotValidNow
            | Fault::AuthorityAsService
            | Fault::UnusableCertificate => false,
            Fault::Refused
            | Fault::UnknownHost
            | Fault::Unreachable
            | Fault::TimedOut(_)
            | Fault::RejectedByService
            | Fault::TlsFailed
            | Fault::TooMany
            | Fault::Closed
            | Fault::Other(_)
            | Fault::Unknown => true,
        }
    }

    /// Returns the fault that the kind of an I/O error names.
    fn of_io(error: &io::Error) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "most kinds of I/O errors do not concern sockets"
        )]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Fault::Refused),
            io::ErrorKind::TimedOut => Some(Fault::TimedOut(None)),
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Some(Fault::Unreachable),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(Fault::Closed),
            // The standard library has no error kind for a failed name resolution.
            _ if error.to_string().starts_with("failed to lookup address") => Some(Fault::UnknownHost),
            _ => None,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "rare errors have one text, because the library's words help nobody"
        )]
        match error {
            rustls::Error::InvalidMessage(_) => Fault::NoTls,
            rustls::Error::InvalidCertificate(problem) => match problem {
                CertificateError::UnknownIssuer => Fault::UnknownAuthority,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Fault::OtherName
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Fault::NotValidNow,
                CertificateError::Other(other) if other.to_string() == AUTHORITY_AS_SERVICE => {
                    Fault::AuthorityAsService
                }
                _ => Fault::UnusableCertificate,
            },
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Fault::NoTls,
            rustls::Error::AlertReceived(_) => Fault::RejectedByService,
            _ => Fault::TlsFailed,
        }
    }

    /// Returns what to do, for a service at an `https://` endpoint (`secure`) or an `http://` endpoint. The names of options are those
    /// of the command line.
    #[must_use]
    pub fn advice(&self, secure: bool) -> &'static str {
        match (self, secure) {
            (Fault::NoneAnswers(faults), _) => {
                // Reports a wrong setting before a service that does not run, because the user can correct the setting.
                let wrong = faults.iter().find(|(_, fault)| !fault.is_temporary());
                match wrong.or(faults.first()) {
                    Some((_, fault)) => fault.advice(secure),
                    None => Fault::Unknown.advice(secure),
                }
            }
            (Fault::Refused, _) => "start the service with `tally serve`, or correct --endpoint",
            (Fault::UnknownHost, _) => "correct the host name in --endpoint",
            (Fault::Unreachable | Fault::TimedOut(_), _) => {
                "check the address in --endpoint, the network, and the service's log"
            }
            (Fault::NoTls, _) => {
                "use http:// in --endpoint, or check that the port is the port of the service"
            }
            (Fault::UnknownAuthority, _) => "pass the certificate of the authority with --ca",
            (Fault::OtherName, _) => "use the name in the certificate, or pass the name with --server-name",
            (Fault::NotValidNow, _) => "renew the certificate of the service, and check the clocks",
            (Fault::AuthorityAsService, _) => {
                "issue a certificate for the service that this authority signs, with the host's name and with basicConstraints CA:FALSE"
            }
            (Fault::TooMany, _) => {
                "close other connections of this client, wait, or raise server.connections_per_client_max; see the service's log"
            }
            (Fault::UnusableCertificate, _) => "issue a new certificate for the service",
            (Fault::TlsFailed, _) => "check that both sides support TLS 1.2 or 1.3, and the service's log",
            (Fault::RejectedByService, _) => {
                "if the service requires a certificate of the client, pass --client-certificate and --client-key"
            }
            (Fault::Closed, false) => {
                "check that the port is the port of a Tally service; if the service uses TLS, use https:// in --endpoint"
            }
            (Fault::Closed, true) => {
                "check that the port is the port of a Tally service; if the service requires client certificates, pass \
                 --client-certificate and --client-key; if calls worked before, it may have too many connections or may be stopping"
            }
            (Fault::Other(_) | Fault::Unknown, _) => "check --endpoint and the service's log",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Fault::TimedOut(Some(limit)) = self {
            return write!(f, "no answer within {}", time(*limit));
        }
        if let Fault::NoneAnswers(faults) = self {
            for (number, (endpoint, fault)) in faults.iter().enumerate() {
                let separator = if number == 0 { "" } else { ", " };
                write!(f, "{separator}{endpoint}: {fault}")?;
            }
            return Ok(());
        }
        f.write_str(match self {
            Fault::NoneAnswers(_) => "no endpoint answers",
            Fault::Refused => "nothing listens at this address",
            Fault::UnknownHost => "the host name has no address",
            Fault::Unreachable => "the host can't be reached",
            Fault::TimedOut(_) => "no answer in time",
            Fault::NoTls => "the answer is not TLS",
            Fault::UnknownAuthority => "the certificate of the service is not signed by a known authority",
            Fault::OtherName => "the certificate of the service is for another host name",
            Fault::NotValidNow => "the certificate of the service has expired, or is not valid yet",
            Fault::AuthorityAsService => {
                "the certificate of the service is the certificate of an authority (CA), not of a server"
            }
            Fault::TooMany => {
                "the service closed the connection, because it has too many connections or this client sent too much"
            }
            Fault::UnusableCertificate => {
                "the certificate of the service can't be used: it is damaged, revoked, not of X.509 version 3, or not for servers"
            }
            Fault::RejectedByService => "the service rejected the TLS connection",
            Fault::TlsFailed => "the TLS handshake failed",
            Fault::Closed => "the connection was closed before an answer arrived",
            Fault::Other(text) => text,
            Fault::Unknown => "the connection failed",
        })
    }
}

/// Returns the endpoint at which a call failed, if there are several and the connection was the cause.
pub(super) fn failed_endpoint(status: &Status) -> Option<&str> {
    let causes = std::iter::successors(status.source(), |&cause| cause.source());
    causes
        .take(CAUSES_MAX)
        .find_map(|cause| cause.downcast_ref::<EndpointError>())
        .map(|error| &*error.endpoint)
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    fn in_io(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn the_fault_is_found_inside_an_io_error() {
        for (error, fault) in [
            (
                in_io(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
                Fault::UnknownAuthority,
            ),
            (
                in_io(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)),
                Fault::NoTls,
            ),
            (
                in_io(rustls::Error::AlertReceived(
                    AlertDescription::CertificateRequired,
                )),
                Fault::RejectedByService,
            ),
            (io::ErrorKind::ConnectionRefused.into(), Fault::Refused),
            (io::ErrorKind::BrokenPipe.into(), Fault::Closed),
            (
                io::Error::other("failed to lookup address information: no such name"),
                Fault::UnknownHost,
            ),
            (
                // Address not available.
                io::Error::from_raw_os_error(99),
                Fault::Other("Cannot assign requested address".to_owned()),
            ),
            (io::Error::other("unheard of"), Fault::Unknown),
            (
                in_io(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)),
                Fault::UnusableCertificate,
            ),
            (in_io(rustls::Error::DecryptError), Fault::TlsFailed),
        ] {
            assert_eq!(Fault::of(&error), fault, "{error}");
        }
    }

    #[test]
    fn the_limit_of_a_missing_answer_is_named() {
        let fault = Fault::TimedOut(None).within(Duration::from_secs(10));
        assert_eq!(fault.to_string(), "no answer within 10 s");
        assert_eq!(Fault::Refused.within(Duration::from_secs(10)), Fault::Refused);
    }

    #[test]
    fn each_of_several_endpoints_is_named_and_a_wrong_setting_gives_the_advice() {
        let tried = |second| {
            Fault::NoneAnswers(vec![
                ("http://a:1".to_owned(), Fault::Refused),
                ("http://b:2".to_owned(), second),
            ])
        };
        let silent = tried(Fault::TimedOut(Some(Duration::from_secs(1))));
        assert_eq!(
            silent.to_string(),
            "http://a:1: nothing listens at this address, http://b:2: no answer within 1 s"
        );
        assert!(silent.is_temporary() && silent.advice(false).starts_with("start the service"));
        let wrong = tried(Fault::UnknownAuthority);
        assert!(wrong.is_temporary() && wrong.advice(true).contains("--ca"));
        let error = tonic::ConnectError(Box::new(NoAnswer(silent.clone())));
        assert_eq!(Fault::of(&error), silent);
    }

    #[test]
    fn a_closed_plain_connection_suggests_tls() {
        assert!(Fault::Closed.advice(false).contains("https://"));
        assert!(!Fault::Closed.advice(true).contains("https://"));
        assert!(Fault::Closed.advice(true).contains("--client-certificate"));
    }
}
