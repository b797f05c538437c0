//! `send`: a signed, encrypted verification or event to any URL, judged as WeCom judges the response.
//!
//! It connects directly: the proxy of `[wecom]` leads from here to WeCom, which itself comes from outside.

mod event;
mod verdict;

use std::io::Read;
use std::time::Duration;

use clap::Args;

use super::{ConfigFile, Failure, load, print, usage_error};
use crate::config::Config;
use crate::demo::sender::Signer;
use crate::text::printable;
use crate::unix_time::unix_now;
use crate::wecom::api::direct::{DirectResponse, exchange};
use event::{Fields, Message};
use verdict::{Expected, LIMIT, Rejection, judge, judge_failure};

/// Longest XML on standard input, in bytes.
const MAX_XML: u64 = 1024 * 1024;
/// Characters of a response that are printed.
const SHOWN: usize = 300;
/// WeCom expects the response to a verification within this time (doc 90930).
const VERIFICATION_TIME: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The callback URL, such as https://your.domain/callback
    #[arg(long, value_parser = callback_url)]
    url: String,
    /// What is sent; an event takes effect where it arrives
    #[arg(value_enum, default_value = "verify", value_name = "verify | EVENT")]
    message: Message,
    #[command(flatten)]
    fields: Fields,
}

pub(super) fn send(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { config, url, message, fields } = arguments;
    fields.check(*message).unwrap_or_else(|what| usage_error(&what));
    let config = load(config.config.as_deref())?;
    let (section, signer) = signer(&config, url)?;
    let echostr = fastrand::u64(1_000_000_000_000_000_000..).to_string();
    let (expected, request, xml) = match *message {
        Message::Verify => (Expected::Echostr(&echostr), signer.verification(&echostr), None),
        message => {
            let xml = match message {
                Message::Stdin => standard_input()?,
                _ => fields.xml(message, &config.wecom.corp_id, unix_now()),
            };
            (Expected::Success, signer.event(&xml), Some(xml))
        }
    };
    let request = request.map_err(Failure::Other)?;
    let method = if request.body.is_some() { "POST" } else { "GET" };
    let what = xml.unwrap_or_else(|| format!("a verification, echostr {echostr}"));
    print(&format!(
        "sent      {method} {}\n          signed with the keys of [{section}]: {}\n",
        printable(&request.url),
        printable(&what)
    ))?;
    let judged = match exchange(&request.url, request.body.as_deref(), LIMIT) {
        Err(failure) => Err(judge_failure(failure)),
        Ok(response) => {
            print(&received(&response))?;
            judge(expected, url, &response).map(|()| response.took)
        }
    };
    match judged {
        Ok(took) => {
            let slow = *message == Message::Verify && took > VERIFICATION_TIME;
            let note =
                if slow { ", but too slowly: WeCom expects a verification's text within 1 s" } else { "" };
            print(&format!("accepted{note}\n"))
        }
        Err(Rejection { cause, remedy }) => Err(Failure::Other(format!("not accepted: {cause}; {remedy}"))),
    }
}

/// The keys of the callback whose path the URL has, else those of `[callback]`, and their section.
fn signer(config: &Config, url: &str) -> Result<(&'static str, Signer), Failure> {
    let path = url.split(['?', '#']).next().unwrap_or(url).trim_end_matches('/');
    let authority = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = authority.find('/').map_or("", |at| &authority[at..]);
    let (section, keys, receive_id) = config.callback_at(path);
    let crypt = keys.crypt(receive_id).map_err(|error| Failure::Other(error.to_string()))?;
    Ok((section, Signer::new(url, crypt, &config.wecom.corp_id)))
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_XML).read_to_string(&mut text);
    read.map_err(|error| Failure::Other(format!("standard input: {error}; it must be UTF-8 XML")))?;
    if text.trim().is_empty() {
        return Err(Failure::Other("standard input is empty; write the event's XML to it".into()));
    }
    Ok(text)
}

fn received(response: &DirectResponse) -> String {
    let DirectResponse { status, content_type, body, took, .. } = response;
    let kind = if content_type.is_empty() { String::new() } else { format!(", {}", printable(content_type)) };
    let head = format!("received  {status} after {} ms{kind}, {} bytes", took.as_millis(), body.len());
    let text = String::from_utf8_lossy(body);
    let shown: String = text.chars().take(SHOWN).collect();
    let rest = if shown.len() < text.len() { " .." } else { "" };
    match shown.is_empty() {
        true => format!("{head}\n"),
        false => format!("{head}: {}{rest}\n", printable(&shown)),
    }
}

/// A callback URL; an error completes "invalid value ..".
fn callback_url(text: &str) -> Result<String, String> {
    let uri: Result<ureq::http::Uri, _> = text.parse();
    let uri =
        uri.ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    let is_plain = uri.and_then(|uri| uri.authority().map(|authority| !authority.as_str().contains('@')));
    if is_plain == Some(true) && !text.contains('#') {
        return Ok(text.to_owned());
    }
    Err("this is not a URL such as https://your.domain/callback".into())
}
