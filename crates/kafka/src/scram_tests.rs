use super::*;

struct Vector {
    mechanism: Mechanism,
    server_first: &'static str,
    client_last: &'static str,
    server_last: &'static str,
}

/// User `user` with password `pencil`. The first one is the example of RFC 7677.
const VECTORS: [Vector; 2] = [
    Vector {
        mechanism: Mechanism::ScramSha256,
        server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_last: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        server_last: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    },
    Vector {
        mechanism: Mechanism::ScramSha512,
        server_first: "r=rOprNGfwEbeRWgbNEkqO02431b08-2f89-4bad-a4e6-80c0564ec865,s=Yin2FuHTt/M0kJWb0t9OI32n2VmOGi3m+JfjOvuDF88=,i=4096",
        client_last: "c=biws,r=rOprNGfwEbeRWgbNEkqO02431b08-2f89-4bad-a4e6-80c0564ec865,p=Hc5yec3NmCD7t+kFRw4/3yD6/F3SQHc7AVYschRja+Bc3sbdjlA0eH1OjJc0DD4ghn1tnXN5/Wr6qm9xmaHt4A==",
        server_last: "v=BQuhnKHqYDwQWS5jAw4sZed+C9KFUALsbrq81bB0mh+bcUUbbMPNNmBIupnS2AmyyDnG5CTBQtkjJ9kyY4kzmw==",
    },
];

fn begin(mechanism: Mechanism, password: &str) -> Scram {
    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    Scram::with_nonce(mechanism, "user", Password::new(password), nonce).unwrap()
}

#[test]
fn the_messages_are_the_ones_of_the_standard() {
    for vector in VECTORS {
        let exchange = begin(vector.mechanism, "pencil");
        assert_eq!(exchange.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, proof) = exchange.last(vector.server_first.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(last).unwrap(), vector.client_last);
        assert_eq!(proof.check(vector.server_last.as_bytes()), Ok(()));
    }
}

#[test]
fn a_broker_that_does_not_know_the_password_is_refused() {
    for vector in VECTORS {
        let exchange = begin(vector.mechanism, "another");
        let (last, proof) = exchange.last(vector.server_first.as_bytes()).unwrap();
        assert_ne!(String::from_utf8(last).unwrap(), vector.client_last);
        assert!(proof.check(vector.server_last.as_bytes()).is_err());
        assert!(proof.check(b"e=other-error").is_err());
        assert!(proof.check(b"v=").is_err());
    }
}

#[test]
fn a_first_message_of_the_broker_is_checked() {
    let nonce = "rOprNGfwEbeRWgbNEkqO";
    for (message, why) in [
        (
            format!("r={nonce},s=AAAA,i=4096"),
            "the broker added nothing to the nonce",
        ),
        (
            "r=xOprNGfwEbeRWgbNEkqOyyy,s=AAAA,i=4096".to_owned(),
            "another nonce",
        ),
        (format!("r={nonce}y,s=A,i=4096"), "not base64"),
        (format!("r={nonce}y,s=AAAA,i=4095"), "too few iterations"),
        (format!("r={nonce}y,s=AAAA,i=1000001"), "too many iterations"),
        (format!("r={nonce}y,s=AAAA,i=-1"), "not a number"),
        (format!("r={nonce}y,s=AAAA"), "no iterations"),
        (
            format!("m=x,r={nonce}y,s=AAAA,i=4096"),
            "an extension that must be understood",
        ),
        (format!("r={nonce}{},s=AAAA,i=4096", "y".repeat(5000)), "too long"),
        (String::new(), "empty"),
    ] {
        let exchange = begin(Mechanism::ScramSha256, "pencil");
        assert!(exchange.last(message.as_bytes()).is_err(), "{why}");
    }
    assert!(begin(Mechanism::ScramSha256, "pencil").last(&[0xff]).is_err());
}

#[test]
fn a_user_name_is_escaped_and_each_nonce_differs() {
    let first = |user: &str| {
        let exchange = Scram::new(Mechanism::ScramSha256, user, Password::new("p")).unwrap();
        String::from_utf8(exchange.first()).unwrap()
    };
    assert!(first("a=b,c").starts_with("n,,n=a=3Db=2Cc,r="));
    assert_ne!(first("a"), first("a"));
}
