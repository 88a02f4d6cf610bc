//! TLS, by rustls: HTTP/2 only, and clients' certificates if an authority for them is named.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use thiserror::Error;

use super::{SecurityError, TlsPaths, watched::Source};

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
}

/// The files, and how a configuration is made of them.
#[derive(Debug)]
pub(super) struct TlsFiles(pub(super) TlsPaths);

/// The one protocol that is spoken inside.
const ALPN_HTTP2: &[u8] = b"h2";

// ===== impl TlsFiles =====

impl Source for TlsFiles {
    type Made = ServerConfig;

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

    fn make(&self, contents: &[Vec<u8>]) -> Result<ServerConfig, SecurityError> {
        let of = |index: usize| contents.get(index).map(Vec::as_slice).unwrap_or_default();
        Ok(self.config(of(0), of(1), of(2))?)
    }
}

impl TlsFiles {
    fn config(&self, certificate: &[u8], key: &[u8], client_ca: &[u8]) -> Result<ServerConfig, TlsError> {
        let paths = &self.0;
        let chain = certificates(certificate, &paths.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Pem {
            path: paths.key.clone(),
            wanted: "private key",
        })?;
        let provider = Arc::new(ring::default_provider());
        let pair = |source| TlsError::Pair {
            certificate: paths.certificate.clone(),
            key: paths.key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match &paths.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |reason: String| TlsError::ClientCa {
                    path: path.clone(),
                    reason,
                };
                let mut roots = RootCertStore::empty();
                for root in certificates(client_ca, path)? {
                    roots.add(root).map_err(|error| wrong(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| wrong(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::Pem {
        path: path.to_owned(),
        wanted: "certificate",
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if chain.is_empty() { Err(none()) } else { Ok(chain) }
}
