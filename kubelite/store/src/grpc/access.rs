//! Who may touch which keys: the common name of the client's certificate decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::{Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::request::{Operation, TxnRequest};
use crate::types::KeyRange;

/// The rules of a server.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody who can connect may do everything.
    Everyone,
    /// By the common name: the prefixes whose keys that client may read and write. The empty prefix means every
    /// key, and with it the right to compact and to look at the whole store. Names that are not listed may nothing.
    ByCommonName(Arc<BTreeMap<String, Vec<String>>>),
}

/// What the client of one request may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rights {
    ranges: Vec<KeyRange>,
}

impl Access {
    /// Rules from pairs of a common name and its prefixes.
    pub fn by_common_name<'a>(rules: impl IntoIterator<Item = (&'a str, &'a [&'a str])>) -> Self {
        let rules = rules
            .into_iter()
            .map(|(name, prefixes)| (name.to_owned(), prefixes.iter().map(ToString::to_string).collect()));
        Access::ByCommonName(Arc::new(rules.collect()))
    }

    /// The rights of the client that sent `request`.
    pub(super) fn rights<T>(&self, request: &Request<T>) -> Rights {
        match self {
            Access::Everyone => Rights { ranges: vec![KeyRange::prefix("")] },
            Access::ByCommonName(rules) => {
                let prefixes = common_name(request).and_then(|name| rules.get(&name));
                let prefixes = prefixes.into_iter().flatten();
                Rights { ranges: prefixes.map(|prefix| KeyRange::prefix(prefix.clone())).collect() }
            }
        }
    }
}

/// The common name in the client's certificate, which the TLS layer has verified.
fn common_name<T>(request: &Request<T>) -> Option<String> {
    let certificates = request.peer_certs()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

impl Rights {
    /// May this range be read and written?
    pub(super) fn keys(&self, range: &KeyRange) -> Result<(), Status> {
        if self.ranges.iter().any(|allowed| allowed.covers(range)) { Ok(()) } else { Err(denied()) }
    }

    /// May the store as a whole be touched?
    pub(super) fn everything(&self) -> Result<(), Status> {
        self.keys(&KeyRange::prefix(""))
    }

    /// May every key that the transaction names be touched?
    pub(super) fn txn(&self, request: &TxnRequest) -> Result<(), Status> {
        request.compare.iter().try_for_each(|compare| self.keys(&compare.range))?;
        request.success.iter().chain(&request.failure).try_for_each(|operation| match operation {
            Operation::Range(range) => self.keys(&range.range),
            Operation::Put(put) => self.keys(&KeyRange::key(put.key.clone())),
            Operation::Delete(delete) => self.keys(&delete.range),
            Operation::Txn(inner) => self.txn(inner),
        })
    }
}

/// The refusal in etcd's words.
pub(super) fn denied() -> Status {
    Status::permission_denied("etcdserver: permission denied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate_nothing_is_allowed() {
        let access = Access::by_common_name([("root", &[""][..])]);
        assert!(access.rights(&Request::new(())).keys(&KeyRange::key("a")).is_err());
        assert!(Access::Everyone.rights(&Request::new(())).everything().is_ok());
    }

    #[test]
    fn a_prefix_is_no_more_than_that() {
        let rights = Rights { ranges: vec![KeyRange::prefix("/net/")] };
        assert!(rights.keys(&KeyRange::prefix("/net/subnets/")).is_ok());
        assert!(rights.keys(&KeyRange::from_wire("/net/a", "\0")).is_err());
        assert!(rights.everything().is_err());
        let nested = TxnRequest::of(vec![Operation::Txn(Box::new(TxnRequest::of(vec![Operation::Delete(
            crate::DeleteRequest { range: KeyRange::prefix("/registry/"), prev_kv: false },
        )])))]);
        assert!(rights.txn(&nested).is_err());
    }
}
