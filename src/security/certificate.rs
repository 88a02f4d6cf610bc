//! The period in which a certificate is valid. rustls checks this period only for the certificates of clients. A server
//! with rustls uses its own certificate after it has expired, without a warning.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::{Certificate, der::Decode, ext::pkix::BasicConstraints};

/// The subject of a certificate, and the period in which the certificate is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    /// The subject's distinguished name, in the notation of RFC 4514.
    pub(super) subject: String,
    /// The first instant of validity, since the Unix epoch.
    pub(super) not_before: Duration,
    /// The last instant of validity, since the Unix epoch.
    pub(super) not_after: Duration,
    /// Whether the certificate is the certificate of an authority. Clients such as rustls refuse it as the certificate of a
    /// server; OpenSSL and Go accept it.
    pub(super) is_authority: bool,
    /// `not_before` and `not_after` as text, such as `2026-11-28T12:00:00Z`.
    texts: [String; 2],
}

// ===== impl Validity =====

impl Validity {
    /// Parses `certificate`. Returns `None` if the certificate does not conform to RFC 5280. rustls may still use
    /// such a certificate.
    pub(super) fn parse(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let contents = certificate.tbs_certificate();
        let validity = contents.validity();
        let constraints = contents.get_extension::<BasicConstraints>();
        Some(Validity {
            subject: contents.subject().to_string(),
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
            is_authority: matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. })))),
            texts: [validity.not_before.to_string(), validity.not_after.to_string()],
        })
    }

    /// Returns why the certificate is not valid at `now`; `None` if it is valid.
    pub(super) fn fault(&self, now: Duration) -> Option<String> {
        let Validity { subject, texts, .. } = self;
        let [not_before, not_after] = texts;
        if now < self.not_before {
            Some(format!(
                "the certificate of {subject:?} is not valid before {not_before}"
            ))
        } else if now > self.not_after {
            Some(format!("the certificate of {subject:?} expired at {not_after}"))
        } else {
            None
        }
    }

    /// Returns the last instant of validity as text.
    pub(super) fn not_after_text(&self) -> &str {
        let [_, not_after] = &self.texts;
        not_after
    }
}

/// Returns the current time since the Unix epoch; zero if the system clock is before the epoch.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn valid_in(years: [i32; 2]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "books");
        params.not_before = date_time_ymd(years[0], 1, 1);
        params.not_after = date_time_ymd(years[1], 1, 1);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_moment_to_its_last() {
        // The certificate is valid from 2001-01-01 to 2051-01-01. Certificates store the first date as UTCTime and the
        // second date as GeneralizedTime.
        let validity = Validity::parse(&valid_in([2001, 2051])).unwrap();
        let [first, last] = [978_307_200, 2_556_144_000].map(Duration::from_secs);
        assert_eq!((validity.not_before, validity.not_after), (first, last));
        let second = Duration::from_secs(1);
        for valid in [first, last, Duration::from_secs(1_800_000_000)] {
            assert_eq!(validity.fault(valid), None, "{valid:?}");
        }
        let name = |fault: Option<String>| fault.unwrap().replace("rcgen self signed cert", "");
        assert!(name(validity.fault(first - second)).ends_with("is not valid before 2001-01-01T00:00:00Z"));
        assert!(name(validity.fault(Duration::ZERO)).contains("CN=books"));
        assert!(name(validity.fault(last + second)).ends_with("expired at 2051-01-01T00:00:00Z"));
    }

    #[test]
    fn a_certificate_without_an_end_is_valid_for_ever_and_other_bytes_are_not_parsed() {
        let validity = Validity::parse(&valid_in([2001, 9999])).unwrap();
        assert_eq!(validity.fault(Duration::from_secs(200_000_000_000)), None);
        assert_eq!(Validity::parse(&CertificateDer::from(vec![0x30, 0])), None);
    }
}
