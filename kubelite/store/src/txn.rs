//! Reads and transactions over the state of the keys. Pure.
//!
//! A transaction is decided, checked and only then executed: first every compare of every nested transaction, against
//! the state before it; then every operation on the chosen path, so that a refused transaction has changed nothing;
//! then the operations in order, each seeing what those before it did.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::error::Error;
use crate::lease::Leases;
use crate::mvcc::{Mvcc, Version};
use crate::request::{
    Compare, Comparison, DeleteRequest, DeleteResponse, Operation, Outcome, PutRequest, RangeRequest,
    RangeResponse, SortOrder, SortTarget, Target, TxnRequest, TxnResponse,
};
use crate::types::{Change, KeyRange, KeyValue, Revision};

/// How many operations one transaction may have on each level: etcd's default.
pub const MAX_TXN_OPS: usize = 128;
/// How deep transactions may be nested.
pub const MAX_TXN_DEPTH: usize = 8;
/// How many operations one transaction may have on all levels together.
pub const MAX_TXN_TOTAL_OPS: usize = 1024;

/// A transaction whose conditions were evaluated: the operations that will be executed.
#[derive(Debug)]
pub(crate) struct Decided {
    succeeded: bool,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRequest),
    Txn(Decided),
}

/// Refuses what is wrong whatever the state is: missing keys, too many operations, a key that is written twice.
pub(crate) fn validate(request: &TxnRequest) -> Result<(), Error> {
    if validate_shape(request, 0)? > MAX_TXN_TOTAL_OPS {
        return Err(Error::TooManyOperations);
    }
    for branch in [&request.success, &request.failure] {
        let mut written = Written::default();
        written.collect(branch);
        written.check()?;
    }
    Ok(())
}

/// Checks each operation, and counts them.
fn validate_shape(request: &TxnRequest, depth: usize) -> Result<usize, Error> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > MAX_TXN_OPS || depth > MAX_TXN_DEPTH {
        return Err(Error::TooManyOperations);
    }
    if request.compare.iter().any(|compare| compare.range.start().is_empty()) {
        return Err(Error::EmptyKey);
    }
    let mut total = 0;
    for operation in request.success.iter().chain(&request.failure) {
        total += 1;
        match operation {
            Operation::Range(range) => validate_key(range.range.start())?,
            Operation::Put(put) => validate_put(put)?,
            Operation::Delete(delete) => validate_key(delete.range.start())?,
            Operation::Txn(inner) => total += validate_shape(inner, depth + 1)?,
        }
    }
    Ok(total)
}

fn validate_key(key: &Bytes) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

fn validate_put(put: &PutRequest) -> Result<(), Error> {
    validate_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// What one branch writes: no key twice, and no key that the same branch deletes.
#[derive(Default)]
struct Written<'a> {
    puts: Vec<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Written<'a> {
    fn collect(&mut self, operations: &'a [Operation]) {
        for operation in operations {
            match operation {
                Operation::Range(_) => {}
                Operation::Put(put) => self.puts.push(&put.key),
                Operation::Delete(delete) => self.deletes.push(&delete.range),
                Operation::Txn(inner) => self.collect_inner(inner),
            }
        }
    }

    /// Only one branch of an inner transaction happens, so its two branches may write the same keys.
    fn collect_inner(&mut self, inner: &'a TxnRequest) {
        self.collect(&inner.success);
        let mut other = Written::default();
        other.collect(&inner.failure);
        other.puts.retain(|key| !self.puts.contains(key));
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }

    fn check(mut self) -> Result<(), Error> {
        self.puts.sort_unstable();
        let twice = self.puts.windows(2).any(|pair| matches!(pair, [left, right] if left == right));
        let deleted = |key: &&Bytes| self.deletes.iter().any(|range| range.contains(key));
        if twice || self.puts.iter().any(deleted) { Err(Error::DuplicateKey) } else { Ok(()) }
    }
}

/// Evaluates all conditions as of `revision`.
pub(crate) fn decide(request: TxnRequest, mvcc: &Mvcc, revision: Revision) -> Decided {
    let succeeded = request.compare.iter().all(|compare| holds(compare, mvcc, revision));
    let operations = if succeeded { request.success } else { request.failure };
    let steps = operations.into_iter().map(|operation| match operation {
        Operation::Range(range) => Step::Range(range),
        Operation::Put(put) => Step::Put(put),
        Operation::Delete(delete) => Step::Delete(delete),
        Operation::Txn(inner) => Step::Txn(decide(*inner, mvcc, revision)),
    });
    Decided { succeeded, steps: steps.collect() }
}

/// Refuses what cannot be done in this state.
pub(crate) fn check(decided: &Decided, mvcc: &Mvcc, leases: &Leases, current: Revision) -> Result<(), Error> {
    for step in &decided.steps {
        match step {
            Step::Range(range) => {
                mvcc.readable(range.revision, current)?;
            }
            Step::Put(put) => check_put(put, mvcc, leases, current)?,
            Step::Delete(_) => {}
            Step::Txn(inner) => check(inner, mvcc, leases, current)?,
        }
    }
    Ok(())
}

fn check_put(put: &PutRequest, mvcc: &Mvcc, leases: &Leases, current: Revision) -> Result<(), Error> {
    if put.lease != 0 && !leases.contains(put.lease) {
        return Err(Error::LeaseNotFound(put.lease));
    }
    if (put.ignore_value || put.ignore_lease) && mvcc.get(&put.key, current).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Does what was decided; the changes are collected in `changes` and stand in `mvcc` as its next revision.
pub(crate) fn execute(decided: Decided, mvcc: &mut Mvcc, changes: &mut Vec<Change>) -> TxnResponse {
    let outcomes = decided.steps.into_iter().map(|step| match step {
        Step::Range(request) => Outcome::Range(range(mvcc, &request, mvcc.next_revision())),
        Step::Put(request) => Outcome::Put(put(request, mvcc, changes)),
        Step::Delete(request) => Outcome::Delete(delete(&request, mvcc, changes)),
        Step::Txn(inner) => Outcome::Txn(execute(inner, mvcc, changes)),
    });
    TxnResponse { succeeded: decided.succeeded, outcomes: outcomes.collect(), revision: 0 }
}

/// Does what was decided when all of it are reads, as of `current`.
pub(crate) fn execute_reads(decided: &Decided, mvcc: &Mvcc, current: Revision) -> TxnResponse {
    let outcomes = decided.steps.iter().filter_map(|step| match step {
        Step::Range(request) => Some(Outcome::Range(range(mvcc, request, current))),
        Step::Txn(inner) => Some(Outcome::Txn(execute_reads(inner, mvcc, current))),
        Step::Put(_) | Step::Delete(_) => None,
    });
    TxnResponse { succeeded: decided.succeeded, outcomes: outcomes.collect(), revision: current }
}

fn put(request: PutRequest, mvcc: &mut Mvcc, changes: &mut Vec<Change>) -> Option<KeyValue> {
    let before = mvcc.get(&request.key, mvcc.next_revision());
    let kept = before.clone().unwrap_or_default();
    let change = Change::Put {
        key: request.key,
        value: if request.ignore_value { kept.value } else { request.value },
        lease: if request.ignore_lease { kept.lease } else { request.lease },
    };
    mvcc.change(&change);
    changes.push(change);
    before.filter(|_| request.prev_kv)
}

fn delete(request: &DeleteRequest, mvcc: &mut Mvcc, changes: &mut Vec<Change>) -> DeleteResponse {
    let found: Vec<KeyValue> =
        mvcc.range(&request.range, mvcc.next_revision()).map(|(key, version)| version.to_kv(key)).collect();
    for kv in &found {
        let change = Change::Delete { key: kv.key.clone() };
        mvcc.change(&change);
        changes.push(change);
    }
    DeleteResponse { deleted: found.len(), previous: if request.prev_kv { found } else { Vec::new() } }
}

/// Reads a range that was checked to be readable; `current` is what revision 0 means.
pub(crate) fn range(mvcc: &Mvcc, request: &RangeRequest, current: Revision) -> RangeResponse {
    let revision = if request.revision <= 0 { current } else { request.revision };
    let wanted = |version: &Version| {
        within(version.mod_revision, request.mod_revisions)
            && within(version.create_revision, request.create_revisions)
    };
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    // Without a sort the keys come in order, and only the first `limit` need to be copied.
    let needed = if request.sort.is_some() { usize::MAX } else { limit };
    let (mut count, mut matching, mut kvs) = (0, 0, Vec::new());
    for (key, version) in mvcc.range(&request.range, revision) {
        count += 1;
        if request.count_only || !wanted(version) {
            continue;
        }
        matching += 1;
        if kvs.len() < needed {
            kvs.push(version.to_kv(key));
        }
    }
    if let Some((target, order)) = request.sort {
        sort(&mut kvs, target, order);
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse { more: matching > kvs.len(), kvs, count, revision: current }
}

fn within(revision: Revision, (least, most): (Revision, Revision)) -> bool {
    revision >= least && (most == 0 || revision <= most)
}

fn sort(kvs: &mut [KeyValue], target: SortTarget, order: SortOrder) {
    let compare = |left: &KeyValue, right: &KeyValue| match target {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::Create => left.create_revision.cmp(&right.create_revision),
        SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
        SortTarget::Value => left.value.cmp(&right.value),
    };
    match order {
        SortOrder::Ascending => kvs.sort_by(compare),
        SortOrder::Descending => kvs.sort_by(|left, right| compare(right, left)),
    }
}

fn holds(compare: &Compare, mvcc: &Mvcc, revision: Revision) -> bool {
    let mut found = mvcc.range(&compare.range, revision).peekable();
    if found.peek().is_none() {
        return match &compare.target {
            Target::Value(_) => false,
            target => matches(compare.comparison, order(&KeyValue::default(), target)),
        };
    }
    found.all(|(key, version)| matches(compare.comparison, order(&version.to_kv(key), &compare.target)))
}

fn order(kv: &KeyValue, target: &Target) -> Ordering {
    match target {
        Target::Version(version) => kv.version.cmp(version),
        Target::Create(revision) => kv.create_revision.cmp(revision),
        Target::Mod(revision) => kv.mod_revision.cmp(revision),
        Target::Value(value) => kv.value.cmp(value),
        Target::Lease(lease) => kv.lease.cmp(lease),
    }
}

fn matches(comparison: Comparison, order: Ordering) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::Greater => order.is_gt(),
    }
}

/// The bytes of all keys and values in a request.
pub(crate) fn weight(request: &TxnRequest) -> usize {
    let compares = request.compare.iter().map(|compare| match &compare.target {
        Target::Value(value) => compare.range.start().len() + value.len(),
        _ => compare.range.start().len(),
    });
    let operations = request.success.iter().chain(&request.failure).map(|operation| match operation {
        Operation::Range(range) => range.range.start().len(),
        Operation::Put(put) => put.key.len() + put.value.len(),
        Operation::Delete(delete) => delete.range.start().len(),
        Operation::Txn(inner) => weight(inner),
    });
    compares.chain(operations).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, Reply, State};

    fn put(key: &'static str) -> Operation {
        Operation::Put(PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() })
    }

    fn delete(range: KeyRange) -> Operation {
        Operation::Delete(DeleteRequest { range, prev_kv: false })
    }

    fn either(success: Vec<Operation>, failure: Vec<Operation>) -> TxnRequest {
        TxnRequest { compare: Vec::new(), success, failure }
    }

    fn inner(success: Vec<Operation>, failure: Vec<Operation>) -> Operation {
        Operation::Txn(Box::new(either(success, failure)))
    }

    #[test]
    fn no_key_is_written_twice() {
        let twice = [
            vec![put("a"), put("a")],
            vec![put("a"), delete(KeyRange::prefix("a"))],
            vec![put("a"), inner(vec![put("a")], vec![])],
            vec![inner(vec![], vec![put("a")]), delete(KeyRange::key("a"))],
        ];
        for operations in twice {
            assert_eq!(validate(&TxnRequest::of(operations)), Err(Error::DuplicateKey));
        }
        // Of two branches only one happens.
        assert_eq!(validate(&either(vec![put("a")], vec![put("a")])), Ok(()));
        assert_eq!(validate(&TxnRequest::of(vec![inner(vec![put("a")], vec![put("a")])])), Ok(()));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let reads = |count| vec![Operation::Range(RangeRequest::new(KeyRange::key("a"))); count];
        assert_eq!(validate(&TxnRequest::of(reads(MAX_TXN_OPS))), Ok(()));
        assert_eq!(validate(&TxnRequest::of(reads(MAX_TXN_OPS + 1))), Err(Error::TooManyOperations));
        let wide = vec![inner(reads(MAX_TXN_OPS), vec![]); 9];
        assert_eq!(validate(&TxnRequest::of(wide)), Err(Error::TooManyOperations));
        let deep = (0..=MAX_TXN_DEPTH).fold(put("a"), |operation, _| inner(vec![operation], vec![]));
        assert_eq!(validate(&TxnRequest::of(vec![deep])), Err(Error::TooManyOperations));
    }

    fn apply(state: &mut State, request: TxnRequest) -> Result<TxnResponse, Error> {
        match state.apply(Command::Txn(request), std::time::Instant::now(), &mut Vec::new())? {
            Reply::Txn(response) => Ok(response),
            Reply::Done(_) => panic!("no answer to a transaction"),
        }
    }

    #[test]
    fn every_comparison_holds_as_it_says() {
        use Comparison::{Equal, Greater, Less, NotEqual};
        let mut state = State::new();
        for _ in 0..2 {
            apply(&mut state, TxnRequest::of(vec![put("a")])).unwrap();
        }
        let absent_value = (KeyRange::key("none"), Target::Value(Bytes::new()), Equal, false);
        let cases = [
            (KeyRange::key("a"), Target::Version(2), Equal, true),
            (KeyRange::key("a"), Target::Create(2), Equal, true),
            (KeyRange::key("a"), Target::Mod(3), Less, false),
            (KeyRange::key("a"), Target::Mod(2), Greater, true),
            (KeyRange::key("a"), Target::Value("v".into()), NotEqual, false),
            (KeyRange::key("a"), Target::Lease(0), Equal, true),
            (KeyRange::key("none"), Target::Version(0), Equal, true),
            (KeyRange::prefix(""), Target::Create(1), Greater, true),
            absent_value,
        ];
        for (range, target, comparison, holds) in cases {
            let compare = Compare { range, target, comparison };
            let request = TxnRequest { compare: vec![compare.clone()], ..TxnRequest::default() };
            assert_eq!(apply(&mut state, request).unwrap().succeeded, holds, "{compare:?}");
        }
    }

    #[test]
    fn a_refused_transaction_changes_nothing() {
        let mut state = State::new();
        let leased = PutRequest { key: "b".into(), lease: 7, ..PutRequest::default() };
        let refused = apply(&mut state, TxnRequest::of(vec![put("a"), Operation::Put(leased)]));
        assert_eq!(refused, Err(Error::LeaseNotFound(7)));
        assert_eq!((state.mvcc.revision, state.mvcc.keys.len()), (1, 0));
    }

    #[test]
    fn operations_see_those_before_them() {
        let mut state = State::new();
        let read = Operation::Range(RangeRequest::new(KeyRange::prefix("")));
        let response =
            apply(&mut state, TxnRequest::of(vec![put("a"), read.clone(), put("b"), read])).unwrap();
        let counts = response.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Range(range) => Some(range.count),
            _ => None,
        });
        assert_eq!((counts.collect::<Vec<_>>(), response.revision), (vec![1, 2], 2));
    }
}
