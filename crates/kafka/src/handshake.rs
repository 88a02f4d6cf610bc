//! Connects to a broker: TCP, TLS, `ApiVersions`, SASL.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{
    connection::{Bounds, Connection, Transport},
    error::{Error, ErrorCode, Malformed},
    messages::{API_VERSIONS, SASL_AUTHENTICATE, SASL_HANDSHAKE, connect},
    scram::Scram,
    settings::{Endpoint, Mechanism, Sasl, Settings, Tls},
};

/// Maximum number of bytes of a frame in addition to its records.
const FRAME_EXTRA_BYTES: usize = 1024 * 1024;

/// A connection that is ready for calls.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) connection: Connection,
    /// When the broker ends the SASL session.
    pub(crate) expires: Option<Instant>,
}

/// Connects to `endpoint` within [`Settings::connect_timeout`].
pub(crate) async fn connect(settings: &Settings, endpoint: &Endpoint) -> Result<Ready, Error> {
    let limit = settings.connect_timeout;
    tokio::time::timeout(limit, open(settings, endpoint))
        .await
        .unwrap_or_else(|_| {
            Err(Error::Timeout {
                endpoint: endpoint.to_string(),
                call: "Connect",
                limit,
            })
        })
}

async fn open(settings: &Settings, endpoint: &Endpoint) -> Result<Ready, Error> {
    let failed = |error: io::Error| Error::Connect {
        endpoint: endpoint.to_string(),
        kind: error.kind(),
    };
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let transport: Box<dyn Transport> = match &settings.tls {
        Some(tls) => secure(tcp, tls, endpoint).await?,
        None => Box::new(tcp),
    };
    let bounds = Bounds {
        client_id: settings.client_id.clone(),
        in_flight_max: settings.in_flight_max,
        // A fetch returns at least one whole batch, whatever its size.
        frame_bytes_max: settings.fetch_bytes_max.max(settings.batch_bytes_max) + FRAME_EXTRA_BYTES,
        request_timeout: settings.request_timeout,
    };
    let mut connection = Connection::start(transport, endpoint.to_string(), bounds);
    ask_versions(&mut connection).await?;
    let expires = match &settings.sasl {
        Some(sasl) => authenticate(&connection, sasl).await?,
        None => None,
    };
    Ok(Ready { connection, expires })
}

async fn secure(tcp: TcpStream, tls: &Tls, endpoint: &Endpoint) -> Result<Box<dyn Transport>, Error> {
    let refuse = |cause: String| Error::Tls {
        endpoint: endpoint.to_string(),
        cause,
    };
    let name = tls.server_name.as_ref().unwrap_or(&endpoint.host);
    let name = ServerName::try_from(name.clone())
        .map_err(|_| refuse(format!("{name} is neither a host name nor an IP address")))?;
    let stream = TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, tcp)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    Ok(Box::new(stream))
}

async fn ask_versions(connection: &mut Connection) -> Result<(), Error> {
    let version = connection.version(&API_VERSIONS)?;
    let body = connect::api_versions_request(version);
    let answer = connection
        .call(&API_VERSIONS, version, body, Duration::ZERO)
        .await?;
    let (code, versions) = connect::api_versions_answer(version, answer)
        .map_err(|Malformed(what)| connection.ending().malformed(API_VERSIONS.name, what))?;
    if code == ErrorCode::UNSUPPORTED_VERSION {
        return Err(Error::Unsupported {
            endpoint: connection.ending().endpoint().to_owned(),
            call: API_VERSIONS.name,
        });
    }
    if code != ErrorCode::NONE {
        return Err(refused(connection, API_VERSIONS.name, code, None));
    }
    connection.set_versions(versions);
    Ok(())
}

/// Authenticates, and returns when the session ends.
async fn authenticate(connection: &Connection, sasl: &Sasl) -> Result<Option<Instant>, Error> {
    let version = connection.version(&SASL_HANDSHAKE)?;
    let body = connect::sasl_handshake_request(version, sasl.mechanism.name());
    let answer = connection
        .call(&SASL_HANDSHAKE, version, body, Duration::ZERO)
        .await?;
    let (code, offered) = connect::sasl_handshake_answer(version, answer)
        .map_err(|Malformed(what)| connection.ending().malformed(SASL_HANDSHAKE.name, what))?;
    if code == ErrorCode::UNSUPPORTED_SASL_MECHANISM {
        let wanted = sasl.mechanism.name();
        let cause = format!("the broker offers {}, not {wanted}", offered.join(", "));
        return Err(unauthenticated(connection, cause));
    }
    if code != ErrorCode::NONE {
        return Err(refused(connection, SASL_HANDSHAKE.name, code, None));
    }
    let lifetime_ms = if sasl.mechanism == Mechanism::Plain {
        let message = format!("\0{}\0{}", sasl.user, sasl.password.expose());
        step(connection, message.as_bytes()).await?.lifetime_ms
    } else {
        scram(connection, sasl).await?
    };
    let lifetime = u64::try_from(lifetime_ms).ok().filter(|ms| *ms > 0);
    Ok(lifetime.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))))
}

/// Returns the lifetime of the session in ms.
async fn scram(connection: &Connection, sasl: &Sasl) -> Result<i64, Error> {
    let refuse = |cause: &str| unauthenticated(connection, cause.to_owned());
    let exchange = Scram::new(sasl.mechanism, &sasl.user, sasl.password.clone())
        .ok_or_else(|| refuse("the system has no random bytes"))?;
    let first = step(connection, &exchange.first()).await?.bytes;
    // The hashes take milliseconds. A thread of the runtime must not be blocked for this time.
    let (last, proof) = tokio::task::spawn_blocking(move || exchange.last(&first))
        .await
        .map_err(|_| refuse("the runtime ended"))?
        .map_err(refuse)?;
    let answer = step(connection, &last).await?;
    proof.check(&answer.bytes).map_err(refuse)?;
    Ok(answer.lifetime_ms)
}

async fn step(connection: &Connection, message: &[u8]) -> Result<connect::SaslAnswer, Error> {
    let version = connection.version(&SASL_AUTHENTICATE)?;
    let body = connect::sasl_authenticate_request(version, message);
    let answer = connection
        .call(&SASL_AUTHENTICATE, version, body, Duration::ZERO)
        .await?;
    let answer = connect::sasl_authenticate_answer(version, answer)
        .map_err(|Malformed(what)| connection.ending().malformed(SASL_AUTHENTICATE.name, what))?;
    if answer.code == ErrorCode::SASL_AUTHENTICATION_FAILED {
        let cause = "the user name or the password is wrong".to_owned();
        return Err(unauthenticated(connection, answer.message.unwrap_or(cause)));
    }
    if answer.code != ErrorCode::NONE {
        return Err(refused(
            connection,
            SASL_AUTHENTICATE.name,
            answer.code,
            answer.message,
        ));
    }
    Ok(answer)
}

fn unauthenticated(connection: &Connection, cause: String) -> Error {
    Error::Authentication {
        endpoint: connection.ending().endpoint().to_owned(),
        cause,
    }
}

fn refused(connection: &Connection, call: &'static str, code: ErrorCode, message: Option<String>) -> Error {
    Error::Broker {
        endpoint: connection.ending().endpoint().to_owned(),
        call,
        code,
        message,
    }
}
