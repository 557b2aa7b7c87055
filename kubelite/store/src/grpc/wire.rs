//! etcd's messages as the store's requests, and its answers as etcd's messages.

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest,
    PbTxnRequestOp, PbTxnResponse,
};
use tonic::{Code, Status};

use super::header;
use crate::error::Error;
use crate::request::{
    Compare, Comparison, DeleteRequest, DeleteResponse, Operation, Outcome, PutRequest, RangeRequest,
    RangeResponse, SortOrder, SortTarget, Target, TxnRequest, TxnResponse,
};
use crate::types::{KeyRange, KeyValue, Revision};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Compacted { .. } | Error::FutureRevision { .. } | Error::LeaseTtlTooLarge(_) => {
                Code::OutOfRange
            }
            Error::LeaseNotFound(_) => Code::NotFound,
            Error::LeaseExists(_) => Code::FailedPrecondition,
            Error::EmptyKey
            | Error::KeyNotFound
            | Error::ValueProvided
            | Error::LeaseProvided
            | Error::DuplicateKey
            | Error::TooManyOperations
            | Error::TooLarge => Code::InvalidArgument,
            // Clients know these words, and only these; the details stand in the server's log.
            Error::NoSpace(_) => {
                return Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
            }
            Error::Stopped(_) | Error::Closed => Code::Unavailable,
            Error::InUse(_) | Error::Damaged { .. } | Error::Io { .. } => Code::Internal,
        };
        Status::new(code, error.to_string())
    }
}

/// 0 none, 1 ascending, 2 descending; a target other than the key without an order means ascending.
fn sort(target: i32, order: i32) -> Option<(SortTarget, SortOrder)> {
    let target = match target {
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => SortTarget::Key,
    };
    match (order, target) {
        (2, _) => Some((target, SortOrder::Descending)),
        (_, SortTarget::Key) => None,
        _ => Some((target, SortOrder::Ascending)),
    }
}

pub(super) fn range_request(message: PbRangeRequest) -> RangeRequest {
    RangeRequest {
        sort: sort(message.sort_target, message.sort_order),
        range: KeyRange::from_wire(message.key, message.range_end),
        revision: message.revision,
        limit: usize::try_from(message.limit).unwrap_or(0),
        keys_only: message.keys_only,
        count_only: message.count_only,
        mod_revisions: (message.min_mod_revision, message.max_mod_revision),
        create_revisions: (message.min_create_revision, message.max_create_revision),
    }
}

pub(super) fn put_request(message: PbPutRequest) -> PutRequest {
    PutRequest {
        key: message.key.into(),
        value: message.value.into(),
        lease: message.lease,
        prev_kv: message.prev_kv,
        ignore_value: message.ignore_value,
        ignore_lease: message.ignore_lease,
    }
}

pub(super) fn delete_request(message: PbDeleteRequest) -> DeleteRequest {
    DeleteRequest { range: KeyRange::from_wire(message.key, message.range_end), prev_kv: message.prev_kv }
}

pub(super) fn txn_request(message: PbTxnRequest) -> Result<TxnRequest, Error> {
    Ok(TxnRequest {
        compare: message.compare.into_iter().map(compare).collect(),
        success: message.success.into_iter().map(operation).collect::<Result<_, _>>()?,
        failure: message.failure.into_iter().map(operation).collect::<Result<_, _>>()?,
    })
}

fn operation(message: PbTxnRequestOp) -> Result<Operation, Error> {
    Ok(match message.request.ok_or(Error::EmptyKey)? {
        PbTxnOpRequest::RequestRange(range) => Operation::Range(range_request(range)),
        PbTxnOpRequest::RequestPut(put) => Operation::Put(put_request(put)),
        PbTxnOpRequest::RequestDeleteRange(delete) => Operation::Delete(delete_request(delete)),
        PbTxnOpRequest::RequestTxn(inner) => Operation::Txn(Box::new(txn_request(inner)?)),
    })
}

/// A value that is missing counts as zero or empty.
fn compare(message: PbCompare) -> Compare {
    let number = match &message.target_union {
        Some(
            PbTargetUnion::Version(number)
            | PbTargetUnion::CreateRevision(number)
            | PbTargetUnion::ModRevision(number)
            | PbTargetUnion::Lease(number),
        ) => *number,
        _ => 0,
    };
    let target = match (message.target, message.target_union) {
        (0, _) => Target::Version(number),
        (1, _) => Target::Create(number),
        (2, _) => Target::Mod(number),
        (3, Some(PbTargetUnion::Value(value))) => Target::Value(value.into()),
        (3, _) => Target::Value(bytes::Bytes::new()),
        _ => Target::Lease(number),
    };
    let comparison = match message.result {
        0 => Comparison::Equal,
        1 => Comparison::Greater,
        2 => Comparison::Less,
        _ => Comparison::NotEqual,
    };
    Compare { range: KeyRange::from_wire(message.key, message.range_end), target, comparison }
}

pub(super) fn key_value(kv: KeyValue) -> PbKeyValue {
    PbKeyValue {
        key: kv.key.into(),
        value: kv.value.into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

pub(super) fn range_response(response: RangeResponse) -> PbRangeResponse {
    PbRangeResponse {
        header: header(response.revision),
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: i64::try_from(response.count).unwrap_or(i64::MAX),
    }
}

pub(super) fn put_response(previous: Option<KeyValue>, revision: Revision) -> PbPutResponse {
    PbPutResponse { header: header(revision), prev_kv: previous.map(key_value) }
}

pub(super) fn delete_response(response: DeleteResponse, revision: Revision) -> PbDeleteResponse {
    PbDeleteResponse {
        header: header(revision),
        deleted: i64::try_from(response.deleted).unwrap_or(i64::MAX),
        prev_kvs: response.previous.into_iter().map(key_value).collect(),
    }
}

pub(super) fn txn_response(response: TxnResponse, revision: Revision) -> PbTxnResponse {
    let outcomes = response.outcomes.into_iter().map(|outcome| {
        let response = match outcome {
            Outcome::Range(range) => {
                PbTxnOpResponse::ResponseRange(range_response(RangeResponse { revision, ..range }))
            }
            Outcome::Put(previous) => PbTxnOpResponse::ResponsePut(put_response(previous, revision)),
            Outcome::Delete(delete) => {
                PbTxnOpResponse::ResponseDeleteRange(delete_response(delete, revision))
            }
            Outcome::Txn(inner) => PbTxnOpResponse::ResponseTxn(txn_response(inner, revision)),
        };
        PbResponseOp { response: Some(response) }
    });
    PbTxnResponse { header: header(revision), succeeded: response.succeeded, responses: outcomes.collect() }
}
