//! Why certificates or tokens can't be used.

use std::path::PathBuf;

use thiserror::Error;

use super::tokens::TokenFileError;

/// Why certificates or tokens can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of tokens.
    #[error("{}: {source}", path.display())]
    Tokens {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenFileError,
    },
}

/// Why certificates can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not PEM, or holds nothing that is wanted.
    #[error("{}: holds no {wanted} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The certificate and the key don't belong together, or are of a kind that is not supported.
    #[error("{} and {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The authorities for clients' certificates.
    #[error("{}: {reason}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate is not valid now, and the one that is in force is.
    #[error("{}: {reason}", path.display())]
    NotValid {
        /// The file.
        path: PathBuf,
        /// Whose certificate it is, and when it is valid.
        reason: String,
    },
}
