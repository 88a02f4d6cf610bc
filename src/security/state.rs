//! The certificates and tokens in force.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{
    audit,
    error::SecurityError,
    settings::SecurityConfig,
    tls::{Tls, TlsFiles},
    tokens::{Grant, TokenTable},
    watched::{Look, Refreshed, Watched},
};
use crate::telemetry::{Families, MetricSource};

/// Certificates and tokens as they are now.
#[derive(Debug, Default)]
pub struct Security {
    tls: Option<Watched<TlsFiles>>,
    tokens: Option<Watched<PathBuf>>,
    /// Grows whenever other tokens are valid.
    token_version: watch::Sender<u64>,
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
        let tls = self.tls.as_ref().map(Watched::get);
        if let Some(validity) = tls.as_ref().and_then(|tls| tls.validity.as_ref()) {
            families.gauge(
                "tally_certificate_not_after_timestamp_seconds",
                "When the server's certificate expires, in seconds since the Unix epoch.",
                validity.not_after.as_secs_f64(),
            );
        }
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
