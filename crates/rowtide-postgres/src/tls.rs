//! TLS to Postgres, with the meaning that `sslmode` has for every other client of Postgres: `prefer`
//! (the default) and `require` encrypt and believe any certificate, `verify-full` believes only one
//! of a trusted authority for the host's name. Queries and
//! stream have one TLS client, which is configured here.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;

/// How a certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Any will do.
    Any,
    /// It must be for the host's name, and of an authority in this PEM file; of a publicly trusted
    /// one without a file.
    Host(Option<PathBuf>),
}

/// The file of `sslrootcert` cannot be used.
#[derive(Debug, Error)]
#[error("sslrootcert `{}` cannot be used: {reason}", path.display())]
pub struct InvalidRoots {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Trust {
    /// For every connection to Postgres.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, InvalidRoots> {
        // Installed already is as good: it is the same one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let roots = match self {
            Trust::Any => {
                let verifier = Arc::new(AnyCertificate(rustls::crypto::ring::default_provider()));
                let config = ClientConfig::builder().dangerous();
                let config = config.with_custom_certificate_verifier(verifier);
                return Ok(config.with_no_client_auth());
            }
            Trust::Host(None) => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
            Trust::Host(Some(path)) => {
                let fail = |reason| InvalidRoots { path: path.clone(), reason };
                let certificates = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| fail(error.to_string()))?;
                let mut roots = RootCertStore::empty();
                if roots.add_parsable_certificates(certificates).0 == 0 {
                    return Err(fail("it holds no certificate".to_owned()));
                }
                roots
            }
        };
        Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }
}

/// Encrypts without knowing to whom; signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
