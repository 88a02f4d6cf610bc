//! Several replicas in one process, with real engines and directories, on a replicated log in memory.

mod cluster;
mod faults;
mod memory_log;
mod peers;
mod reads;
mod replicas;
mod takeover;
