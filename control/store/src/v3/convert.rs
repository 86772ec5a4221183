//! The API's messages and the store's words.

use bytes::Bytes;
use tonic::{Code, Status};

use super::proto;
use crate::{
    Compare, CompareOp, CompareTarget, Delete, DeleteResponse, Event, EventKind, KeyValue, LeaseId,
    Op, OpResponse, Put, PutResponse, Range, RangeResponse, Revision, StoreError, Txn, TxnResponse,
};

/// What etcd takes in one transaction unless told otherwise. A limit that its clients know is part of its API.
const MAX_OPS: usize = 128;

/// A store is its own only member and leader.
pub const MEMBER: u64 = 1;

#[allow(clippy::unnecessary_wraps, reason = "every message wants it so")]
pub fn header(revision: Revision) -> Option<proto::ResponseHeader> {
    Some(proto::ResponseHeader {
        cluster_id: MEMBER,
        member_id: MEMBER,
        revision: revision.0,
        raft_term: 1,
    })
}

/// etcd's text and code for each refusal: its clients compare them.
pub fn status(error: StoreError) -> Status {
    let refused = |code, text: &str| Status::new(code, format!("etcdserver: {text}"));
    match error {
        StoreError::Compacted { .. } => refused(
            Code::OutOfRange,
            "mvcc: required revision has been compacted",
        ),
        StoreError::FutureRevision { .. } => refused(
            Code::OutOfRange,
            "mvcc: required revision is a future revision",
        ),
        StoreError::LeaseNotFound(_) => refused(Code::NotFound, "requested lease not found"),
        StoreError::LeaseExists(_) => refused(Code::FailedPrecondition, "lease already exists"),
        StoreError::Invalid(text) => refused(Code::InvalidArgument, text),
        StoreError::TooLarge { .. } => refused(Code::InvalidArgument, "request is too large"),
        StoreError::DiskFull => refused(Code::ResourceExhausted, "mvcc: database space exceeded"),
        error @ (StoreError::Stopped(_) | StoreError::Read(_) | StoreError::Cluster(_)) => {
            Status::unavailable(format!("etcdserver: {error}"))
        }
    }
}

fn end(range_end: Bytes) -> Option<Bytes> {
    Some(range_end).filter(|end| !end.is_empty())
}

/// A range, with what the store doesn't do: sorting and the filters by revision.
pub struct Shape {
    order: proto::SortOrder,
    target: proto::SortTarget,
    limit: usize,
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
    keys_only: bool,
}

impl Shape {
    fn of(request: &proto::RangeRequest) -> Shape {
        Shape {
            order: request.sort_order(),
            target: request.sort_target(),
            limit: usize::try_from(request.limit).unwrap_or(0),
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
            keys_only: request.keys_only,
        }
    }

    /// The store's own order and limit do.
    fn is_plain(&self) -> bool {
        let sorted = matches!(
            (self.order, self.target),
            (proto::SortOrder::None, proto::SortTarget::Key)
                | (proto::SortOrder::Ascend, proto::SortTarget::Key)
        );
        sorted && [self.min_mod, self.max_mod, self.min_create, self.max_create] == [0; 4]
    }

    fn admits(&self, kv: &KeyValue) -> bool {
        let within = |at: Revision, min: i64, max: i64| {
            (min == 0 || at.0 >= min) && (max == 0 || at.0 <= max)
        };
        within(kv.mod_revision, self.min_mod, self.max_mod)
            && within(kv.create_revision, self.min_create, self.max_create)
    }

    /// Does what the store left.
    fn apply(&self, response: &mut RangeResponse) {
        if self.is_plain() {
            return;
        }
        response.kvs.retain(|kv| self.admits(kv));
        match self.target {
            // Already so.
            proto::SortTarget::Key => {}
            proto::SortTarget::Version => response.kvs.sort_by_key(|kv| kv.version),
            proto::SortTarget::Create => response.kvs.sort_by_key(|kv| kv.create_revision),
            proto::SortTarget::Mod => response.kvs.sort_by_key(|kv| kv.mod_revision),
            proto::SortTarget::Value => response.kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if self.order == proto::SortOrder::Descend {
            response.kvs.reverse();
        }
        if self.limit > 0 && response.kvs.len() > self.limit {
            response.kvs.truncate(self.limit);
            response.more = true;
        }
        if self.keys_only {
            for kv in &mut response.kvs {
                kv.value = Bytes::new();
            }
        }
    }
}

pub fn range(request: proto::RangeRequest) -> (Range, Shape) {
    let shape = Shape::of(&request);
    let plain = shape.is_plain();
    let range = Range {
        key: request.key,
        range_end: end(request.range_end),
        revision: (request.revision > 0).then_some(Revision(request.revision)),
        limit: if plain { shape.limit } else { 0 },
        // Sorting by value needs the values.
        keys_only: request.keys_only && plain,
        count_only: request.count_only,
    };
    (range, shape)
}

pub fn range_response(mut response: RangeResponse, shape: &Shape) -> proto::RangeResponse {
    shape.apply(&mut response);
    proto::RangeResponse {
        header: header(response.revision),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: i64::try_from(response.count).unwrap_or(i64::MAX),
    }
}

pub fn put(request: proto::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub fn put_response(revision: Revision, response: PutResponse) -> proto::PutResponse {
    proto::PutResponse {
        header: header(revision),
        prev_kv: response.prev_kv.map(key_value),
    }
}

pub fn delete(request: proto::DeleteRangeRequest) -> Delete {
    Delete {
        key: request.key,
        range_end: end(request.range_end),
        prev_kv: request.prev_kv,
    }
}

pub fn delete_response(revision: Revision, response: DeleteResponse) -> proto::DeleteRangeResponse {
    proto::DeleteRangeResponse {
        header: header(revision),
        deleted: i64::try_from(response.deleted).unwrap_or(i64::MAX),
        prev_kvs: response.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// A transaction, with the shapes of its ranges in the order of its steps.
pub fn txn(request: proto::TxnRequest) -> Result<(Txn, Shapes), Status> {
    if request
        .success
        .len()
        .max(request.failure.len())
        .max(request.compare.len())
        > MAX_OPS
    {
        let error = StoreError::Invalid("too many operations in txn request");
        return Err(status(error));
    }
    let compares = request
        .compare
        .into_iter()
        .map(compare)
        .collect::<Result<_, _>>()?;
    let mut shapes = Shapes::default();
    let success = ops(request.success, &mut shapes.success)?;
    let failure = ops(request.failure, &mut shapes.failure)?;
    let txn = Txn {
        compares,
        success,
        failure,
    };
    Ok((txn, shapes))
}

/// What each step of a transaction still needs when it is answered.
#[derive(Default)]
pub struct Shapes {
    success: Vec<StepShape>,
    failure: Vec<StepShape>,
}

enum StepShape {
    Range(Shape),
    Txn(Shapes),
    Plain,
}

fn ops(requests: Vec<proto::RequestOp>, shapes: &mut Vec<StepShape>) -> Result<Vec<Op>, Status> {
    requests
        .into_iter()
        .map(|op| {
            let (op, shape) = match op.request {
                Some(proto::Request::Range(request)) => {
                    let (range, shape) = range(request);
                    (Op::Range(range), StepShape::Range(shape))
                }
                Some(proto::Request::Put(request)) => (Op::Put(put(request)), StepShape::Plain),
                Some(proto::Request::DeleteRange(request)) => {
                    (Op::Delete(delete(request)), StepShape::Plain)
                }
                Some(proto::Request::Txn(request)) => {
                    let (txn, shapes) = txn(request)?;
                    (Op::Txn(txn), StepShape::Txn(shapes))
                }
                None => return Err(Status::invalid_argument("etcdserver: key not found")),
            };
            shapes.push(shape);
            Ok(op)
        })
        .collect()
}

fn compare(request: proto::Compare) -> Result<Compare, Status> {
    use proto::{CompareResult, TargetUnion};
    let op = match request.result() {
        CompareResult::Equal => CompareOp::Equal,
        CompareResult::Greater => CompareOp::Greater,
        CompareResult::Less => CompareOp::Less,
        CompareResult::NotEqual => CompareOp::NotEqual,
    };
    // A missing value is zero, as protobuf has it.
    let target = match (request.target(), request.target_union) {
        (proto::CompareTarget::Version, Some(TargetUnion::Version(n))) => CompareTarget::Version(n),
        (proto::CompareTarget::Version, None) => CompareTarget::Version(0),
        (proto::CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => {
            CompareTarget::Create(Revision(n))
        }
        (proto::CompareTarget::Create, None) => CompareTarget::Create(Revision::ZERO),
        (proto::CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => {
            CompareTarget::Mod(Revision(n))
        }
        (proto::CompareTarget::Mod, None) => CompareTarget::Mod(Revision::ZERO),
        (proto::CompareTarget::Value, Some(TargetUnion::Value(value))) => {
            CompareTarget::Value(value)
        }
        (proto::CompareTarget::Value, None) => CompareTarget::Value(Bytes::new()),
        (proto::CompareTarget::Lease, Some(TargetUnion::Lease(n))) => {
            CompareTarget::Lease(LeaseId(n))
        }
        (proto::CompareTarget::Lease, None) => CompareTarget::Lease(LeaseId::NONE),
        _ => {
            let text = "etcdserver: a compare's target and value are of different kinds";
            return Err(Status::invalid_argument(text));
        }
    };
    Ok(Compare {
        key: request.key,
        range_end: end(request.range_end),
        target,
        op,
    })
}

pub fn txn_response(response: TxnResponse, shapes: &Shapes) -> proto::TxnResponse {
    let revision = response.revision;
    let shapes = if response.succeeded {
        &shapes.success
    } else {
        &shapes.failure
    };
    let responses = response
        .responses
        .into_iter()
        .zip(shapes)
        .map(|(response, shape)| {
            let response = match (response, shape) {
                (OpResponse::Range(response), StepShape::Range(shape)) => {
                    proto::Response::Range(range_response(response, shape))
                }
                (OpResponse::Put(response), _) => {
                    proto::Response::Put(put_response(revision, response))
                }
                (OpResponse::Delete(response), _) => {
                    proto::Response::DeleteRange(delete_response(revision, response))
                }
                (OpResponse::Txn(response), StepShape::Txn(shapes)) => {
                    proto::Response::Txn(txn_response(response, shapes))
                }
                (OpResponse::Range(_) | OpResponse::Txn(_), _) => {
                    unreachable!("answers are in their steps' places")
                }
            };
            proto::ResponseOp {
                response: Some(response),
            }
        })
        .collect();
    proto::TxnResponse {
        header: header(revision),
        succeeded: response.succeeded,
        responses,
    }
}

fn key_value(kv: KeyValue) -> proto::KeyValue {
    proto::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

pub fn event(event: Event) -> proto::Event {
    proto::Event {
        r#type: match event.kind {
            EventKind::Put => proto::EventType::Put,
            EventKind::Delete => proto::EventType::Delete,
        } as i32,
        kv: Some(key_value(event.kv)),
        prev_kv: event.prev_kv.map(key_value),
    }
}
