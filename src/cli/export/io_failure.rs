//! The failure of an operation on a file.

use std::{io, path::Path};

use crate::{
    cli::exit::{self, Failure},
    terminal::file_advice,
};

/// Creates the failure of an operation on a file, for example of `write`.
pub(super) fn io_failure(operation: &str, path: &Path, error: &io::Error) -> Failure {
    let advice = file_advice(path, error);
    let message = format!("can't {operation} {}: {error}{advice}", path.display());
    Failure::with_message(exit::IO, message)
}
