//! Who may talk to the service, and what they may do: TLS with certificates that can be renewed while it runs, and bearer
//! tokens with roles, of which only hashes are kept.

mod audit;
mod bearer;
mod certificate;
mod client;
mod refresher;
mod tls;
mod tokens;
mod watched;

use std::{path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use self::{
    audit::{AUDIT_TARGET, Administrator, CircuitChange},
    bearer::bearer_token,
    client::client_of,
    refresher::Refresher,
    tls::TlsError,
    tokens::{Grant, Principal, Role, TOKENS_MAX, TokenFileError, TokenTable, hash_hex},
    watched::Look,
};
use self::{
    tls::{Tls, TlsFiles},
    watched::{Refreshed, Watched},
};

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
    /// Grows whenever other tokens are valid.
    token_version: watch::Sender<u64>,
}

/// What is to be seen of certificates and tokens from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecurityFigures {
    /// How many tokens are valid; `None` if none is asked for.
    pub tokens: Option<usize>,
    /// Whether the file of tokens could not be used when it was last looked at; `None` if none is asked for.
    pub tokens_stale: Option<bool>,
    /// Whether the files of TLS could not be used when they were last looked at; `None` without TLS.
    pub certificates_stale: Option<bool>,
    /// When the server's certificate expires, since the Unix epoch; `None` without TLS or if that can't be read.
    pub certificate_not_after: Option<Duration>,
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
        Ok(Security {
            tls,
            tokens,
            token_version: watch::Sender::new(0),
        })
    }

    /// Warns of what was loaded and is of little use: a certificate that clients will refuse, a file without tokens.
    pub fn warn_of_faults(&self) {
        if let Some(tls) = &self.tls {
            tell_validity(&tls.get());
        }
        if let Some(tokens) = &self.tokens {
            warn_of_emptiness(&tokens.get());
        }
    }

    /// Reads files again that have changed, and puts in force what `look` allows. One that can't be used is logged, and what it was before stays in force.
    /// Connections that there are keep the certificate that they began with; open streams look at their tokens again.
    pub fn refresh(&self, look: Look) {
        if let Some(tls) = &self.tls
            && let Some((_, new)) = renewed("certificates", tls.refresh(look))
        {
            tell_validity(&new);
        }
        if let Some(tokens) = &self.tokens
            && let Some((old, new)) = renewed("tokens", tokens.refresh(look))
        {
            self.token_version.send_modify(|version| *version += 1);
            audit::tokens_changed(old.len(), new.len());
            warn_of_emptiness(&new);
        }
    }

    /// What is to be seen from outside.
    #[must_use]
    pub fn figures(&self) -> SecurityFigures {
        let validity = |tls: &Watched<TlsFiles>| Some(tls.get().validity.as_ref()?.not_after);
        SecurityFigures {
            tokens: self.tokens.as_ref().map(|tokens| tokens.get().len()),
            tokens_stale: self.tokens.as_ref().map(Watched::is_stale),
            certificates_stale: self.tls.as_ref().map(Watched::is_stale),
            certificate_not_after: self.tls.as_ref().and_then(validity),
        }
    }

    /// What takes TLS connections, if they are.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls
            .as_ref()
            .map(|tls| TlsAcceptor::from(Arc::clone(&tls.get().config)))
    }

    /// Whether calls need a token.
    #[must_use]
    pub const fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whose token it is; `None` if it is nobody's, or none is asked for.
    #[must_use]
    pub fn grant(&self, token: &[u8]) -> Option<Grant> {
        self.tokens.as_ref()?.get().find(token)
    }

    /// The same token as it is valid now; `None` if it no longer is.
    #[must_use]
    pub fn renewed(&self, grant: &Grant) -> Option<Grant> {
        self.tokens.as_ref()?.get().renewed(grant)
    }

    /// Grows whenever other tokens are valid, after they are.
    #[must_use]
    pub fn token_version(&self) -> u64 {
        *self.token_version.borrow()
    }

    /// Tells when other tokens are valid.
    #[must_use]
    pub fn token_changes(&self) -> watch::Receiver<u64> {
        self.token_version.subscribe()
    }
}

/// Logs what a look at files brought, and returns what was and is in force if that has changed.
fn renewed<M>(what: &str, refreshed: Result<Refreshed<M>, SecurityError>) -> Option<(Arc<M>, Arc<M>)> {
    match refreshed {
        Ok(Refreshed::Unchanged | Refreshed::Unsettled) => None,
        Ok(Refreshed::Recovered) => {
            tracing::info!(what, "the files are those in force again");
            None
        }
        Ok(Refreshed::Renewed { old, new }) => {
            tracing::info!(what, "read again");
            Some((old, new))
        }
        Err(error) => {
            tracing::error!(what, %error, "can't be used; the old ones stay in force");
            None
        }
    }
}

/// Warns if nobody may call.
fn warn_of_emptiness(tokens: &TokenTable) {
    if tokens.is_empty() {
        tracing::warn!("the file of tokens (security.tokens_file) has no token in it: nobody may call");
    }
}

/// Logs until when the server's certificate is valid, and warns if it is not valid now.
fn tell_validity(tls: &Tls) {
    let Some(validity) = &tls.validity else {
        return tracing::warn!(
            "the certificate (security.tls_certificate) does not say until when it is valid"
        );
    };
    let (subject, not_after) = (&*validity.subject, validity.not_after_in_words());
    match tls.fault() {
        None => tracing::info!(subject, not_after, "certificate in force"),
        Some(why) => tracing::warn!(subject, not_after, why, "clients will refuse the certificate"),
    }
}
