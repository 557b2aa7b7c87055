use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;

fn roots(ca: &str) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn serves(ca: &str, certificate: &str, name: &str) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots(ca), provider).build().unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).is_ok()
}

fn is_client(ca: &str, certificate: &str) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider).build().unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok()
}

fn names() -> Vec<String> {
    ["n1", "192.0.2.1", "10.96.0.1"].map(str::to_owned).to_vec()
}

#[test]
fn what_was_made_is_loaded_again_and_readable_by_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = Pki::load_or_create(&dir, &names()).unwrap();
    let second = Pki::load_or_create(&dir, &names()).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.apiserver, second.apiserver);
    assert_eq!(first.admin, second.admin);
    assert_eq!(first.service_account_key(), second.service_account_key());
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&dir).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn certificates_serve_their_purpose_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &names()).unwrap();
    let (ca, etcd) = (pki.ca_pem(), pki.etcd_ca_pem());
    for name in ["kubernetes.default.svc", "localhost", "127.0.0.1", "n1", "192.0.2.1", "10.96.0.1"] {
        assert!(serves(ca, &pki.apiserver.certificate, name), "{name}");
    }
    assert!(!serves(ca, &pki.apiserver.certificate, "evil.example"));
    assert!(!serves(ca, &pki.admin.certificate, "localhost"));
    assert!(!serves(etcd, &pki.apiserver.certificate, "localhost"));
    assert!(is_client(ca, &pki.admin.certificate) && is_client(ca, &pki.kubelet_client.certificate));
    assert!(!is_client(ca, &pki.apiserver.certificate));
    assert!(is_client(etcd, &pki.etcd_flannel.certificate) && !is_client(ca, &pki.etcd_flannel.certificate));
    assert!(!is_client(etcd, &pki.admin.certificate));
}

#[test]
fn a_new_name_or_a_foreign_certificate_is_made_anew_and_the_authority_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = Pki::load_or_create(&dir, &names()).unwrap();
    let more = [names(), vec!["198.51.100.7".to_owned()]].concat();
    let second = Pki::load_or_create(&dir, &more).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_ne!(first.apiserver, second.apiserver);
    assert!(serves(second.ca_pem(), &second.apiserver.certificate, "198.51.100.7"));
    fs::write(dir.join("admin.crt"), &first.etcd_flannel.certificate).unwrap();
    fs::write(dir.join("admin.key"), &first.etcd_flannel.key).unwrap();
    let third = Pki::load_or_create(&dir, &more).unwrap();
    assert!(is_client(third.ca_pem(), &third.admin.certificate));
    fs::write(dir.join("ca.crt"), "damaged").unwrap();
    assert!(Pki::load_or_create(&dir, &more).is_err());
}

#[test]
fn certificates_are_renewed_before_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let pki = Pki::load_or_create(&dir, &names()).unwrap();
    let at = now().unwrap() + 300 * 24 * 3600;
    let profile = Profile::new("kubernetes-admin", "system:masters", Usage::Client, &[]);
    let later = Store { dir: &dir, now: at }.leaf(&pki.ca, "admin", &profile).unwrap();
    assert_ne!(later, pki.admin);
}

#[test]
fn of_a_request_only_the_key_counts() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &names()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "root-of-all");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let client = pki.sign_node_client(&csr, "n2").unwrap();
    let serving = pki.sign_node_serving(&csr, "n2", "192.0.2.2".parse().unwrap()).unwrap();
    assert!(is_client(pki.ca_pem(), &client) && !is_client(pki.ca_pem(), &serving));
    assert!(serves(pki.ca_pem(), &serving, "n2") && serves(pki.ca_pem(), &serving, "192.0.2.2"));
    assert!(!serves(pki.ca_pem(), &serving, "kubernetes"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(client.as_bytes()).unwrap();
    let subject = pem.parse_x509().unwrap().subject().to_string();
    assert_eq!(subject, "O=system:nodes, CN=system:node:n2");
    assert!(pki.sign_node_client("no request", "n2").is_err());
}

#[test]
fn the_kubeconfig_is_what_clients_read() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &names()).unwrap();
    let text = kubeconfig("https://192.0.2.1:6443", pki.ca_pem(), &pki.admin);
    let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("kubelite"));
    assert_eq!(
        config.clusters[0].cluster.as_ref().unwrap().server.as_deref(),
        Some("https://192.0.2.1:6443")
    );
}
