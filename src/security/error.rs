//! The errors of certificates and tokens.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::tokens::TokenFileError;
use crate::{certificates::CertificateFileError, terminal::file_advice};

/// Why certificates or tokens can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A file can't be read.
    #[error("{}: {source}{}", path.display(), file_advice(path, source))]
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
    /// A file with certificates or with a key can't be used.
    #[error(transparent)]
    File(#[from] CertificateFileError),
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
                TlsError::File(error) => error.path(),
                TlsError::NotValid { path, .. } => path,
            },
        }
    }
}
