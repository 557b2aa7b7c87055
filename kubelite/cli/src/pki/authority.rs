//! One certificate authority: what it signs, and whether a certificate is still one that it would sign.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, date_time_ymd,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: i64 = 24 * 3600;
/// An authority's life.
const CA_DAYS: i64 = 10 * 365;
/// A certificate's life.
const LEAF_DAYS: i64 = 365;
/// What ends in less is made anew.
const RENEW_DAYS: i64 = 90;
/// Certificates begin in the past, for hosts whose clock is behind (seconds).
const SKEW: i64 = 3600;

/// A private key (PKCS #8) and its certificate, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAndCertificate {
    /// The key.
    pub key: String,
    /// The certificate alone; the authorities have no intermediates.
    pub certificate: String,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
    Both,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    common_name: String,
    organization: String,
    usage: Usage,
    names: Vec<String>,
}

impl Profile {
    /// `names` are host names and IP addresses; an empty organization is none.
    pub(super) fn new(common_name: &str, organization: &str, usage: Usage, names: &[String]) -> Profile {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        Profile { common_name: common_name.to_owned(), organization: organization.to_owned(), usage, names }
    }

    fn params(&self, now: i64) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names.clone()).context("a name is no host name")?;
        subject(&mut params, &self.common_name, &self.organization);
        lifetime(&mut params, now, LEAF_DAYS)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.usage != Usage::Server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if self.usage != Usage::Client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        Ok(params)
    }
}

fn subject(params: &mut CertificateParams, common_name: &str, organization: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
}

fn lifetime(params: &mut CertificateParams, now: i64, days: i64) -> Result<()> {
    let at = |seconds: i64| -> Result<_> {
        Ok(date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds)?))
    };
    params.not_before = at(now - SKEW)?;
    params.not_after = at(now + days * DAY)?;
    // Positive, and no two alike (RFC 5280, 4.1.2.2).
    let mut serial = rand::random::<[u8; 16]>();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

/// A new self-signed authority.
pub(super) fn create(common_name: &str, now: i64) -> Result<KeyAndCertificate> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // The time makes the name unique: clients that know an older CA of the same name say clearly that it is another.
    subject(&mut params, &format!("{common_name}@{now}"), "");
    lifetime(&mut params, now, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key)?.pem();
    Ok(KeyAndCertificate { key: key.serialize_pem(), certificate })
}

/// A loaded authority.
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Key and certificate must belong together and be in their time.
    pub(super) fn load(pair: &KeyAndCertificate, now: i64) -> Result<Authority> {
        let key = KeyPair::from_pem(&pair.key).context("the key is damaged")?;
        let end = with_certificate(&pair.certificate, |certificate| {
            ensure!(
                certificate.public_key().raw == key.subject_public_key_info(),
                "the certificate is of another key"
            );
            Ok(certificate.validity().not_after.timestamp())
        })?;
        ensure!(now < end, "the certificate has expired");
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key)?;
        Ok(Authority { pem: pair.certificate.clone(), issuer })
    }

    /// The certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// A new key with its certificate.
    pub(super) fn issue(&self, profile: &Profile, now: i64) -> Result<KeyAndCertificate> {
        let key = KeyPair::generate()?;
        let certificate = profile.params(now)?.signed_by(&key, &self.issuer)?.pem();
        Ok(KeyAndCertificate { key: key.serialize_pem(), certificate })
    }

    /// A certificate for the key of a CSR, whose signature proves that the asker has the key. Only the key is taken from it.
    pub(super) fn sign_csr(&self, csr: &str, profile: &Profile) -> Result<String> {
        let csr = CertificateSigningRequestParams::from_pem(csr)
            .context("no PKCS #10 request, or its signature does not verify")?;
        Ok(profile.params(super::now()?)?.signed_by(&csr.public_key, &self.issuer)?.pem())
    }

    /// Whether a stored pair can serve on; the error says why not.
    pub(super) fn accepts(&self, pair: &KeyAndCertificate, profile: &Profile, now: i64) -> Result<()> {
        let key = KeyPair::from_pem(&pair.key).context("the key is damaged")?;
        with_certificate(&self.pem, |ca| {
            with_certificate(&pair.certificate, |certificate| {
                let same = certificate.public_key().raw == key.subject_public_key_info();
                ensure!(same, "the certificate is of another key");
                let signed = certificate.verify_signature(Some(ca.public_key()));
                ensure!(signed.is_ok(), "it was signed by another authority");
                let left = certificate.validity().not_after.timestamp() - now;
                ensure!(left > RENEW_DAYS * DAY, "it ends in less than {RENEW_DAYS} days");
                let has = names(certificate)?;
                let missing = profile.names.iter().find(|name| !has.contains(name));
                missing.map_or(Ok(()), |name| Err(anyhow!("it lacks the name {name}")))
            })
        })
    }
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> Result<T>) -> Result<T> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|e| anyhow!("no PEM: {e}"))?;
    let (_, certificate) =
        X509Certificate::from_der(&pem.contents).map_err(|e| anyhow!("no certificate: {e}"))?;
    read(&certificate)
}

/// Host names and addresses of a certificate, as text.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>> {
    let Some(extension) = certificate.subject_alternative_name()? else {
        return Ok(Vec::new());
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    Ok(extension.value.general_names.iter().filter_map(text).collect())
}
