//! An authority that signs whatever a test needs.

#![allow(dead_code, unreachable_pub, reason = "every test takes what it needs")]

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// An authority.
pub struct Authority {
    /// Its own certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate with these names, good for both sides of a connection.
    pub fn issue(&self, names: &[String]) -> Issued {
        self.sign(names, |params| {
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// The same, and it has expired.
    pub fn issue_expired(&self, names: &[String]) -> Issued {
        self.sign(names, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        })
    }

    /// The same, good only from `wait` on, or a second sooner.
    pub fn issue_good_in(&self, names: &[String], wait: std::time::Duration) -> Issued {
        self.sign(names, |params| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            params.not_before = date_time_ymd(1970, 1, 1) + now + wait;
        })
    }

    /// The same, and servers only may use it.
    pub fn issue_for_servers(&self, names: &[String]) -> Issued {
        self.sign(names, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn sign(&self, names: &[String], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}
