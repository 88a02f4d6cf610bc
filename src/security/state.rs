//! The certificates and tokens in force.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::{sync::watch, time::Instant};
use tokio_rustls::TlsAcceptor;

use super::{
    audit,
    auth_failures::{AuthFailure, AuthFailures},
    error::SecurityError,
    settings::SecurityConfig,
    tls::{Tls, TlsFiles},
    tokens::{Grant, TokenTable},
    watched::{RefreshKind, Refreshed, Watched},
};
use crate::telemetry::{Families, LogLimit, MetricSource};

/// The certificates and tokens in force.
#[derive(Debug, Default)]
pub struct Security {
    tls: Option<Watched<TlsFiles>>,
    tokens: Option<Watched<PathBuf>>,
    /// Increases each time a new tokens file comes into force.
    token_version: watch::Sender<u64>,
    auth_failures: AuthFailures,
    /// Limits the log lines about rejected client certificates.
    certificate_lines: LogLimit,
}

// ===== impl Security =====

impl Security {
    /// Reads the files of `config`.
    ///
    /// # Errors
    /// [`SecurityError`] if a file can't be read or used.
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
            auth_failures: AuthFailures::default(),
            certificate_lines: LogLimit::default(),
        })
    }

    /// Warns if the certificate is not valid now, or the tokens file has no token.
    pub fn warn_of_faults(&self) {
        if let Some(tls) = &self.tls {
            log_validity(&tls.get());
        }
        if let Some(tokens) = &self.tokens {
            warn_if_empty(&tokens.get());
        }
    }

    /// Reads the files again. Puts changed contents into force if `kind` allows that. If a file can't be used, logs an
    /// error and keeps the contents in force. Open connections keep the certificate with which they started. Open
    /// streams check their tokens against the new table.
    pub fn refresh(&self, kind: RefreshKind) {
        if let Some(tls) = &self.tls
            && let Some((_, new)) = renewed("certificates", tls.refresh(kind))
        {
            log_validity(&new);
        }
        if let Some(tokens) = &self.tokens
            && let Some((old, new)) = renewed("tokens", tokens.refresh(kind))
        {
            self.token_version.send_modify(|version| *version += 1);
            audit::tokens_changed(old.len(), new.len());
            warn_if_empty(&new);
        }
    }

    /// Returns the TLS acceptor with the certificate in force; `None` if TLS is not configured.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls
            .as_ref()
            .map(|tls| TlsAcceptor::from(Arc::clone(&tls.get().config)))
    }

    /// Returns whether calls need a token.
    #[must_use]
    pub const fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Returns the table's entry of `token`; `None` if the token is not valid, or if calls need no token.
    #[must_use]
    pub fn grant(&self, token: &[u8]) -> Option<Grant> {
        self.tokens.as_ref()?.get().find(token)
    }

    /// Looks up the token of `grant` in the current table, and returns the entry; `None` if the token is no longer
    /// valid. The role of the entry may differ from the role of `grant`.
    #[must_use]
    pub fn renewed(&self, grant: &Grant) -> Option<Grant> {
        self.tokens.as_ref()?.get().renewed(grant)
    }

    /// Returns a number that increases each time a new tokens file comes into force.
    #[must_use]
    pub fn token_version(&self) -> u64 {
        *self.token_version.borrow()
    }

    /// Returns a receiver that is notified each time a new tokens file comes into force. Its value is
    /// [`Self::token_version`].
    #[must_use]
    pub fn token_changes(&self) -> watch::Receiver<u64> {
        self.token_version.subscribe()
    }

    /// Counts a request, a stream or a connection that was rejected because of its token or certificate.
    pub fn count_failure(&self, failure: AuthFailure) {
        self.auth_failures.count(failure);
    }

    /// Counts a failed TLS handshake. A rejected client certificate is logged, at most every 10 s: the client itself gets no
    /// reason.
    pub fn count_failed_handshake(&self, peer: SocketAddr, error: &io::Error) {
        let failure = AuthFailure::of_handshake(error);
        self.count_failure(failure);
        if failure == AuthFailure::ClientCertificate {
            if let Some(omitted) = self.certificate_lines.admit(Instant::now()) {
                tracing::warn!(%error, %peer, omitted, "a client was rejected because of its certificate");
            }
        } else {
            tracing::debug!(%error, %peer, "the TLS handshake failed");
        }
    }

    /// Returns the number of failures of each kind, since the process started.
    #[must_use]
    pub fn auth_failures(&self) -> [(AuthFailure, u64); AuthFailure::ALL.len()] {
        self.auth_failures.read()
    }

    /// Returns when the server's certificate expires, in seconds since the Unix epoch; `None` without TLS, or if the time in the
    /// certificate could not be read.
    #[must_use]
    pub fn certificate_expires_unix_seconds(&self) -> Option<f64> {
        let tls = self.tls.as_ref()?.get();
        Some(tls.validity.as_ref()?.not_after.as_secs_f64())
    }
}

impl MetricSource for Security {
    fn collect(&self, families: &mut Families) {
        let stale = [
            ("tokens", self.tokens.as_ref().map(Watched::is_stale)),
            ("certificates", self.tls.as_ref().map(Watched::is_stale)),
        ];
        families.gauges(
            "tally_security_stale",
            "1 if the files could not be used at the last attempt, so that older contents are in force.",
            stale
                .into_iter()
                .filter_map(|(what, stale)| Some((vec![("what", what)], f64::from(u8::from(stale?))))),
        );
        if let Some(tokens) = &self.tokens {
            families.gauge("tally_tokens", "Valid tokens.", tokens.get().len() as f64);
        }
        families.counters(
            "tally_auth_failures_total",
            "Requests, streams and connections that were rejected because of their token or certificate, by kind.",
            self.auth_failures()
                .map(|(failure, count)| (vec![("kind", failure.as_str())], count as f64)),
        );
        if let Some(expires) = self.certificate_expires_unix_seconds() {
            families.gauge(
                "tally_certificate_not_after_timestamp_seconds",
                "When the server's certificate expires, in seconds since the Unix epoch.",
                expires,
            );
        }
    }
}

/// Logs the result of a refresh. Returns the old and the new contents if the contents in force have changed.
fn renewed<M>(what: &str, refreshed: Result<Refreshed<M>, SecurityError>) -> Option<(Arc<M>, Arc<M>)> {
    match refreshed {
        Ok(Refreshed::Unchanged | Refreshed::Unsettled) => None,
        Ok(Refreshed::Recovered) => {
            tracing::info!(what, "the files have the contents in force again");
            None
        }
        Ok(Refreshed::Renewed { old, new }) => {
            tracing::info!(what, "new contents came into force");
            Some((old, new))
        }
        Err(error) => {
            tracing::error!(what, %error, "files could not be used; the old contents stay in force");
            None
        }
    }
}

/// Warns if there is no valid token.
fn warn_if_empty(tokens: &TokenTable) {
    if tokens.is_empty() {
        tracing::warn!("the tokens file (security.tokens_file) has no token: every call will be refused");
    }
}

/// Logs when the server's certificate expires, and warns if it is not valid now.
fn log_validity(tls: &Tls) {
    let Some(validity) = &tls.validity else {
        return tracing::warn!(
            "the expiry time of the certificate (security.tls_certificate) could not be read"
        );
    };
    let (subject, not_after) = (&*validity.subject, validity.not_after_text());
    if validity.is_authority {
        tracing::warn!(
            subject,
            "the certificate (security.tls_certificate) is the certificate of an authority (CA); many clients, such as tally itself, \
             refuse it: issue a certificate for the service that this authority signs"
        );
    }
    match tls.fault() {
        None => tracing::info!(subject, not_after, "certificate in force"),
        Some(why) => tracing::warn!(subject, not_after, why, "clients will refuse the certificate"),
    }
}
