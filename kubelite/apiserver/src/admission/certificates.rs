//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: the right to touch a request's approval or
//! status is not enough; the signer must be the writer's to approve or sign for, and nobody asks for `system:masters`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use kubelite_api::status::ApiError;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use crate::admission::{Admission, Attributes, Operation};
use crate::auth::Authorizer;
use crate::auth::chain::{Chain, MASTERS};
use crate::request::RequestInfo;

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// The checks of the CSR API.
pub struct Certificates {
    authorizer: Arc<Chain>,
}

impl Certificates {
    /// Judges by this authorizer.
    pub fn new(authorizer: Arc<Chain>) -> Self {
        Certificates { authorizer }
    }

    /// The verb on the signer, or on all signers of its domain (`example.com/*`).
    fn signer(&self, attributes: &Attributes<'_>, verb: &str, object: &Value) -> Result<(), ApiError> {
        let name = attributes.old.unwrap_or(object)["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = format!("{}/*", name.split('/').next().unwrap_or_default());
        let allowed = [name, &domain].into_iter().any(|name| {
            let request = RequestInfo {
                is_resource: true,
                verb: verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name: name.to_owned(),
                ..RequestInfo::default()
            };
            self.authorizer.authorize(attributes.user, &request).allowed()
        });
        let why = format!("user not permitted to {verb} requests with signerName \"{name}\"");
        if allowed { Ok(()) } else { Err(attributes.forbid(object, &why)) }
    }
}

#[async_trait]
impl Admission for Certificates {
    fn name(&self) -> &'static str {
        "Certificates"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let request = attributes.request;
        if request.group != GROUP || request.resource != "certificatesigningrequests" {
            return Ok(());
        }
        let signed = |o: &Value| o["status"]["certificate"].clone();
        match (attributes.operation, request.subresource.as_str()) {
            (Operation::Create, "") => asks_for_masters(object)
                .then(|| {
                    attributes.forbid(
                        object,
                        &format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed"),
                    )
                })
                .map_or(Ok(()), Err),
            (Operation::Update, "approval") => self.signer(attributes, "approve", object),
            (Operation::Update, "status")
                if attributes.old.is_none_or(|old| signed(old) != signed(object)) =>
            {
                self.signer(attributes, "sign", object)
            }
            _ => Ok(()),
        }
    }
}

/// Whether the request for the API's own signer has the group of the masters in its subject. What doesn't parse is the
/// validation's matter.
fn asks_for_masters(object: &Value) -> bool {
    if object["spec"]["signerName"] != API_CLIENT {
        return false;
    }
    let read = || -> Option<bool> {
        let pem = STANDARD.decode(object["spec"]["request"].as_str()?).ok()?;
        let (_, pem) = parse_x509_pem(&pem).ok()?;
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &csr.certification_request_info.subject;
        Some(subject.iter_organization().any(|o| o.as_str() == Ok(MASTERS)))
    };
    read().unwrap_or(false)
}
