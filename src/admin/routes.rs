//! The paths of the operators' port.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State},
    http::{Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};

use http_body::Body as _;

use super::{
    access, ledger,
    places::AdminConnections,
    readiness::{Phase, Readiness},
    stats::{self, Shown},
};
use crate::{
    engine::{Condition, TallyEngine},
    grpc::ConnectionMetrics,
    security::Security,
    telemetry::{Families, LogLevel, MetricSources, PROMETHEUS_TEXT, ProcessMetrics},
};

/// The parts of the service that the port shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The engine.
    pub engine: TallyEngine,
    /// The valid tokens.
    pub security: Arc<Security>,
    /// Whether the service accepts calls.
    pub readiness: Readiness,
    /// The log's filter.
    pub log_level: LogLevel,
    /// The connections to the gRPC port.
    pub connections: ConnectionMetrics,
    /// The connections to the operators' port.
    pub own_connections: AdminConnections,
    /// The start and the memory of the process.
    pub process: ProcessMetrics,
    /// The sources of the metrics.
    pub metrics: MetricSources,
}

/// The page: one file, without a build step. It sends requests only to this port.
const PAGE: &str = include_str!("page.html");
/// The page with the ledger view, made in the same way.
const LEDGER_PAGE: &str = include_str!("ledger.html");
/// A page loads nothing from other servers and sends nothing to them, and no other page may embed it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Number of characters of a path or a method that an error shows.
const SHOWN_CHARS_MAX: usize = 100;
/// Largest accepted request body, which is a log filter.
const BODY_BYTES_MAX: usize = 4096;

pub(super) fn router(admin: Admin) -> Router {
    let ledger = ledger::routes(&admin.engine, &admin.security);
    Router::new()
        .route("/", get(async || page(PAGE)))
        .route("/ledger", get(async || page(LEDGER_PAGE)))
        .route("/stats.json", get(stats))
        .route("/metrics", get(metrics))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/log-level", get(log_level).put(set_log_level))
        .merge(ledger)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn not_found(uri: Uri) -> (StatusCode, String) {
    let path: String = uri.path().chars().take(SHOWN_CHARS_MAX).collect();
    let text = format!(
        "there is no {path}; the paths are /, /ledger, /live, /log-level, /metrics, /ready and /stats.json\n"
    );
    (StatusCode::NOT_FOUND, text)
}

async fn method_not_allowed(method: Method, uri: Uri) -> (StatusCode, String) {
    // A method is a word of any length.
    let method: String = method.as_str().chars().take(SHOWN_CHARS_MAX).collect();
    let text = format!(
        "{} does not accept {method}; every path accepts GET, and /log-level also PUT\n",
        uri.path()
    );
    (StatusCode::METHOD_NOT_ALLOWED, text)
}

fn page(text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(text))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, PROMETHEUS_TEXT)],
        Families::collect(&admin.metrics).to_prometheus(),
    )
}

/// Answers that the process is alive. This thread can answer as long as the process runs, and a failed engine ends the process.
async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(admin): State<Admin>) -> Response {
    let why = match (admin.engine.health().condition(), admin.readiness.phase()) {
        (Condition::StoreFailed, _) => "the store has failed\n",
        (Condition::SteppedDown, _) => "the replica has lost its leadership, and starts again\n",
        (Condition::Panicked, _) => "a thread of the service has panicked\n",
        (Condition::Running, Phase::Starting) => "the service is starting\n",
        (Condition::Running, Phase::Draining) => "the service is stopping\n",
        (Condition::Running, Phase::Serving)
            if admin
                .engine
                .replica()
                .is_some_and(|replica| !replica.read(|view| view.caught_up)) =>
        {
            "the replica has not caught up with the log: see `tally replica status`\n"
        }
        // With an open circuit the service stays ready: if an orchestrator took the only instance out of service, clients would get
        // no answers at all.
        // On a full disk the service also stays ready, because reads still work.
        (Condition::Running, Phase::Serving) if admin.engine.disk_is_full() => {
            let text = "ready, but the disk has no space for the next segment of the journal: writes are refused when the journal reaches it\n";
            return text.into_response();
        }
        (Condition::Running, Phase::Serving) if admin.engine.clock().held.is_some() => {
            let text = "ready, but the system clock made a large step, which the ledger does not follow: see `tally clock show`\n";
            return text.into_response();
        }
        (Condition::Running, Phase::Serving) => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Returns the data of the page.
async fn stats(State(admin): State<Admin>) -> Response {
    let shown = Shown {
        engine: &admin.engine,
        security: &admin.security,
        readiness: &admin.readiness,
        connections: &admin.connections,
        own_connections: &admin.own_connections,
        process: &admin.process,
    };
    let body = match stats::stats(shown) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "stats.json could not be encoded");
            let text = "the figures could not be encoded; see the log of the service\n";
            return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
        }
    };
    (
        [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        body,
    )
        .into_response()
}

async fn log_level(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.log_level.get())
}

async fn set_log_level(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    // Check the permission before the body is read, so that a caller without permission can't make the server wait for a body.
    let who = match access::administrator(&admin.security, peer, request.headers()) {
        Ok(who) => who,
        Err(refusal) => return refusal.into_response(),
    };
    // A body that is announced as too long is not awaited: it would use the time limit of the request.
    let announced = request.body().size_hint().lower();
    if announced > BODY_BYTES_MAX as u64 {
        return refused_body(StatusCode::PAYLOAD_TOO_LARGE).into_response();
    }
    let filter = match String::from_request(request, &admin).await {
        Ok(filter) => filter,
        Err(rejected) => return refused_body(rejected.status()).into_response(),
    };
    let after = filter.trim();
    match admin.log_level.set(after) {
        Ok(before) => {
            if before != after {
                who.changed_log_level(&before, after);
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// Returns the answer to a body that was not accepted. `status` is the status that axum chose.
fn refused_body(status: StatusCode) -> (StatusCode, String) {
    let text = if status == StatusCode::PAYLOAD_TOO_LARGE {
        format!("the body must be at most {BODY_BYTES_MAX} bytes\n")
    } else {
        "the body could not be read: it must arrive whole, and be UTF-8 text\n".to_owned()
    };
    (status, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colours of a page, for both themes.
    fn palette(page: &str) -> &str {
        let begin = page.find(":root").unwrap();
        let end = page.find("* { box-sizing").unwrap();
        &page[begin..end]
    }

    #[test]
    fn the_pages_have_the_same_colours() {
        assert_eq!(palette(PAGE), palette(LEDGER_PAGE));
    }
}
