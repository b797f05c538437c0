//! Makes and sends callbacks as WeCom does: signed, each with new random bytes, over HTTP.

use std::time::Duration;

use crate::wecom::callback::crypt::Crypt;
use crate::wecom::callback::envelope::callback;
use crate::wecom::query::url_encode;

/// Makes the requests to one callback URL.
pub struct Signer {
    url: String,
    crypt: Crypt,
    corp_id: String,
}

/// A signed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// With the parameters of the signature.
    pub url: String,
    /// `None`: a GET.
    pub body: Option<String>,
}

impl Signer {
    /// `crypt` has the keys of the URL's receiver.
    pub fn new(url: &str, crypt: Crypt, corp_id: &str) -> Self {
        Self { url: url.to_owned(), crypt, corp_id: corp_id.to_owned() }
    }

    /// A verification request, as WeCom's console sends it when it saves a URL; `text` is its echostr.
    pub fn verification(&self, text: &str) -> Result<Request, String> {
        let encrypted = encrypt(&self.crypt, text)?;
        let url = format!("{}&echostr={}", self.signed(&encrypted), url_encode(&encrypted));
        Ok(Request { url, body: None })
    }

    /// A POST with an event; `event` is its XML.
    pub fn event(&self, event: &str) -> Result<Request, String> {
        let encrypted = encrypt(&self.crypt, event)?;
        let body = Some(callback(&self.corp_id, &encrypted, ""));
        Ok(Request { url: self.signed(&encrypted), body })
    }

    fn signed(&self, encrypted: &str) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}{}", self.url, signed_query(&self.crypt, encrypted))
    }
}

/// Encrypts with new random bytes.
pub(crate) fn encrypt(crypt: &Crypt, text: &str) -> Result<String, String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    crypt.encrypt(text.as_bytes(), random).ok_or_else(|| "the message is longer than 4 GiB".into())
}

/// The parameters of a signature made now, for a URL's query.
pub(crate) fn signed_query(crypt: &Crypt, encrypted: &str) -> String {
    let (timestamp, nonce) = (crate::unix_time::unix_now().0.to_string(), fastrand::u32(..).to_string());
    let signature = crypt.sign(&timestamp, &nonce, encrypted);
    format!("msg_signature={signature}&timestamp={timestamp}&nonce={nonce}")
}

/// Sends callbacks to one URL. Errors state why no answer arrived.
pub struct Sender {
    signer: Signer,
    agent: ureq::Agent,
}

/// HTTP status and body of an answer.
pub type Reply = (u16, String);

impl Sender {
    /// `crypt` has the keys of the URL's receiver.
    pub fn new(url: &str, crypt: Crypt, corp_id: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self { signer: Signer::new(url, crypt, corp_id), agent: agent.into() }
    }

    /// Sends [`Signer::verification`].
    pub fn verify(&self, text: &str) -> Result<Reply, String> {
        self.exchange(self.signer.verification(text)?)
    }

    /// Sends [`Signer::event`].
    pub fn send(&self, event: &str) -> Result<Reply, String> {
        self.exchange(self.signer.event(event)?)
    }

    fn exchange(&self, request: Request) -> Result<Reply, String> {
        let sent = match request.body {
            None => self.agent.get(request.url).call(),
            Some(body) => self.agent.post(request.url).content_type("text/xml").send(body),
        };
        let mut response = sent.map_err(|error| error.to_string())?;
        let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok((response.status().as_u16(), body))
    }
}

/// Writes the XML of a contact event; `inner` are the elements after ChangeType.
pub fn contact_event(corp_id: &str, create_time: i64, change_type: &str, inner: &str) -> String {
    format!(
        "<xml><ToUserName><![CDATA[{corp_id}]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
         <CreateTime>{create_time}</CreateTime><MsgType><![CDATA[event]]></MsgType>\
         <Event><![CDATA[change_contact]]></Event><ChangeType>{change_type}</ChangeType>{inner}</xml>"
    )
}
