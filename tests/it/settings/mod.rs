//! Tests of the settings: the example file, and the sources of settings that only a process has.

mod example;
mod log_texts;
mod process;
pub(crate) mod source;
