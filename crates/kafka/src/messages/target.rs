//! Which partition a request is for.

use crate::topic_id::TopicId;

/// The partition of a request, by the topic's name and id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) topic: &'a str,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
}
