//! The settings section `security`: the files of certificates and tokens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::settings::SettingError;

/// Certificates and tokens. The service reads the files again when they change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecuritySettings {
    /// The server's certificate chain in PEM. Needs `tls_key`.
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    pub tls_key: Option<PathBuf>,
    /// The certificate authorities for clients, in PEM. If this is set, a client must present a certificate that one of
    /// them signed.
    pub client_ca: Option<PathBuf>,
    /// The tokens file: one token in a line, as `role name sha256`, or `role name sha256 prefix=TEXT` for ids that begin with the text. The role is `read`, `write` or `admin`.
    pub tokens_file: Option<PathBuf>,
    /// Allows the service to listen without TLS and tokens on an address that other machines can reach.
    pub allow_insecure: bool,
}

/// The checked settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// The files of TLS. If `None`, connections are not encrypted.
    pub tls: Option<TlsPaths>,
    /// The tokens file. If `None`, calls need no token, and every caller may do everything.
    pub tokens: Option<PathBuf>,
}

/// The files of TLS, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The server's certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The certificate authorities for clients. If this is set, a client must present a certificate.
    pub client_ca: Option<PathBuf>,
}

// ===== impl SecuritySettings =====

impl SecuritySettings {
    /// Checks that no path is empty, that certificate and key are set together, and that a CA for clients is set only together with them.
    ///
    /// # Errors
    /// [`SettingError`] for the key that is empty or missing.
    pub fn config(&self) -> Result<SecurityConfig, SettingError> {
        for (key, path) in [
            ("security.tls_certificate", &self.tls_certificate),
            ("security.tls_key", &self.tls_key),
            ("security.client_ca", &self.client_ca),
            ("security.tokens_file", &self.tokens_file),
        ] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(SettingError::new(key, "", "the path of a file"));
            }
        }
        let missing =
            |key: &str, other: &str| SettingError::new(key, "unset", format!("set together with {other}"));
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsPaths {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.client_ca.clone(),
            }),
            (None, None) if self.client_ca.is_none() => None,
            (None, None) => return Err(missing("security.tls_certificate", "security.client_ca")),
            (None, Some(_)) => return Err(missing("security.tls_certificate", "security.tls_key")),
            (Some(_), None) => return Err(missing("security.tls_key", "security.tls_certificate")),
        };
        Ok(SecurityConfig {
            tls,
            tokens: self.tokens_file.clone(),
        })
    }

    /// Returns whether calls are encrypted and need a token.
    #[must_use]
    pub const fn is_secured(&self) -> bool {
        self.tls_certificate.is_some() && self.tls_key.is_some() && self.tokens_file.is_some()
    }
}
