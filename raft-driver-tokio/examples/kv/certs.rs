//! `kv certs`: a small authority, and a certificate for each node, for trying TLS on the port of the nodes.
//!
//! * Nothing is overwritten: a key that is gone cannot be had back.
//! * Keys are readable by their owner alone, where files have owners.
//! * For trying: who keeps data of others has an authority already, whose key is on no node.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use raft_core::NodeId;
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::tcp::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::cli::Certs;
use crate::failure::{Failure, Kind};
use crate::report::line;

/// Makes them.
pub(crate) fn run(options: &Certs) -> Result<(), Failure> {
    let made = make(ClusterId::new(options.cluster), options.nodes)
        .map_err(|error| Failure::other(format!("no certificates: {error}")))?;
    fs::create_dir_all(&options.out).map_err(|error| cannot_write(&options.out, &error))?;
    for (name, pem) in &made {
        let path = options.out.join(name);
        let written = create(&path, name.ends_with(".key")).and_then(|mut file| {
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| cannot_write(&path, &error))?;
    }
    let out = options.out.display();
    line("made", format!("{} files in {out}; each node needs ca.pem and its own two", made.len()));
    line(
        "start",
        format!(
            "kv serve --id 1 --tls-ca {out}/ca.pem --tls-cert {out}/node-1.pem --tls-key {out}/node-1.key ..."
        ),
    );
    line("keep", format!("{out}/ca.key signs for further nodes; let it be on no node"));
    Ok(())
}

/// Files by name.
fn make(cluster: ClusterId, nodes: u16) -> Result<Vec<(String, String)>, rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, format!("kv cluster {cluster}"));
    let key = KeyPair::generate()?;
    let mut made =
        vec![("ca.pem".to_owned(), ca.self_signed(&key)?.pem()), ("ca.key".to_owned(), key.serialize_pem())];
    let issuer = Issuer::new(ca, key);
    for id in 1..=nodes {
        let name = Tls::name(cluster, NodeId::new(id.into()));
        let mut node = CertificateParams::new([name])?;
        node.distinguished_name.push(DnType::CommonName, format!("node {id}"));
        // Each connects, and is connected to.
        node.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        made.push((format!("node-{id}.pem"), node.signed_by(&key, &issuer)?.pem()));
        made.push((format!("node-{id}.key"), key.serialize_pem()));
    }
    Ok(made)
}

fn create(path: &Path, secret: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = secret;
    options.open(path)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::AlreadyExists => "choose another --out: what is there is never overwritten",
        _ => "choose another --out",
    };
    Failure::new(Kind::Data, format!("cannot write {}: {error}", path.display()), advice)
}

#[cfg(test)]
mod tests {
    use raft_driver_tokio::storage::Identity;

    use super::*;

    #[test]
    fn nodes_take_what_is_made_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let options = Certs { out: directory.path().join("tls"), nodes: 3, cluster: 9 };
        run(&options).unwrap();
        for node in 1..=3 {
            let identity = Identity { cluster: ClusterId::new(9), node: NodeId::new(node) };
            let path = |name: String| options.out.join(name);
            let (certificate, key) = (path(format!("node-{node}.pem")), path(format!("node-{node}.key")));
            Tls::from_files(identity, path("ca.pem".into()), &certificate, &key).unwrap();
            let other = Identity { node: NodeId::new(node + 1), ..identity };
            assert!(
                Tls::from_files(other, path("ca.pem".into()), &certificate, &key).is_err(),
                "another's name"
            );
        }
        let before = fs::read(options.out.join("ca.key")).unwrap();
        let refused = run(&options).unwrap_err();
        assert_eq!(refused.kind, Kind::Data);
        assert!(refused.to_string().contains("never overwritten"), "{refused}");
        assert_eq!(fs::read(options.out.join("ca.key")).unwrap(), before);
        #[cfg(unix)]
        {
            let mode = |name: &str| {
                let found = fs::metadata(options.out.join(name)).unwrap();
                std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o077
            };
            assert_eq!((mode("ca.key"), mode("node-2.key")), (0, 0));
        }
    }
}
