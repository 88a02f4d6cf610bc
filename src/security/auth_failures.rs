//! Counts failed authentications and authorisations.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a request, a stream or a connection was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// The request had no bearer token.
    MissingToken,
    /// The bearer token was not in the tokens file.
    InvalidToken,
    /// The role of the token was too low for the request.
    RoleTooLow,
    /// An open stream ended, because its token was removed from the tokens file or got a lower role.
    TokenRevoked,
    /// The client of a TLS connection had no certificate, or none that `security.client_ca` accepts.
    ClientCertificate,
    /// A TLS handshake failed for another reason, or took too long.
    TlsHandshake,
}

/// The number of failures of each kind, since the process started.
#[derive(Debug, Default)]
pub(super) struct AuthFailures([AtomicU64; AuthFailure::ALL.len()]);

// ===== impl AuthFailure =====

impl AuthFailure {
    /// All kinds, in the order of their declaration.
    pub const ALL: [AuthFailure; 6] = [
        AuthFailure::MissingToken,
        AuthFailure::InvalidToken,
        AuthFailure::RoleTooLow,
        AuthFailure::TokenRevoked,
        AuthFailure::ClientCertificate,
        AuthFailure::TlsHandshake,
    ];

    /// The value of the label `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthFailure::MissingToken => "missing_token",
            AuthFailure::InvalidToken => "invalid_token",
            AuthFailure::RoleTooLow => "role_too_low",
            AuthFailure::TokenRevoked => "token_revoked",
            AuthFailure::ClientCertificate => "client_certificate",
            AuthFailure::TlsHandshake => "tls_handshake",
        }
    }

    /// Returns the kind of a TLS handshake that ended with `error`.
    #[must_use]
    pub fn of_handshake(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
                AuthFailure::ClientCertificate
            }
            _ => AuthFailure::TlsHandshake,
        }
    }
}

// ===== impl AuthFailures =====

impl AuthFailures {
    /// Counts a failure.
    pub(super) fn count(&self, failure: AuthFailure) {
        if let Some(count) = self.0.get(failure as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the counts, in the order of [`AuthFailure::ALL`].
    pub(super) fn read(&self) -> [(AuthFailure, u64); AuthFailure::ALL.len()] {
        let mut counts = AuthFailure::ALL.map(|failure| (failure, 0));
        for ((_, count), counter) in counts.iter_mut().zip(&self.0) {
            *count = counter.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_under_its_own_name() {
        let failures = AuthFailures::default();
        for (times, failure) in AuthFailure::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| failures.count(failure));
        }
        let counts = failures.read().map(|(failure, count)| (failure.as_str(), count));
        let expected = [
            ("missing_token", 1),
            ("invalid_token", 2),
            ("role_too_low", 3),
            ("token_revoked", 4),
            ("client_certificate", 5),
            ("tls_handshake", 6),
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_handshake_without_an_accepted_certificate_has_its_own_kind() {
        let kind = |error| AuthFailure::of_handshake(&io::Error::other(error));
        for error in [
            rustls::Error::NoCertificatesPresented,
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
        ] {
            assert_eq!(kind(error), AuthFailure::ClientCertificate);
        }
        assert_eq!(
            kind(rustls::Error::HandshakeNotComplete),
            AuthFailure::TlsHandshake
        );
        let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(AuthFailure::of_handshake(&ended), AuthFailure::TlsHandshake);
    }
}
