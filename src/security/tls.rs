//! TLS with rustls: HTTP/2 only, with client certificates if `security.client_ca` is set.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, UnixTime},
    server::WebPkiClientVerifier,
    sign::SingleCertAndKey,
    time_provider::TimeProvider,
};

use super::{
    certificate::{Validity, since_epoch},
    error::{SecurityError, TlsError},
    settings::TlsPaths,
    watched::Source,
};
use crate::certificates::{CertificateFileError, authorities, certificates, pair, private_key};

/// A TLS configuration, loaded from the files.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    /// The period in which the server's certificate is valid; `None` if the certificate can't be parsed.
    pub(super) validity: Option<Validity>,
}

/// The clock of rustls. The default clock of rustls panics if the system clock is before 1970.
#[derive(Debug)]
struct Clock;

/// The files of a TLS configuration.
#[derive(Debug)]
pub(super) struct TlsFiles(pub(super) TlsPaths);

/// The name of HTTP/2 in TLS (ALPN). The service offers no other protocol.
const ALPN_HTTP2: &[u8] = b"h2";

// ===== impl Clock =====

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_epoch()))
    }
}

// ===== impl Tls =====

impl Tls {
    /// Returns why the certificate is not valid now; `None` if it is valid, or if it can't be parsed.
    pub(super) fn fault(&self) -> Option<String> {
        self.validity.as_ref()?.fault(since_epoch())
    }
}

// ===== impl TlsFiles =====

impl Source for TlsFiles {
    type Value = Tls;

    fn paths(&self) -> Vec<&Path> {
        let TlsPaths {
            certificate,
            key,
            client_ca,
        } = &self.0;
        let mut paths: Vec<&Path> = vec![certificate, key];
        paths.extend(client_ca.as_deref());
        paths
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Tls, SecurityError> {
        let file = |index: usize| contents.get(index).map(Vec::as_slice).unwrap_or_default();
        let chain = certificates(file(0), &self.0.certificate).map_err(TlsError::from)?;
        let validity = chain.first().and_then(Validity::parse);
        let config = self.config(chain, file(1), file(2)).map_err(TlsError::from)?;
        Ok(Tls {
            config: Arc::new(config),
            validity,
        })
    }

    /// An invalid certificate does not replace a valid one.
    fn check_replacement(&self, old: &Tls, new: &Tls) -> Result<(), SecurityError> {
        match (old.fault(), new.fault()) {
            (None, Some(reason)) => {
                let path = self.0.certificate.clone();
                Err(TlsError::NotValid { path, reason }.into())
            }
            _ => Ok(()),
        }
    }
}

impl TlsFiles {
    fn config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        client_ca: &[u8],
    ) -> Result<ServerConfig, CertificateFileError> {
        let paths = &self.0;
        let key = private_key(key, &paths.key)?;
        let pair = pair(chain, key, &paths.certificate, &paths.key)?;
        let provider = Arc::new(ring::default_provider());
        let unusable = |path: &Path| CertificateFileError::Certificate {
            path: path.to_owned(),
        };
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock))
            .with_safe_default_protocol_versions()
            // The provider supports all versions of TLS, so this can't fail.
            .map_err(|_| unusable(&paths.certificate))?;
        let builder = match &paths.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = authorities(certificates(client_ca, path)?, path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    // Fails only without an authority, and the file has at least one.
                    .map_err(|_| unusable(path))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(config)
    }
}
