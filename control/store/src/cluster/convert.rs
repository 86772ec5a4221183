//! The store's words and the etcd client's.

use bytes::Bytes;
use etcd_client as etcd;

use crate::{
    Compare, CompareOp, CompareTarget, Delete, DeleteResponse, Event, EventKind, KeyValue, LeaseId,
    Op, OpResponse, Put, PutResponse, Range, RangeResponse, Revision, StoreError, Txn, TxnResponse,
};

pub fn txn(txn: &Txn) -> etcd::Txn {
    etcd::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.success.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.failure.iter().map(op).collect::<Vec<_>>())
}

fn op(op: &Op) -> etcd::TxnOp {
    match op {
        Op::Range(range) => etcd::TxnOp::get(range.key.to_vec(), Some(get_options(range))),
        Op::Put(put) => {
            etcd::TxnOp::put(put.key.to_vec(), put.value.to_vec(), Some(put_options(put)))
        }
        Op::Delete(delete) => {
            etcd::TxnOp::delete(delete.key.to_vec(), Some(delete_options(delete)))
        }
        Op::Txn(inner) => etcd::TxnOp::txn(txn(inner)),
    }
}

fn compare(compare: &Compare) -> etcd::Compare {
    let key = compare.key.to_vec();
    let op = match compare.op {
        CompareOp::Equal => etcd::CompareOp::Equal,
        CompareOp::NotEqual => etcd::CompareOp::NotEqual,
        CompareOp::Greater => etcd::CompareOp::Greater,
        CompareOp::Less => etcd::CompareOp::Less,
    };
    let built = match &compare.target {
        CompareTarget::Version(version) => etcd::Compare::version(key, op, *version),
        CompareTarget::Create(revision) => etcd::Compare::create_revision(key, op, revision.0),
        CompareTarget::Mod(revision) => etcd::Compare::mod_revision(key, op, revision.0),
        CompareTarget::Value(value) => etcd::Compare::value(key, op, value.to_vec()),
        CompareTarget::Lease(lease) => etcd::Compare::lease(key, op, lease.0),
    };
    match &compare.range_end {
        Some(end) => built.with_range(end.to_vec()),
        None => built,
    }
}

pub fn get_options(range: &Range) -> etcd::GetOptions {
    let mut options = etcd::GetOptions::new()
        .with_limit(i64::try_from(range.limit).unwrap_or(0))
        .with_revision(range.revision.map_or(0, |revision| revision.0));
    if let Some(end) = &range.range_end {
        options = options.with_range(end.to_vec());
    }
    if range.keys_only {
        options = options.with_keys_only();
    }
    if range.count_only {
        options = options.with_count_only();
    }
    options
}

fn put_options(put: &Put) -> etcd::PutOptions {
    let mut options = etcd::PutOptions::new().with_lease(put.lease.0);
    if put.prev_kv {
        options = options.with_prev_key();
    }
    if put.ignore_value {
        options = options.with_ignore_value();
    }
    if put.ignore_lease {
        options = options.with_ignore_lease();
    }
    options
}

fn delete_options(delete: &Delete) -> etcd::DeleteOptions {
    let mut options = etcd::DeleteOptions::new();
    if let Some(end) = &delete.range_end {
        options = options.with_range(end.to_vec());
    }
    if delete.prev_kv {
        options = options.with_prev_key();
    }
    options
}

/// The lease that a refusal is about: etcd doesn't say which.
pub fn first_lease(txn: &Txn) -> LeaseId {
    let of = |op: &Op| match op {
        Op::Put(put) if put.lease != LeaseId::NONE => Some(put.lease),
        Op::Txn(inner) => Some(first_lease(inner)).filter(|lease| *lease != LeaseId::NONE),
        _ => None,
    };
    txn.success
        .iter()
        .chain(&txn.failure)
        .find_map(of)
        .unwrap_or_default()
}

pub fn txn_response(response: &etcd::TxnResponse) -> TxnResponse {
    let responses = response
        .op_responses()
        .into_iter()
        .map(|response| match response {
            etcd::TxnOpResponse::Get(get) => OpResponse::Range(range_response(get)),
            etcd::TxnOpResponse::Put(mut put) => OpResponse::Put(PutResponse {
                prev_kv: put.take_prev_key().map(key_value),
            }),
            etcd::TxnOpResponse::Delete(mut delete) => OpResponse::Delete(DeleteResponse {
                deleted: u64::try_from(delete.deleted()).unwrap_or(0),
                prev_kvs: delete.take_prev_kvs().into_iter().map(key_value).collect(),
            }),
            etcd::TxnOpResponse::Txn(txn) => OpResponse::Txn(txn_response(&txn)),
        })
        .collect();
    TxnResponse {
        revision: revision(response.header()),
        succeeded: response.succeeded(),
        responses,
    }
}

pub fn range_response(mut response: etcd::GetResponse) -> RangeResponse {
    RangeResponse {
        revision: revision(response.header()),
        more: response.more(),
        count: u64::try_from(response.count()).unwrap_or(0),
        kvs: response.take_kvs().into_iter().map(key_value).collect(),
    }
}

fn revision(header: Option<&etcd::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, etcd::ResponseHeader::revision))
}

fn key_value(kv: etcd::KeyValue) -> KeyValue {
    let (create, modified) = (kv.create_revision(), kv.mod_revision());
    let (version, lease) = (kv.version(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: Revision(create),
        mod_revision: Revision(modified),
        version,
        lease: LeaseId(lease),
    }
}

pub fn event(event: &etcd::Event) -> Option<Event> {
    Some(Event {
        kind: match event.event_type() {
            etcd::EventType::Put => EventKind::Put,
            etcd::EventType::Delete => EventKind::Delete,
        },
        kv: key_value(event.kv()?.clone()),
        prev_kv: event.prev_kv().cloned().map(key_value),
    })
}

/// The client's error in the store's terms. etcd's refusals are told by their texts, which are part of its API.
pub fn failed(
    error: &etcd::Error,
    seen: Revision,
    requested: Option<Revision>,
    lease: LeaseId,
) -> StoreError {
    let etcd::Error::GRpcStatus(status) = error else {
        return StoreError::Cluster(error.to_string().into());
    };
    let requested = requested.unwrap_or(Revision::ZERO);
    match status.message() {
        "etcdserver: mvcc: required revision has been compacted" => StoreError::Compacted {
            requested,
            // Not told; above what was asked for in any case.
            floor: requested.next(),
        },
        "etcdserver: mvcc: required revision is a future revision" => StoreError::FutureRevision {
            requested,
            current: seen,
        },
        "etcdserver: requested lease not found" => StoreError::LeaseNotFound(lease),
        "etcdserver: lease already exists" => StoreError::LeaseExists(lease),
        "etcdserver: duplicate key given in txn request" => {
            StoreError::Invalid("duplicate key given in txn request")
        }
        "etcdserver: too many operations in txn request" => {
            StoreError::Invalid("too many operations in txn request")
        }
        "etcdserver: key not found" => StoreError::Invalid("key not found"),
        "etcdserver: too large lease TTL" => StoreError::Invalid("too large lease TTL"),
        "etcdserver: request is too large" => StoreError::Invalid("request is too large"),
        "etcdserver: mvcc: database space exceeded" => StoreError::DiskFull,
        text => StoreError::Cluster(format!("{text} ({})", status.code()).into()),
    }
}

pub fn watch_options(
    range_end: Option<&Bytes>,
    prev_kv: bool,
    from: Revision,
    progress: bool,
) -> etcd::WatchOptions {
    let mut options = etcd::WatchOptions::new().with_start_revision(from.0);
    if let Some(end) = range_end {
        options = options.with_range(end.to_vec());
    }
    if prev_kv {
        options = options.with_prev_key();
    }
    if progress {
        options = options.with_progress_notify();
    }
    options
}
