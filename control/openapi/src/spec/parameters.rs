//! The parameters of operations.

#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub place: Place,
    pub ty: &'static str,
    pub description: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
}

const fn query(name: &'static str, ty: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        place: Place::Query,
        ty,
        description,
    }
}

const DRY_RUN: Parameter = query(
    "dryRun",
    "string",
    "\"All\" runs every stage but nothing is stored.",
);
const FIELD_MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "The name under which changed fields are managed; required for apply.",
);
const FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
);
const FORCE: Parameter = query(
    "force",
    "boolean",
    "Apply takes fields from other managers instead of failing.",
);
pub(super) const PRETTY: Parameter = query("pretty", "string", "\"true\" indents the answer.");
const GRACE: Parameter = query(
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is removed; 0 removes it at once.",
);
const ORPHAN: Parameter = query(
    "orphanDependents",
    "boolean",
    "Deprecated: use propagationPolicy. Whether dependents are kept.",
);
const PROPAGATION: Parameter = query(
    "propagationPolicy",
    "string",
    "What happens to dependents: Orphan, Background or Foreground.",
);
const BOOKMARKS: Parameter = query(
    "allowWatchBookmarks",
    "boolean",
    "A watch may send BOOKMARK events with the current resourceVersion.",
);
const CONTINUE: Parameter = query("continue", "string", "The token of the previous page.");
const FIELD_SELECTOR: Parameter = query(
    "fieldSelector",
    "string",
    "Only objects whose fields match.",
);
const LABEL_SELECTOR: Parameter = query(
    "labelSelector",
    "string",
    "Only objects whose labels match.",
);
const LIMIT: Parameter = query("limit", "integer", "The most objects in one answer.");
const RESOURCE_VERSION: Parameter = query(
    "resourceVersion",
    "string",
    "The state to list at, or to watch from.",
);
const RESOURCE_VERSION_MATCH: Parameter = query(
    "resourceVersionMatch",
    "string",
    "How resourceVersion is meant: Exact or NotOlderThan.",
);
const SEND_INITIAL: Parameter = query(
    "sendInitialEvents",
    "boolean",
    "A watch starts with the current objects and a bookmark after them.",
);
const TIMEOUT: Parameter = query(
    "timeoutSeconds",
    "integer",
    "Ends the list or watch after this time.",
);
const WATCH: Parameter = query("watch", "boolean", "Streams changes instead of listing.");

pub(super) const NAMESPACE: Parameter = Parameter {
    name: "namespace",
    place: Place::Path,
    ty: "string",
    description: "object name and auth scope, such as for teams and projects",
};
pub(super) const NAME: Parameter = Parameter {
    name: "name",
    place: Place::Path,
    ty: "string",
    description: "name of the object",
};

pub(super) const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
pub(super) const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
pub(super) const DELETE: &[Parameter] = &[DRY_RUN, GRACE, ORPHAN, PROPAGATION];
pub(super) const LIST: &[Parameter] = &[
    BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL,
    TIMEOUT,
    WATCH,
];
pub(super) const DELETE_COLLECTION: &[Parameter] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL,
    TIMEOUT,
];
pub(super) const LOG: &[Parameter] = &[
    query(
        "container",
        "string",
        "The container whose log is read; may be left out where there is one.",
    ),
    query("follow", "boolean", "Streams what is written from now on."),
    query(
        "limitBytes",
        "integer",
        "Ends the log after this many bytes.",
    ),
    query(
        "previous",
        "boolean",
        "Reads the log of the container's last instance.",
    ),
    query(
        "sinceSeconds",
        "integer",
        "Only lines that are not older than this.",
    ),
    query("tailLines", "integer", "Only this many lines from the end."),
    query(
        "timestamps",
        "boolean",
        "Puts a timestamp before each line.",
    ),
];
