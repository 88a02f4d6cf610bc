//! Which partition a request is for.

use crate::topic_id::TopicId;

/// What an append names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) topic: &'a str,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
}
