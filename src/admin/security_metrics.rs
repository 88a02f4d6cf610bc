//! Certificates and tokens as metrics. Here, since `security` knows no metrics and `telemetry` no certificates.

use crate::{
    security::{Security, SecurityFigures},
    telemetry::{Families, MetricSource},
};

impl MetricSource for Security {
    fn collect(&self, families: &mut Families) {
        let SecurityFigures {
            tokens,
            tokens_stale,
            certificates_stale,
            certificate_not_after,
        } = self.figures();
        let stale = [("tokens", tokens_stale), ("certificates", certificates_stale)];
        families.gauges(
            "tally_security_stale",
            "1 if the files could not be used when they were last read, so that older contents are in force.",
            stale
                .into_iter()
                .filter_map(|(what, stale)| Some((vec![("what", what)], f64::from(u8::from(stale?))))),
        );
        if let Some(tokens) = tokens {
            families.gauge("tally_tokens", "Tokens that are valid.", tokens as f64);
        }
        if let Some(not_after) = certificate_not_after {
            families.gauge(
                "tally_certificate_not_after_timestamp_seconds",
                "When the server's certificate expires, in seconds since the Unix epoch.",
                not_after.as_secs_f64(),
            );
        }
    }
}
