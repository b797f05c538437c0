//! Which proxy leads to WeCom: the configured one, else the environment's.

use super::{Secret, Wecom};
use crate::wecom::api::network::{host_of, parse_proxy};

/// In order of precedence; the lower-case name of each counts, too.
const VARIABLES: [&str; 3] = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"];

#[derive(Debug, Clone, Default)]
pub(crate) enum Proxy {
    /// Not set: the environment decides.
    #[default]
    Environment,
    /// `none`: a direct connection; the environment is ignored.
    Direct,
    Url(Secret),
}

#[derive(Debug, Clone)]
pub(crate) struct ChosenProxy {
    pub(crate) url: Secret,
    /// Where it is set: `[wecom] proxy`, or the environment's variable.
    pub(crate) source: String,
}

impl Wecom {
    /// The proxy for API calls; `variable` reads the environment. A malformed URL in the environment is an error,
    /// because calls must not bypass a configured proxy.
    pub(crate) fn chosen_proxy(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<ChosenProxy>, String> {
        self.proxy_for(&self.api_base, variable)
    }

    /// The same for another URL, for which `NO_PROXY` may have an exception.
    pub(crate) fn proxy_for(
        &self,
        url: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<ChosenProxy>, String> {
        match &self.proxy {
            Proxy::Direct => return Ok(None),
            Proxy::Url(url) => {
                return Ok(Some(ChosenProxy { url: url.clone(), source: "[wecom] proxy".into() }));
            }
            Proxy::Environment => {}
        }
        let either = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_lowercase()];
            let set = names.into_iter().filter_map(|name| variable(&name).map(|value| (name, value)));
            set.map(|(name, value)| (name, value.trim().to_owned())).find(|(_, value)| !value.is_empty())
        };
        let Some((source, proxy)) = VARIABLES.into_iter().find_map(either) else { return Ok(None) };
        if either("NO_PROXY").is_some_and(|(_, exceptions)| is_exception(url, &exceptions)) {
            return Ok(None);
        }
        parse_proxy(&proxy).map_err(|what| {
            format!("the environment's {source} {what}; correct it, or set [wecom] proxy (none: no proxy)")
        })?;
        Ok(Some(ChosenProxy { url: Secret::new(proxy), source: format!("the environment's {source}") }))
    }
}

/// Whether `NO_PROXY` exempts the host of this URL. An entry is `*`, an address, or a domain (`name`, `.name`, `*.name`)
/// with its subdomains; a port restricts it.
fn is_exception(url: &str, exceptions: &str) -> bool {
    let authority = host_of(url).to_ascii_lowercase();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (authority.as_str(), if url.starts_with("https://") { "443" } else { "80" }),
    };
    let host = host.trim_matches(['[', ']']);
    let exempts = |entry: &str| {
        let (name, of_port) = match entry.rsplit_once(':') {
            Some((name, of_port)) if !name.is_empty() && !name.contains(':') => (name, of_port),
            _ => (entry, port),
        };
        let name = name.trim_start_matches('*').trim_start_matches('.').trim_matches(['[', ']']);
        let is_below = host.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
        entry == "*" || (of_port == port && !name.is_empty() && (host == name || is_below))
    };
    exceptions.to_ascii_lowercase().split([',', ' ']).map(str::trim).any(exempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_names_and_what_is_below_them() {
        let url = "https://qyapi.weixin.qq.com";
        for yes in
            ["*", "qyapi.weixin.qq.com", "QQ.com", ".qq.com", "*.qq.com", "a, weixin.qq.com ,b", "qq.com:443"]
        {
            assert!(is_exception(url, yes), "{yes}");
        }
        for no in ["", ",", "*:443", "q.com", "qq.com:80", "x.qq.com", "com.cn", "."] {
            assert!(!is_exception(url, no), "{no}");
        }
        assert!(is_exception("http://127.0.0.1:8080/x", "localhost,127.0.0.1"));
        assert!(is_exception("http://127.0.0.1:8080", "127.0.0.1:8080"));
        assert!(!is_exception("http://127.0.0.1:8080", "127.0.0.1:8081"));
        assert!(is_exception("http://[::1]:8080", "::1"));
    }
}
