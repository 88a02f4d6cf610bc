//! Who may talk to the service, and what they may do: TLS with certificates that can be renewed while it runs, and bearer
//! tokens with roles, of which only hashes are kept.

mod audit;
mod bearer;
mod tls;
mod tokens;
mod watched;

use std::path::PathBuf;

use thiserror::Error;
use tokio_rustls::TlsAcceptor;

pub use self::{
    audit::{AUDIT_TARGET, Administrator, CircuitChange},
    bearer::bearer_token,
    tls::TlsError,
    tokens::{Principal, Role, TOKENS_MAX, TokenFileError, TokenTable, hash_hex},
};
use self::{tls::TlsFiles, watched::Watched};

/// Where certificates and tokens are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// The server's certificate chain and key, in PEM. `None`: no TLS.
    pub tls: Option<TlsPaths>,
    /// The file of tokens. `None`: no token is asked for, and everybody may do everything.
    pub tokens: Option<PathBuf>,
}

/// The files of TLS, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The certificate, followed by those that lead to the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that sign clients' certificates. If it is set, a client must have one.
    pub client_ca: Option<PathBuf>,
}

/// Certificates and tokens as they are now.
#[derive(Debug, Default)]
pub struct Security {
    tls: Option<Watched<TlsFiles>>,
    tokens: Option<Watched<PathBuf>>,
}

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

// ===== impl Security =====

impl Security {
    /// Reads the files.
    ///
    /// # Errors
    /// [`SecurityError`].
    pub fn load(config: &SecurityConfig) -> Result<Self, SecurityError> {
        let tls = config
            .tls
            .clone()
            .map(|paths| Watched::load(TlsFiles(paths)))
            .transpose()?;
        let tokens = config.tokens.clone().map(Watched::load).transpose()?;
        Ok(Security { tls, tokens })
    }

    /// Reads files again that have changed. One that can't be used is told of, and what it was before stays in force.
    /// Connections that there are keep the certificate that they began with.
    pub fn refresh(&self) {
        let tls = self.tls.as_ref().map(Watched::refresh);
        let tokens = self.tokens.as_ref().map(Watched::refresh);
        for (what, refreshed) in [("certificates", tls), ("tokens", tokens)] {
            match refreshed {
                Some(Ok(true)) => tracing::info!(what, "read again"),
                Some(Err(error)) => {
                    tracing::error!(what, %error, "can't be used; the old ones stay in force")
                }
                Some(Ok(false)) | None => {}
            }
        }
    }

    /// What takes TLS connections, if they are.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.get()))
    }

    /// Whether calls need a token.
    #[must_use]
    pub const fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whose token it is; `None` if it is nobody's, or none is asked for.
    #[must_use]
    pub fn principal(&self, token: &[u8]) -> Option<Principal> {
        self.tokens.as_ref()?.get().find(token)
    }
}
