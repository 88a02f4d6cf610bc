//! The errors of certificates and tokens.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::tokens::TokenFileError;

/// Why certificates or tokens can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A certificate or key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tokens file can't be used.
    #[error("{}: {source}", path.display())]
    Tokens {
        /// The path of the file.
        path: PathBuf,
        /// The error in the file.
        source: TokenFileError,
    },
}

/// Why certificates can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not in PEM format, or has no object of the needed kind.
    #[error("{}: has no {wanted} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The kind of object.
        wanted: &'static str,
    },
    /// The certificate and the key do not match, or one of them is of a kind that is not supported.
    #[error("{} and {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// The error of the TLS library.
        source: rustls::Error,
    },
    /// The certificate authorities for clients can't be used.
    #[error("{}: {reason}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The new certificate is not valid now, but the certificate in force is valid.
    #[error("{}: {reason}", path.display())]
    NotValid {
        /// The file.
        path: PathBuf,
        /// The certificate's subject and time of validity.
        reason: String,
    },
}

// ===== impl SecurityError =====

impl SecurityError {
    /// Returns the path of the file that can't be used. If a certificate and its key do not match, returns the path of the
    /// certificate.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            SecurityError::Read { path, .. } | SecurityError::Tokens { path, .. } => path,
            SecurityError::Tls(error) => match error {
                TlsError::Pair { certificate, .. } => certificate,
                TlsError::Pem { path, .. }
                | TlsError::ClientCa { path, .. }
                | TlsError::NotValid { path, .. } => path,
            },
        }
    }
}
