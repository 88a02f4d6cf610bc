//! The options that set settings: `tally serve` and `tally config` have them.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{given::is_given, values::socket_address};
use crate::{
    config::{ConfigError, Loaded, Override},
    settings::Origin,
};

/// Options that set settings.
#[derive(Debug, Args)]
pub(super) struct SettingsArgs {
    /// The data directory. A missing directory is created. [default: ./tally-data]
    #[arg(long, value_name = "DIR", env = "TALLY_DATA")]
    data: Option<PathBuf>,
    /// The address to listen on. Port 0 takes a free port. [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", env = "TALLY_LISTEN", value_parser = socket_address)]
    listen: Option<SocketAddr>,
    /// The address of the operators' port, which serves metrics, health checks and a status page over HTTP. Port 0 takes a free port.
    /// [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "TALLY_ADMIN", value_parser = socket_address)]
    admin: Option<SocketAddr>,
    /// Allow a --listen address that other machines can reach, even without TLS and tokens.
    #[arg(long)]
    allow_insecure: bool,
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG")]
    config: Option<PathBuf>,
}

// ===== impl SettingsArgs =====

impl SettingsArgs {
    /// Loads the settings from the file, the environment and the options.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(super) fn load(&self) -> Result<Loaded, ConfigError> {
        let mut overrides = Vec::new();
        let mut add = |key, option, variable: &str, value: Option<String>| {
            if let Some(value) = value {
                overrides.push(Override {
                    key,
                    value: value.into(),
                    origin: option_origin(option, variable),
                });
            }
        };
        let data = self.data.as_ref().map(|data| data.display().to_string());
        let text = |address: SocketAddr| address.to_string();
        add("store.data", "--data", "TALLY_DATA", data);
        add("server.listen", "--listen", "TALLY_LISTEN", self.listen.map(text));
        add("admin.listen", "--admin", "TALLY_ADMIN", self.admin.map(text));
        if self.allow_insecure {
            overrides.push(Override {
                key: "security.allow_insecure",
                value: true.into(),
                origin: Origin::Option {
                    name: "--allow-insecure",
                },
            });
        }
        Loaded::load(self.config.as_deref(), &overrides)
    }
}

/// Returns the origin of the value of an option: the command line, or else the environment variable of the option.
fn option_origin(option: &'static str, variable: &str) -> Origin {
    if is_given(option) {
        Origin::Option { name: option }
    } else {
        Origin::Variable {
            name: variable.to_owned(),
        }
    }
}
