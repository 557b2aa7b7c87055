//! A throw-away authority, and objects in memory.

use std::sync::Arc;

use kubelite_apiserver::auth::Objects;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::Value;

/// A certificate authority for one test.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// (certificate, key) for a subject; names make it a server's.
    pub(crate) fn sign(&self, cn: &str, group: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// (resource, object) pairs.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Vec<(String, Arc<Value>)>);

impl Objects for Memory {
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let hit = |(r, o): &&(String, Arc<Value>)| {
            r == resource && (namespace.is_empty() || o["metadata"]["namespace"] == namespace)
        };
        self.0.iter().filter(hit).map(|(_, o)| o.clone()).collect()
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.list(resource, namespace).into_iter().find(|o| o["metadata"]["name"] == name)
    }
}
