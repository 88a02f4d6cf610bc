//! Loads the configuration from four sources: the defaults, one TOML file, environment variables
//! (`TALLY__SECTION__KEY`), and command-line options. Each source overrides the sources before it.
//!
//! Times and sizes have units (`"2ms"`, `"64MiB"`). Unknown keys are errors. An error names the key, the value, the accepted
//! values, and the line of the file, the environment variable or the option. Each section is defined in the module that
//! it configures.

mod bounds;
mod environment;
mod error;
mod forms;
mod keys;
mod load;
mod settings;
mod sources;
mod toml_file;
mod variables;

pub use self::{
    bounds::bounds,
    error::{ConfigError, UnknownKey, UnknownVariable},
    load::{Loaded, Override, Setting, load},
    settings::{CheckedConfig, Config},
    variables::{IgnoredVariables, check_variables, is_kubernetes_variable},
};

#[cfg(test)]
mod tests;
