//! Sends callbacks as WeCom does: signed, each with new random bytes, over HTTP.

use std::time::Duration;

use crate::wecom::callback::crypt::Crypt;
use crate::wecom::callback::envelope::callback;
use crate::wecom::query::url_encode;

/// Sends callbacks to one URL. Errors state why no answer arrived.
pub struct Sender {
    url: String,
    crypt: Crypt,
    corp_id: String,
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
        Self { url: url.to_owned(), crypt, corp_id: corp_id.to_owned(), agent: agent.into() }
    }

    /// Sends a verification request, as WeCom's console does when it saves a URL; `text` is its echostr.
    pub fn verify(&self, text: &str) -> Result<Reply, String> {
        let encrypted = self.encrypt(text)?;
        let url = format!("{}&echostr={}", self.signed(&encrypted), url_encode(&encrypted));
        self.read(self.agent.get(url).call())
    }

    /// Sends an event in a POST; `event` is its XML.
    pub fn send(&self, event: &str) -> Result<Reply, String> {
        let encrypted = self.encrypt(event)?;
        let body = callback(&self.corp_id, &encrypted, "");
        self.read(self.agent.post(self.signed(&encrypted)).content_type("text/xml").send(body))
    }

    fn encrypt(&self, text: &str) -> Result<String, String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        self.crypt.encrypt(text.as_bytes(), random).ok_or_else(|| "the message is longer than 4 GiB".into())
    }

    fn signed(&self, encrypted: &str) -> String {
        let (timestamp, nonce) = (crate::unix_time::unix_now().0.to_string(), fastrand::u32(..).to_string());
        let signature = self.crypt.sign(&timestamp, &nonce, encrypted);
        format!("{}?msg_signature={signature}&timestamp={timestamp}&nonce={nonce}", self.url)
    }

    fn read(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, String> {
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
