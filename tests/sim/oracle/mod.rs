//! stub
use tally_ledger::Timestamp;
use crate::calls::*;
pub(crate) const WALL_BASE: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle;
#[derive(Debug)]
pub(crate) struct Violation(String);
impl std::fmt::Display for Violation { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
impl Oracle {
    pub(crate) fn new() -> Self { Oracle }
    pub(crate) fn invoked(&mut self, _: CallId, _: &Call) {}
    pub(crate) fn answered(&mut self, _: CallId, _: &Reply) -> Result<(), Violation> { Ok(()) }
    pub(crate) fn abandoned(&mut self, _: CallId) {}
    pub(crate) fn died(&mut self) {}
    pub(crate) fn exec_was_blocked(&mut self, _: Timestamp) {}
    pub(crate) fn clock_stepped(&mut self) {}
    pub(crate) fn damage_planted(&mut self) {}
    pub(crate) fn faults_planted(&mut self) {}
    pub(crate) fn examine(&mut self, _: &State) -> Result<(), Violation> { Ok(()) }
}
