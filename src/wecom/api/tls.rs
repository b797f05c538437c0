//! TLS to WeCom: the trusted certificates, and the connector that passes them to ureq.
//!
//! ureq's own connector trusts a fixed list of authorities. This one, like OpenSSL, also accepts a server certificate
//! that `ca_file` contains itself: `openssl req -x509` marks it as an authority, which webpki refuses for servers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Parses the certificates of a PEM file to DER. The error is a predicate of the file, such as "contains no certificate".
pub fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| "is not complete PEM".to_owned())?;
        let mut store = RootCertStore::empty();
        store
            .add(certificate.clone())
            .map_err(|_| "contains a certificate that cannot be parsed".to_owned())?;
        found.push(certificate.as_ref().to_vec());
    }
    if found.is_empty() {
        return Err("contains no certificate (PEM: -----BEGIN CERTIFICATE-----)".into());
    }
    Ok(found)
}

/// Trusts the built-in authorities, the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), and `own` (DER).
pub(crate) fn client_config(own: &[Vec<u8>]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = verifier(own)?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// The verifier of [`client_config`].
pub(super) fn verifier(own: &[Vec<u8>]) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let own: Vec<CertificateDer<'static>> = own.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let system = rustls_native_certs::load_native_certs();
    // A machine may have no store; but a store that is named should exist.
    let is_named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
    let level = if is_named { log::Level::Warn } else { log::Level::Debug };
    for error in system.errors.iter().take(3) {
        log::log!(
            level,
            "cannot load the system's certificate authorities: {error}; the built-in ones are used"
        );
    }
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(system.certs.into_iter().chain(own.iter().cloned()));
    Ok(Arc::new(Verifier { web: web_verifier(roots)?, own }))
}

pub(super) fn web_verifier(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let web = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    web.map_err(|error| rustls::Error::General(error.to_string()))
}

/// webpki's verification; in addition a server may present a certificate of `ca_file` itself.
#[derive(Debug)]
struct Verifier {
    web: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.web.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // webpki has already checked the dates (`check_issuer_independent_properties`).
            Err(rustls::Error::InvalidCertificate(error)) if is_authority(&error) => {
                if !self.own.iter().any(|own| own == end_entity) {
                    return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
                }
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.web.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.web.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.web.supported_verify_schemes()
    }
}

/// Whether webpki refused a server certificate because it is marked as an authority.
pub(super) fn is_authority(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

/// Last connector of ureq's chain: wraps the connection in TLS if the URL is https.
#[derive(Debug)]
pub(crate) struct Tls(pub(crate) Option<Arc<ClientConfig>>);

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let config = self.0.as_ref().ok_or(ureq::Error::TlsRequired)?;
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("not a host name"))?;
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(ureq::Error::Rustls)?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(boxed, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

pub(crate) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        use std::io::Write;
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        use std::io::Read;
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(certificates(pem).is_err(), "{pem}");
        }
        let pem = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem();
        assert_eq!(certificates(&format!("# mine\n{pem}{pem}")).map(|all| all.len()), Ok(2));
        assert!(certificates(&pem[..pem.len() - 60]).is_err());
    }
}
