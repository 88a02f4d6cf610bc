//! Selects circuits by `--key`.

use crate::{
    cli::exit::{self, Failure},
    proto::CircuitStats,
};

/// Returns the circuit with this key, or all circuits if the key is empty.
pub(super) fn select(circuits: Vec<CircuitStats>, key: &str) -> Result<Vec<CircuitStats>, Failure> {
    if key.is_empty() {
        return Ok(circuits);
    }
    let (selected, others): (Vec<_>, Vec<_>) = circuits.into_iter().partition(|circuit| circuit.key == key);
    if selected.is_empty() {
        let keys: Vec<String> = others.into_iter().map(|circuit| circuit.key).collect();
        let message = format!("there is no circuit {key:?}; --key is one of {}", keys.join(", "));
        return Err(Failure::with_message(exit::USAGE, message));
    }
    Ok(selected)
}
