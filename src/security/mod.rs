//! Access to the service: TLS with certificates that can be renewed while the service runs, and bearer tokens with roles. The
//! service stores only hashes of the tokens.

mod audit;
mod auth_failures;
mod bearer;
mod certificate;
mod client;
mod error;
mod refresher;
pub mod settings;
mod state;
mod tls;
mod tokens;
mod watched;

pub use self::{
    audit::{Administrator, CircuitChange, ClockChange, Resignation},
    auth_failures::AuthFailure,
    bearer::{NoToken, bearer_token},
    client::{Client, client_of},
    error::{SecurityError, TlsError},
    refresher::Refresher,
    settings::{SecurityConfig, TlsPaths},
    state::Security,
    tokens::{
        Grant, Principal, Role, Scope, TOKEN_NAME_BYTES_MAX, TOKENS_MAX, TokenFileError, TokenTable, hash_hex,
    },
    watched::RefreshKind,
};
