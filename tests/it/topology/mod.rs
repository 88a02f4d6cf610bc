//! Placement of threads: the table on made-up machines, and real threads on this one.

// `cfg(test)` is always true here; it tells clippy that helper functions are test code too.
#[cfg(test)]
mod child;
#[cfg(test)]
mod detection;
#[cfg(test)]
mod fifo;
#[cfg(test)]
mod process;
#[cfg(test)]
mod properties;
mod table;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod watch;
