//! How many seats a request takes: lists and watches that begin with one take more, by the objects they go through.

use crate::{query::Query, registry::Snapshot, request::RequestInfo};

/// Objects a seat.
const OBJECTS: usize = 100;
/// Upstream's bound, besides the level's own.
const MOST: u32 = 10;

/// Seats of a request, between 1 and `widest`.
pub fn width(info: &RequestInfo, query: &Query, snapshot: &Snapshot, widest: u32) -> u32 {
    let Some(resource) = &info.resource else {
        return 1;
    };
    let goes_through_all = match info.verb {
        "list" => true,
        "watch" => {
            let revision = query.get("resourceVersion").unwrap_or_default();
            query.flag("sendInitialEvents") || matches!(revision, "" | "0")
        }
        _ => false,
    };
    if !goes_through_all || !resource.name.is_empty() || !resource.subresource.is_empty() {
        return 1;
    }
    let stored = snapshot
        .get(&resource.gvr.group, &resource.gvr.resource)
        .and_then(|served| served.stored.as_ref().map(|stored| stored.cache.len()));
    let Some(count) = stored else {
        return 1;
    };
    let selects = ["fieldSelector", "labelSelector"]
        .iter()
        .any(|field| query.non_empty(field).is_some());
    let limit: usize = query
        .non_empty("limit")
        .and_then(|limit| limit.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(count);
    // A selector looks at all of them, however few it answers with.
    let seen = if selects { count } else { count.min(limit) };
    let seats = u32::try_from(seen.div_ceil(OBJECTS)).unwrap_or(MOST);
    seats.clamp(1, widest.clamp(1, MOST))
}
