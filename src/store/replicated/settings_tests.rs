use super::*;

/// Returns the settings of the first of three replicas, without security.
fn good() -> ReplicatedSettings {
    ReplicatedSettings {
        brokers: Some("k1:9092, k2:9092,k3:9092".to_owned()),
        advertise: Some("http://a.example:50051/".to_owned()),
        peers: Some("http://A.example:50051,http://b.example:50051,http://[::1]:50051".to_owned()),
        ..ReplicatedSettings::default()
    }
}

fn refusal(settings: &ReplicatedSettings) -> String {
    settings.config().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_within_the_bounds_and_a_replicated_store_needs_more() {
    ReplicatedSettings::default().check().unwrap();
    let config = good().config().unwrap();
    assert_eq!(config.brokers, ["k1:9092", "k2:9092", "k3:9092"]);
    assert_eq!(config.advertise, "http://a.example:50051");
    assert_eq!(config.peers, ["http://b.example:50051", "http://[::1]:50051"]);
    assert_eq!(config.security, BrokerSecurity::default());
    for (key, settings) in [
        (
            "brokers",
            ReplicatedSettings {
                brokers: None,
                ..good()
            },
        ),
        (
            "advertise",
            ReplicatedSettings {
                advertise: None,
                ..good()
            },
        ),
        (
            "peers",
            ReplicatedSettings {
                peers: None,
                ..good()
            },
        ),
    ] {
        settings.check().unwrap();
        let error = refusal(&settings);
        assert!(
            error.starts_with(&format!("store.replicated.{key} = unset: must be set to "))
                && error.ends_with(", because store.kind is replicated"),
            "{error}"
        );
    }
}

#[test]
fn addresses_are_checked_one_by_one() {
    let long = format!("{}:1", "h".repeat(300));
    for text in [
        "",
        "k1",
        "k1:0",
        "k1:99999",
        ":9092",
        "http://k1:9092",
        "k1:1,,k2:1",
        "u@k1:1",
        &long,
    ] {
        let settings = ReplicatedSettings {
            brokers: Some(text.to_owned()),
            ..good()
        };
        let error = refusal(&settings);
        assert!(
            error.starts_with("store.replicated.brokers = ") && error.contains("HOST:PORT"),
            "{error}"
        );
    }
    for text in [
        "",
        "a:1",
        "http://a",
        "ftp://a:1",
        "http://a:0",
        "http://a:1/x",
        "http://a:1?x",
        "http://:1",
        &long,
    ] {
        for (key, settings) in [
            (
                "advertise",
                ReplicatedSettings {
                    advertise: Some(text.to_owned()),
                    ..good()
                },
            ),
            (
                "peers",
                ReplicatedSettings {
                    peers: Some(text.to_owned()),
                    ..good()
                },
            ),
        ] {
            let error = refusal(&settings);
            assert!(
                error.starts_with(&format!("store.replicated.{key} = ")),
                "{error}"
            );
            assert!(
                error.contains(": must be http://HOST:PORT, or https://HOST:PORT with TLS"),
                "{error}"
            );
        }
    }
}

#[test]
fn addresses_must_be_reachable_and_different() {
    for url in ["http://0.0.0.0:50051", "https://[::]:50051"] {
        let settings = ReplicatedSettings {
            advertise: Some(url.to_owned()),
            ..good()
        };
        assert!(refusal(&settings).ends_with("with a host that other machines can reach"));
    }
    let twice = ReplicatedSettings {
        brokers: Some("k1:1,K1:1".to_owned()),
        ..good()
    };
    assert_eq!(
        refusal(&twice),
        "store.replicated.brokers = K1:1: must be a list in which each address is once"
    );
    let twice = ReplicatedSettings {
        peers: Some("http://b:1,http://B:1/".to_owned()),
        ..good()
    };
    assert_eq!(
        refusal(&twice),
        "store.replicated.peers = http://b:1: must be a list in which each address is once"
    );
    let many: Vec<String> = (0..10).map(|number| format!("http://p{number}:1")).collect();
    let many = ReplicatedSettings {
        peers: Some(many.join(",")),
        ..good()
    };
    assert!(refusal(&many).starts_with("store.replicated.peers = 10 peers: must be "));
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    let mut settings = ReplicatedSettings {
        advertise: Some("http://user:secret@a:1".to_owned()),
        peers: Some("http://b:1,http://user:secret@c:1".to_owned()),
        ..good()
    };
    for settings in [
        ReplicatedSettings {
            peers: None,
            ..settings.clone()
        },
        ReplicatedSettings {
            advertise: None,
            ..settings.clone()
        },
    ] {
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("***@") && !error.contains("secret"), "{error}");
    }
    settings.hide_secrets();
    assert_eq!(settings.peers.as_deref(), Some("http://b:1,http://***@c:1"));
    assert_eq!(settings.advertise.as_deref(), Some("http://***@a:1"));
}

/// Settings with TLS and SASL to the brokers.
fn with_sasl() -> ReplicatedSettings {
    let path = || Some(PathBuf::from("/etc/tally/file"));
    ReplicatedSettings {
        security: SecurityProtocol::SaslTls,
        tls_ca_file: path(),
        sasl_mechanism: Some(SaslMechanism::ScramSha512),
        sasl_username: Some("tally-user".to_owned()),
        sasl_password_file: path(),
        ..good()
    }
}

/// Changes the settings with TLS and SASL, and checks the error.
fn check_refusal(expected: &str, change: impl FnOnce(&mut ReplicatedSettings)) {
    let mut settings = with_sasl();
    change(&mut settings);
    assert_eq!(refusal(&settings), format!("store.replicated.{expected}"));
}

#[test]
fn the_account_at_the_brokers_is_not_shown() {
    let security = with_sasl().config().unwrap().security;
    assert_eq!(
        security.tls.as_ref().unwrap().ca,
        PathBuf::from("/etc/tally/file")
    );
    let shown = format!("{security:?}");
    assert!(!shown.contains("tally-user"), "{shown}");
}

#[test]
fn sasl_needs_its_keys_and_refuses_them_elsewhere() {
    let needed = "must be set, because store.replicated.security is sasl_plaintext or sasl_tls";
    let unneeded = "must be unset, unless store.replicated.security is sasl_plaintext or sasl_tls";
    check_refusal(&format!("sasl_mechanism = unset: {needed}"), |settings| {
        settings.sasl_mechanism = None;
    });
    check_refusal(&format!("sasl_username = unset: {needed}"), |settings| {
        settings.sasl_username = None;
    });
    check_refusal(&format!("sasl_password_file = unset: {needed}"), |settings| {
        settings.sasl_password_file = None;
    });
    check_refusal(
        &format!("sasl_mechanism = scram-sha-512: {unneeded}"),
        |settings| {
            settings.security = SecurityProtocol::Tls;
        },
    );
    check_refusal(
        "sasl_password_file = \"\": must be the path of a file",
        |settings| {
            settings.sasl_password_file = Some(PathBuf::new());
        },
    );
    check_refusal(
        "sasl_username = \"\": must be a name of 1 to 255 bytes without control characters",
        |settings| settings.sasl_username = Some(String::new()),
    );
}

#[test]
fn tls_needs_its_keys_and_refuses_them_elsewhere() {
    let path = || Some(PathBuf::from("/etc/tally/file"));
    check_refusal(
        "tls_ca_file = /etc/tally/file: must be unset, unless store.replicated.security is tls or sasl_tls",
        |settings| settings.security = SecurityProtocol::SaslPlaintext,
    );
    check_refusal(
        "tls_ca_file = unset: must be set, because store.replicated.security is tls or sasl_tls",
        |settings| settings.tls_ca_file = None,
    );
    check_refusal(
        "tls_key_file = unset: must be set together with store.replicated.tls_cert_file",
        |settings| settings.tls_cert_file = path(),
    );
    check_refusal(
        "tls_cert_file = unset: must be set together with store.replicated.tls_key_file",
        |settings| settings.tls_key_file = path(),
    );
    check_refusal(
        "peer_ca_file = /etc/tally/file: must be unset, because no URL of another replica in store.replicated.peers begins with \
         https://",
        |settings| settings.peer_ca_file = path(),
    );
    check_refusal(
        "peer_ca_file = unset: must be set, because a URL in store.replicated.peers begins with https://",
        |settings| settings.peers = Some("https://b.example:50051".to_owned()),
    );
}

#[test]
fn times_must_fit_together() {
    let ms = Duration::from_millis;
    for (expected, settings) in [
        (
            "heartbeat = 5ms: must be 10ms to 1s",
            ReplicatedSettings {
                heartbeat: ms(5),
                ..good()
            },
        ),
        (
            "claim_after = 499ms: must be 500ms to 1m (5 times store.replicated.heartbeat)",
            ReplicatedSettings {
                claim_after: ms(499),
                ..good()
            },
        ),
        (
            "claim_jitter = 0s: must be 10ms to 10s",
            ReplicatedSettings {
                claim_jitter: ms(0),
                ..good()
            },
        ),
        (
            "claim_after_closed = 701ms: must be 200ms to 700ms (twice store.replicated.heartbeat, and \
             store.replicated.claim_after)",
            ReplicatedSettings {
                claim_after_closed: ms(701),
                ..good()
            },
        ),
        (
            "request_timeout = 99ms: must be 100ms to 1m",
            ReplicatedSettings {
                request_timeout: ms(99),
                ..good()
            },
        ),
        (
            "requests_in_flight = 0: must be 1 to 16",
            ReplicatedSettings {
                requests_in_flight: 0,
                ..good()
            },
        ),
        (
            "topic = ..: must be 1 to 249 letters, digits, dots, underscores and hyphens, but not . or ..",
            ReplicatedSettings {
                topic: "..".to_owned(),
                ..good()
            },
        ),
    ] {
        assert_eq!(refusal(&settings), format!("store.replicated.{expected}"));
    }
}
