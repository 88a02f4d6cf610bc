use super::*;

fn settings() -> Settings {
    Settings::new(vec!["localhost:9092".parse().unwrap()], "blocks")
}

#[test]
fn an_endpoint_is_read_and_written() {
    for text in [
        "localhost:9092",
        "10.0.0.1:1",
        "[::1]:65535",
        "b-1.example.org:9094",
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "localhost",
        ":9092",
        "localhost:0",
        "localhost:65536",
        "::1:9092",
        "[::1:9092",
        "a]:1",
        "a:b:1",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

#[test]
fn every_setting_has_a_bound() {
    assert_eq!(settings().check(), Ok(()));
    let sasl = |user: &str, password: &str| {
        Some(Sasl {
            mechanism: Mechanism::Plain,
            user: user.to_owned(),
            password: Password::new(password),
        })
    };
    let endpoint = || "localhost:9092".parse().unwrap();
    type Change<'a> = &'a dyn Fn(&mut Settings);
    let cases: [(&str, Change<'_>); 18] = [
        ("bootstrap", &|settings| settings.bootstrap.clear()),
        ("bootstrap", &|settings| {
            settings.bootstrap = (0..=ENDPOINTS_MAX).map(|_| endpoint()).collect()
        }),
        ("topic", &|settings| settings.topic.clear()),
        ("topic", &|settings| settings.topic = "a/b".to_owned()),
        ("topic", &|settings| settings.topic = "..".to_owned()),
        ("topic", &|settings| settings.topic = "a".repeat(250)),
        ("partition", &|settings| settings.partition = -1),
        ("client_id", &|settings| settings.client_id = "a".repeat(1025)),
        ("connect_timeout", &|settings| {
            settings.connect_timeout = Duration::ZERO
        }),
        ("request_timeout", &|settings| {
            settings.request_timeout = Duration::from_secs(601)
        }),
        ("in_flight_max", &|settings| settings.in_flight_max = 0),
        ("in_flight_max", &|settings| {
            settings.in_flight_max = IN_FLIGHT_MAX + 1
        }),
        ("batch_bytes_max", &|settings| settings.batch_bytes_max = 1023),
        ("fetch_bytes_max", &|settings| {
            settings.fetch_bytes_max = BYTES_MAX + 1
        }),
        ("sasl.user", &|settings| settings.sasl = sasl("", "a")),
        ("sasl.user", &|settings| settings.sasl = sasl("a\0b", "a")),
        ("sasl.password", &|settings| settings.sasl = sasl("a", "")),
        ("sasl.password", &|settings| {
            settings.sasl = sasl("a", &"a".repeat(1025))
        }),
    ];
    for (expected, change) in cases {
        let mut settings = settings();
        change(&mut settings);
        match settings.check() {
            Err(Error::Setting { name, value, .. }) => {
                assert_eq!(name, expected);
                assert!(
                    !name.starts_with("sasl") || value.ends_with("bytes long"),
                    "a password is not shown"
                );
            }
            outcome => panic!("{expected}: {outcome:?}"),
        }
    }
}

#[test]
fn a_mechanism_is_read() {
    assert_eq!(
        "SCRAM-SHA-512".parse::<Mechanism>().unwrap(),
        Mechanism::ScramSha512
    );
    assert!("GSSAPI".parse::<Mechanism>().is_err());
}
