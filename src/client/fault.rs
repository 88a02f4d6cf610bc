//! Why a connection failed: the cause in plain English, found in the error chains of the network and TLS libraries.

use std::{error::Error, fmt, io, time::Duration};

use rustls::{AlertDescription, CertificateError};
use tonic::{Status, TimeoutExpired};

use crate::terminal::units::time;

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
    /// The service rejected the TLS connection, for example because it requires a certificate of the client.
    RejectedByService,
    /// The connection was closed before an answer arrived.
    Closed,
    /// Another cause, in the words of the library.
    Other(String),
}

/// Number of causes of an error that are examined. Real chains are shorter.
const CAUSES_MAX: usize = 16;

// ===== impl Fault =====

impl Fault {
    /// Finds the cause in the chain of `error`, which is an error of tonic.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        let mut closed = false;
        let mut last = String::new();
        for _ in 0..CAUSES_MAX {
            let Some(cause) = next else { break };
            if cause.is::<TimeoutExpired>() {
                return Fault::TimedOut(None);
            }
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Fault::of_tls(error);
            }
            let io = cause.downcast_ref::<io::Error>();
            if let Some(fault) = io.and_then(Fault::of_io) {
                return fault;
            }
            closed |= cause.is::<hyper::Error>();
            last = cause.to_string();
            // An I/O error can contain another error. `source` returns the cause of the contained error and skips this
            // error, so the loop asks for the contained error first.
            next = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => cause.source(),
            };
        }
        if closed { Fault::Closed } else { Fault::Other(last) }
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
            | Fault::RejectedByService
            | Fault::Closed
            | Fault::Other(_)) => other,
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
            // The standard library reports a failed name resolution without a kind of its own.
            _ if error.to_string().starts_with("failed to lookup address") => Some(Fault::UnknownHost),
            _ => None,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "rare errors are reported in the library's words"
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
                other => Fault::Other(other.to_string()),
            },
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Fault::NoTls,
            rustls::Error::AlertReceived(_) => Fault::RejectedByService,
            other => Fault::Other(other.to_string()),
        }
    }

    /// Returns what to do, for a service at an `https://` endpoint (`secure`) or an `http://` endpoint. The names of options are those
    /// of the command line.
    #[must_use]
    pub const fn advice(&self, secure: bool) -> &'static str {
        match (self, secure) {
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
            (Fault::RejectedByService, _) => {
                "if the service requires a certificate of the client, pass --client-certificate and --client-key"
            }
            (Fault::Closed, false) => {
                "check that the port is the port of a Tally service; if the service uses TLS, use https:// in --endpoint"
            }
            (Fault::Closed, true) => {
                "check that the port is the port of a Tally service; if the service requires client certificates, pass \
                 --client-certificate and --client-key"
            }
            (Fault::Other(_), _) => "check --endpoint and the service's log",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Fault::TimedOut(Some(limit)) = self {
            return write!(f, "no answer within {}", time(*limit));
        }
        f.write_str(match self {
            Fault::Refused => "nothing listens at this address",
            Fault::UnknownHost => "the host name has no address",
            Fault::Unreachable => "the host can't be reached",
            Fault::TimedOut(_) => "no answer in time",
            Fault::NoTls => "the answer is not TLS",
            Fault::UnknownAuthority => "the certificate of the service is not signed by a known authority",
            Fault::OtherName => "the certificate of the service is for another host name",
            Fault::NotValidNow => "the certificate of the service has expired, or is not valid yet",
            Fault::RejectedByService => "the service rejected the TLS connection",
            Fault::Closed => "the connection was closed before an answer arrived",
            Fault::Other(text) => text,
        })
    }
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
                io::Error::other("unheard of"),
                Fault::Other("unheard of".to_owned()),
            ),
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
    fn a_closed_plain_connection_suggests_tls() {
        assert!(Fault::Closed.advice(false).contains("https://"));
        assert!(!Fault::Closed.advice(true).contains("https://"));
        assert!(Fault::Closed.advice(true).contains("--client-certificate"));
    }
}
