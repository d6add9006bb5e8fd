//! Certificates of the lab: one authority per cluster and one for the hub's
//! etcd. Fresh with every lab. Called while a cluster or the hub is prepared.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// An authority and the folder its files go to.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Certificate and key as files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM private key (PKCS 8).
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority named `name` and writes ca.pem and ca-key.pem.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let authority = Self { folder: folder.to_owned(), issuer };
        fs::write(authority.ca_path(), authority.issuer.pem())?;
        write_private(&folder.join("ca-key.pem"), &key_pem)?;
        Ok(authority)
    }

    /// The authority's certificate.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The authority's own certificate and key.
    pub fn pair(&self) -> Pair {
        Pair { cert: self.ca_path(), key: self.folder.join("ca-key.pem") }
    }

    /// Issues a certificate good for both ends of TLS. `names` are DNS names or
    /// addresses it serves as.
    pub fn issue(&self, file: &str, name: &str, group: Option<&str>, names: &[&str]) -> Result<Pair> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject(name, group);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}-key.pem")),
        };
        fs::write(&pair.cert, cert.pem())?;
        write_private(&pair.key, &key.serialize_pem())?;
        Ok(pair)
    }

    /// A bare key pair that signs service account tokens: (public, private).
    pub fn token_keys(&self) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let (public, private) = (self.folder.join("tokens.pub"), self.folder.join("tokens.key"));
        fs::write(&public, key.public_key_pem())?;
        write_private(&private, &key.serialize_pem())?;
        Ok((public, private))
    }

    /// Writes a self-contained kubeconfig for the apiserver at `server`.
    pub fn kubeconfig(&self, path: &Path, cluster: &str, server: &str, user: &Pair) -> Result<()> {
        let data = |file: &Path| -> Result<String> {
            Ok(BASE64.encode(&fs::read(file).with_context(|| format!("read {}", file.display()))?))
        };
        let text = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster: {{server: \"{server}\", certificate-authority-data: {ca}}}
users:
- name: {cluster}
  user: {{client-certificate-data: {cert}, client-key-data: {key}}}
contexts:
- name: {cluster}
  context: {{cluster: {cluster}, user: {cluster}}}
current-context: {cluster}
",
            ca = data(&self.ca_path())?,
            cert = data(&user.cert)?,
            key = data(&user.key)?,
        );
        write_private(path, &text)
    }
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
