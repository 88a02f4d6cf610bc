//! Tests of the command line: golden files, exit codes, closed pipes, services that restart.

mod golden;
mod pipes;
mod reconnect;
mod reference;
