//! The paths of the operators' port.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};

use crate::{
    engine::{Condition, TallyEngine},
    grpc,
    json::to_json,
    security::{Administrator, Role, Security, bearer_token},
    telemetry::{Families, LogLevel, MetricSource, PROMETHEUS_TEXT, PanicMetrics, SpanMetrics},
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
}

/// Whether the service accepts calls. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

/// The page: one file, without a build step. It sends requests only to this port.
const PAGE: &str = include_str!("page.html");
/// The page loads nothing from other servers, and no other page may embed it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";
/// Largest accepted request body, which is a log filter.
const BODY_BYTES_MAX: usize = 4096;

// ===== impl Readiness =====

impl Readiness {
    /// Sets whether the service accepts calls.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub(super) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/stats.json", get(stats))
        .route("/metrics", get(metrics))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/log-level", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let sources: [&dyn MetricSource; 4] = [&admin.engine, &*admin.security, &SpanMetrics, &PanicMetrics];
    (
        [(header::CONTENT_TYPE, PROMETHEUS_TEXT)],
        Families::collect(&sources).to_prometheus(),
    )
}

/// Answers that the process is alive. This thread can answer as long as the process runs, and a failed engine ends the process.
async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.engine.health().condition() != Condition::Running {
        return (StatusCode::SERVICE_UNAVAILABLE, "the store has failed\n").into_response();
    }
    if !admin.readiness.get() {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response();
    }
    // With an open circuit the service stays ready: an orchestrator that took the only instance out of service would not help
    // clients.
    "ready\n".into_response()
}

/// Returns the data of the page, in the JSON form of the API's messages.
async fn stats(State(admin): State<Admin>) -> Response {
    let engine = &admin.engine;
    let parts = [
        (
            "circuits",
            to_json("GetCircuitStatsResponse", &grpc::circuit_stats_response(engine)),
        ),
        (
            "batches",
            to_json("GetBatchStatsResponse", &grpc::batch_stats_response(engine)),
        ),
        (
            "topology",
            to_json(
                "GetTopologyResponse",
                &grpc::topology_response(&engine.affinity().topology()),
            ),
        ),
    ];
    let mut body = format!(
        "{{\"version\":\"{}\",\"commit\":\"{}\"",
        env!("CARGO_PKG_VERSION"),
        env!("TALLY_COMMIT")
    );
    for (name, part) in parts {
        match part {
            Ok(part) => body.push_str(&format!(",\"{name}\":{part}")),
            Err(error) => {
                tracing::error!(%error, name, "a part of stats.json could not be encoded");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        }
    }
    let commits: Vec<String> = engine
        .commit_histogram()
        .iter()
        .map(|(bound, count)| format!("[{bound},{count}]"))
        .collect();
    body.push_str(&format!(",\"commit_histogram_ns\":[{}]}}", commits.join(",")));
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
    let who = match authorise(&admin, peer, request.headers()) {
        Ok(who) => who,
        Err(refusal) => return refusal.into_response(),
    };
    let filter = match String::from_request(request, &admin).await {
        Ok(filter) => filter,
        Err(rejected) => return rejected.into_response(),
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

/// Checks that the caller may make changes, and returns the caller for the audit event.
fn authorise(
    admin: &Admin,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Result<Administrator, (StatusCode, &'static str)> {
    let administrator = |principal| Administrator {
        peer: Some(peer),
        principal,
    };
    if !admin.security.asks_for_tokens() {
        if peer.ip().is_loopback() {
            return Ok(administrator(None));
        }
        let why = "without security.tokens_file, changes are accepted from this machine only\n";
        return Err((StatusCode::FORBIDDEN, why));
    }
    let grant = bearer_token(headers).and_then(|token| admin.security.grant(token));
    match grant.map(|grant| grant.principal) {
        None => Err((StatusCode::UNAUTHORIZED, "a valid bearer token is needed\n")),
        Some(principal) if principal.role < Role::Admin => {
            Err((StatusCode::FORBIDDEN, "the token's role is not admin\n"))
        }
        principal => Ok(administrator(principal)),
    }
}
