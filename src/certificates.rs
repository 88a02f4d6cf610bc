//! Reads certificates and private keys from PEM files. If TLS can't use a file, the error names the file, what is
//! wrong, and what to do. The texts of the TLS library name none of these.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use thiserror::Error;
use x509_cert::{Certificate, Version, der::Decode};

/// Why a file with certificates or with a private key can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// The file is not in PEM format, or has no object of the needed kind.
    #[error("{} has no {wanted} in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// The kind of object: `certificate` or `private key`.
        wanted: &'static str,
    },
    /// The private key is encrypted.
    #[error(
        "the key in {} is encrypted with a password: decrypt it, for example with `openssl pkey`, and protect the file",
        path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The key has another type or size than TLS can use here.
    #[error(
        "the key in {} can't be used: it must be an RSA key of 2048 to 8192 bits, an ECDSA key on P-256 or P-384, or an \
         Ed25519 key; issue a new certificate with such a key",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The key is the key of another certificate.
    #[error(
        "the key in {} does not belong to the certificate in {}: use the pair that was issued together",
        key.display(), certificate.display()
    )]
    OtherKey {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The certificate has an old version of X.509.
    #[error("the certificate in {} has X.509 version {version}, but must have version 3: issue it again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the certificate.
        version: u8,
    },
    /// The certificate can't be parsed.
    #[error("the certificate in {} can't be read: it is damaged or not an X.509 certificate; issue it again", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
}

// ===== impl CertificateFileError =====

impl CertificateFileError {
    /// Returns the path of the file that can't be used. If a key belongs to another certificate, returns the path of the
    /// certificate.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            CertificateFileError::OtherKey { certificate, .. } => certificate,
            CertificateFileError::NotPem { path, .. }
            | CertificateFileError::EncryptedKey { path }
            | CertificateFileError::Key { path }
            | CertificateFileError::Version { path, .. }
            | CertificateFileError::Certificate { path } => path,
        }
    }
}

/// Returns the certificates in `pem`, the content of the file `path`. At least one.
///
/// # Errors
/// [`CertificateFileError::NotPem`].
pub fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFileError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(CertificateFileError::NotPem {
            path: path.to_owned(),
            wanted: "certificate",
        }),
    }
}

/// Returns the private key in `pem`, the content of the file `path`.
///
/// # Errors
/// [`CertificateFileError::NotPem`] or [`CertificateFileError::EncryptedKey`].
pub fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CertificateFileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let path = path.to_owned();
        if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
            CertificateFileError::EncryptedKey { path }
        } else {
            CertificateFileError::NotPem {
                path,
                wanted: "private key",
            }
        }
    })
}

/// The label of an encrypted key in PEM.
const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";

/// Returns the TLS settings of a client that trusts the authorities `roots` and presents `identity`, which is a chain
/// of certificates and its private key.
///
/// # Errors
/// [`rustls::Error`] if TLS can't use the identity. [`pair`] has better texts for most of these cases.
pub fn client_tls(
    roots: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, private_key)) => builder.with_client_auth_cert(chain, private_key),
    }
}

/// Joins a certificate chain and its private key, and checks that the key belongs to the first certificate. An error
/// names the files that they were read from: `certificate` and `key`.
///
/// # Errors
/// [`CertificateFileError`].
pub fn pair(
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
    certificate: &Path,
    key: &Path,
) -> Result<CertifiedKey, CertificateFileError> {
    let first = chain.first().cloned();
    CertifiedKey::from_der(chain, private_key, &ring::default_provider()).map_err(|error| {
        match (error, first) {
            (rustls::Error::InconsistentKeys(_), _) => CertificateFileError::OtherKey {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            },
            (rustls::Error::InvalidCertificate(_), Some(first)) => unusable(&first, certificate),
            _ => CertificateFileError::Key { path: key.to_owned() },
        }
    })
}

/// Returns the store of trusted authorities with these `certificates`. An error names `path`, the file that they were
/// read from.
///
/// # Errors
/// [`CertificateFileError`] if one of them can't be used.
pub fn authorities(
    certificates: Vec<CertificateDer<'static>>,
    path: &Path,
) -> Result<RootCertStore, CertificateFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(|_| unusable(&certificate, path))?;
    }
    Ok(roots)
}

/// Checks that at least one of the authorities `certificates`, which were read from the file `path`, can be used. The
/// TLS library ignores the others, because a bundle of the operating system may contain very old certificates.
///
/// # Errors
/// [`CertificateFileError`] for the first certificate, if none of them can be used.
pub fn check_authorities(
    certificates: &[CertificateDer<'static>],
    path: &Path,
) -> Result<(), CertificateFileError> {
    let (usable, _ignored) = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned());
    match certificates.first() {
        Some(first) if usable == 0 => Err(unusable(first, path)),
        Some(_) | None => Ok(()),
    }
}

/// Returns why the TLS library can't use a certificate from the file `path`.
fn unusable(certificate: &CertificateDer<'_>, path: &Path) -> CertificateFileError {
    let path = path.to_owned();
    let parsed = Certificate::from_der(certificate);
    match parsed.map(|parsed| parsed.tbs_certificate().version()) {
        Ok(Version::V1) => CertificateFileError::Version { path, version: 1 },
        Ok(Version::V2) => CertificateFileError::Version { path, version: 2 },
        Ok(Version::V3) | Err(_) => CertificateFileError::Certificate { path },
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Returns a certificate and the DER form of its key.
    fn issued() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate, key)
    }

    /// Returns a copy of a certificate that states X.509 version 1.
    fn of_version_1(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
        // The version in DER: a context-specific field with an INTEGER, 2 for version 3.
        let version = [0xa0, 3, 2, 1, 2];
        let mut bytes = certificate.to_vec();
        let place = bytes.windows(5).position(|window| window == version).unwrap();
        bytes[place + 4] = 0;
        bytes.into()
    }

    fn words(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> String {
        let (certificate_file, key_file) = (Path::new("a.crt"), Path::new("a.key"));
        pair(chain, key, certificate_file, key_file)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_pair_that_can_not_be_used_is_described_with_its_files() {
        let ((certificate, key), (_, other)) = (issued(), issued());
        let (certificate_file, key_file) = (Path::new("a.crt"), Path::new("a.key"));
        pair(
            vec![certificate.clone()],
            key.clone_key(),
            certificate_file,
            key_file,
        )
        .unwrap();
        assert_eq!(
            words(vec![certificate.clone()], other),
            "the key in a.key does not belong to the certificate in a.crt: use the pair that was issued together"
        );
        assert_eq!(
            words(vec![of_version_1(&certificate)], key.clone_key()),
            "the certificate in a.crt has X.509 version 1, but must have version 3: issue it again"
        );
        assert_eq!(
            words(vec![vec![0x30, 0].into()], key),
            "the certificate in a.crt can't be read: it is damaged or not an X.509 certificate; issue it again"
        );
        let no_key = PrivateKeyDer::Pkcs8(vec![0x30, 0].into());
        assert!(
            words(vec![certificate], no_key)
                .starts_with("the key in a.key can't be used: it must be an RSA key of")
        );
    }

    #[test]
    fn an_authority_that_can_not_be_used_is_described() {
        let (certificate, _) = issued();
        let file = Path::new("ca.crt");
        assert_eq!(authorities(vec![certificate.clone()], file).unwrap().len(), 1);
        let old = of_version_1(&certificate);
        let expected = CertificateFileError::Version {
            path: file.to_owned(),
            version: 1,
        };
        let both = vec![old.clone(), certificate];
        assert_eq!(check_authorities(&both, file), Ok(()));
        assert_eq!(authorities(both, file).unwrap_err(), expected);
        assert_eq!(check_authorities(&[old], file), Err(expected));
    }

    #[test]
    fn a_file_without_the_needed_object_is_described() {
        let file = Path::new("x.pem");
        assert_eq!(
            certificates(b"text", file).unwrap_err().to_string(),
            "x.pem has no certificate in PEM"
        );
        assert_eq!(
            private_key(b"text", file).unwrap_err().to_string(),
            "x.pem has no private key in PEM"
        );
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let words = private_key(encrypted, file).unwrap_err().to_string();
        assert!(
            words.starts_with("the key in x.pem is encrypted with a password"),
            "{words}"
        );
    }
}
