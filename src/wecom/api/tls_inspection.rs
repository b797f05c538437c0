//! The judgement of a server's certificate for a diagnosis, which accepts every certificate to see what lies behind it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::tls::{is_authority, verifier, web_verifier};
use crate::directory::UnixSeconds;

/// The furthest end of validity that is looked for: public authorities issue for about a year.
const HORIZON: u64 = 10 * 366 * 24 * 3600;

/// What other machines would say of a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A public authority vouches for the certificate until the chain's earliest end.
    Public {
        ends: UnixSeconds,
    },
    /// Only an authority of this machine or of `ca_file` does.
    Private {
        ends: UnixSeconds,
    },
    SelfSigned,
    /// No known authority vouches for it, or an intermediate certificate is missing.
    UnknownIssuer,
    Expired,
    NotValidYet,
    OtherName,
    Invalid(String),
}

/// Accepts every certificate and keeps the judgement.
#[derive(Debug)]
struct Inspector {
    public: Arc<dyn ServerCertVerifier>,
    private: Arc<dyn ServerCertVerifier>,
    judged: Arc<Judged>,
}

/// The judgement of the last certificate; `None` before the first.
pub(crate) type Judged = Mutex<Option<Trust>>;

/// A TLS client that accepts every certificate and stores its judgement in `judged`: only for requests without secrets.
/// `own`: the certificates of `ca_file`, in DER.
pub(crate) fn inspecting_config(own: &[Vec<u8>], judged: Arc<Judged>) -> Result<Arc<ClientConfig>, Error> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let inspector = Inspector { public: web_verifier(roots)?, private: verifier(own)?, judged };
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(inspector));
    Ok(Arc::new(config.with_no_client_auth()))
}

/// A server's certificates, and the name that they should be for.
#[derive(Clone, Copy)]
struct Presented<'a> {
    end_entity: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
}

impl Presented<'_> {
    fn verify(self, verifier: &dyn ServerCertVerifier, now: UnixTime) -> Result<(), Error> {
        verifier.verify_server_cert(self.end_entity, self.intermediates, self.name, &[], now).map(|_| ())
    }

    fn judge(
        self,
        public: &dyn ServerCertVerifier,
        private: &dyn ServerCertVerifier,
        now: UnixTime,
    ) -> Trust {
        if self.verify(public, now).is_ok() {
            return Trust::Public { ends: self.end(public, now) };
        }
        match self.verify(private, now) {
            Ok(()) => Trust::Private { ends: self.end(private, now) },
            Err(Error::InvalidCertificate(error)) => match error {
                CertificateError::UnknownIssuer if self.is_self_signed(now) => Trust::SelfSigned,
                CertificateError::UnknownIssuer => Trust::UnknownIssuer,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Trust::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Trust::NotValidYet
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Trust::OtherName
                }
                other => Trust::Invalid(other.to_string()),
            },
            Err(other) => Trust::Invalid(other.to_string()),
        }
    }

    /// The last second at which the chain is valid, by bisection: rustls does not expose the certificates' dates, and the
    /// earliest end in the chain counts.
    fn end(self, verifier: &dyn ServerCertVerifier, now: UnixTime) -> UnixSeconds {
        let (mut valid, mut invalid) = (now.as_secs(), now.as_secs().saturating_add(HORIZON));
        while valid + 1 < invalid {
            let middle = valid.midpoint(invalid);
            let then = UnixTime::since_unix_epoch(Duration::from_secs(middle));
            if self.verify(verifier, then).is_ok() { valid = middle } else { invalid = middle }
        }
        UnixSeconds(i64::try_from(valid).unwrap_or(i64::MAX))
    }

    /// Whether the certificate is its own authority.
    fn is_self_signed(self, now: UnixTime) -> bool {
        let mut itself = RootCertStore::empty();
        let added = itself.add(self.end_entity.clone().into_owned());
        let Some(verifier) = added.ok().and_then(|()| web_verifier(itself).ok()) else { return false };
        match self.verify(&*verifier, now) {
            Ok(()) => true,
            Err(Error::InvalidCertificate(error)) => is_authority(&error),
            Err(_) => false,
        }
    }
}

impl ServerCertVerifier for Inspector {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = Presented { end_entity, intermediates, name }.judge(&*self.public, &*self.private, now);
        *self.judged.lock().unwrap_or_else(PoisonError::into_inner) = Some(trust);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const DAY: u64 = 86_400;

    /// The judgement of a certificate for `host.example`, valid from 2020 to 2030.
    fn judge(name: &str, at: u64, is_trusted: bool) -> Trust {
        let (key, ca_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
        let mut params = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let own = if is_trusted { vec![ca_der] } else { Vec::new() };
        let public = web_verifier(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let presented = Presented { end_entity: certificate.der(), intermediates: &[], name: &name };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        presented.judge(&*public, &*verifier(&own).unwrap(), at)
    }

    #[test]
    fn each_fault_of_a_certificate_is_named_and_the_end_of_a_valid_one_is_found() {
        // 2030-01-01 and 2026-01-01, 00:00 UTC.
        let (end, in_2026) = (1_893_456_000, 1_767_225_600);
        let ends = UnixSeconds(end as i64);
        assert_eq!(judge("host.example", in_2026, true), Trust::Private { ends });
        assert_eq!(judge("host.example", in_2026, false), Trust::UnknownIssuer);
        assert_eq!(judge("host.example", end + DAY, true), Trust::Expired);
        assert_eq!(judge("host.example", in_2026 - 10 * 366 * DAY, true), Trust::NotValidYet);
        assert_eq!(judge("other.example", in_2026, true), Trust::OtherName);
    }

    #[test]
    fn a_certificate_that_signs_itself_is_told_from_one_of_an_unknown_authority() {
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
            params.is_ca = is_ca;
            let certificate = params.self_signed(&key).unwrap();
            let public =
                web_verifier(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }).unwrap();
            let name = ServerName::try_from("host.example").unwrap();
            let presented = Presented { end_entity: certificate.der(), intermediates: &[], name: &name };
            let trust = presented.judge(&*public, &*verifier(&[]).unwrap(), UnixTime::now());
            assert_eq!(trust, Trust::SelfSigned, "{:?}", params.is_ca);
        }
    }
}
