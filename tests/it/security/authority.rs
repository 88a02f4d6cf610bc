//! A certificate authority for tests.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// A certificate authority. It writes the certificates that it signs to a directory.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: PathBuf,
    /// The key of the authority.
    key: PathBuf,
    home: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    LongAgo,
    NotYet,
}

impl Authority {
    pub(crate) fn new(home: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = home.join(format!("{name}.crt"));
        let key_file = home.join(format!("{name}.key"));
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
            key: key_file,
            home: home.to_owned(),
        }
    }

    /// Returns the authority's own certificate and key, which a service must not use.
    pub(crate) fn own_pair(&self) -> Pair {
        Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }

    pub(crate) fn server(&self, name: &str) -> Pair {
        self.server_valid(name, Validity::Now)
    }

    pub(crate) fn server_valid(&self, name: &str, validity: Validity) -> Pair {
        self.sign(name, ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    pub(crate) fn client(&self, name: &str, validity: Validity) -> Pair {
        self.sign(name, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose, validity: Validity) -> Pair {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        (params.not_before, params.not_after) = match validity {
            Validity::Now => (params.not_before, params.not_after),
            Validity::LongAgo => (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1)),
            Validity::NotYet => (date_time_ymd(3001, 1, 1), date_time_ymd(3002, 1, 1)),
        };
        let key = KeyPair::generate().unwrap();
        let pair = Pair {
            certificate: self.home.join(format!("{name}.crt")),
            key: self.home.join(format!("{name}.key")),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&pair.certificate, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}
