//! The trace: the last operations on the disk, for tests that check their order and for the report of a failed seed.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::names::{PathId, Paths};

/// An entry of the trace: an operation on the disk or a mark of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    Created(PathBuf),
    Wrote {
        path: PathBuf,
        offset: u64,
        length: usize,
    },
    SyncBegan(PathBuf),
    Synced(PathBuf),
    SyncedDir(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
    /// A mark that the test added with [`super::SimDisk::mark`].
    Mark(String),
}

/// A [`TraceEvent`] with numbers instead of paths, so that an operation allocates no memory for the trace.
#[derive(Clone)]
pub(super) enum Event {
    Created(PathId),
    Wrote {
        path: PathId,
        offset: u64,
        length: usize,
    },
    SyncBegan(PathId),
    Synced(PathId),
    SyncedDir(PathId),
    Renamed(PathId, PathId),
    Removed(PathId),
    Mark(Arc<str>),
}

pub(super) struct Trace {
    events: VecDeque<Event>,
    events_max: usize,
}

/// Length of the trace of a new disk.
const TRACE_EVENTS_MAX: usize = 100_000;

// ===== impl Trace =====

impl Trace {
    pub(super) fn new() -> Self {
        Trace {
            events: VecDeque::new(),
            events_max: TRACE_EVENTS_MAX,
        }
    }

    /// Keeps the last `events` events from now on.
    pub(super) fn set_length(&mut self, events: usize) {
        self.events_max = events;
        let surplus = self.events.len().saturating_sub(events);
        self.events.drain(..surplus);
    }

    pub(super) fn note(&mut self, event: Event) {
        if self.events_max == 0 {
            return;
        }
        if self.events.len() == self.events_max {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn events(&self, paths: &Paths) -> Vec<TraceEvent> {
        self.events.iter().map(|event| event.resolved(paths)).collect()
    }
}

// ===== impl Event =====

impl Event {
    fn resolved(&self, paths: &Paths) -> TraceEvent {
        let path = |id: &PathId| Path::to_path_buf(paths.path(*id));
        match self {
            Event::Created(id) => TraceEvent::Created(path(id)),
            Event::Wrote {
                path: id,
                offset,
                length,
            } => TraceEvent::Wrote {
                path: path(id),
                offset: *offset,
                length: *length,
            },
            Event::SyncBegan(id) => TraceEvent::SyncBegan(path(id)),
            Event::Synced(id) => TraceEvent::Synced(path(id)),
            Event::SyncedDir(id) => TraceEvent::SyncedDir(path(id)),
            Event::Renamed(from, to) => TraceEvent::Renamed(path(from), path(to)),
            Event::Removed(id) => TraceEvent::Removed(path(id)),
            Event::Mark(text) => TraceEvent::Mark(String::from(&**text)),
        }
    }
}
