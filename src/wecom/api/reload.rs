//! Settings of the client that take effect while it runs.

use std::sync::PoisonError;

use super::answer::ApiObserver;
use super::client::{Client, lock};
use super::endpoints::SecretKind;
use super::token::TokenCell;

/// What [`Client::reload`] replaces.
#[derive(Clone)]
pub(crate) struct Reloadable {
    pub(crate) app_secret: Option<String>,
    pub(crate) contacts_secret: Option<String>,
    /// All texts that must be redacted from now on.
    pub(crate) redacted: Vec<String>,
    pub(crate) calls_per_minute: u32,
    pub(crate) max_concurrent_calls: Option<usize>,
}

impl<L: ApiObserver> Client<L> {
    /// Uses other settings from the next call on. A new secret ends the pauses of the former one. A secret that was not set
    /// stays so, because the parts that need it do not run.
    pub(crate) fn reload(&self, settings: Reloadable) {
        let Reloadable { app_secret, contacts_secret, redacted, calls_per_minute, max_concurrent_calls } =
            settings;
        self.settings.redactor.add_secrets(redacted);
        lock(&self.rate_limiter).set_rate(calls_per_minute);
        lock(&self.concurrency).configure(max_concurrent_calls, calls_per_minute);
        for (kind, secret) in [(SecretKind::App, app_secret), (SecretKind::Contacts, contacts_secret)] {
            let Some(secret) = secret else { continue };
            {
                let mut secrets = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
                let present = &mut secrets[kind as usize];
                if present.is_none() || *present == Some(secret.clone()) {
                    continue;
                }
                *present = Some(secret);
            }
            // Waits for a fetch with the former secret.
            *lock(self.token_cell(kind)) = TokenCell::default();
            let mut breaker = lock(&self.breaker);
            let closed = breaker.forget(kind);
            closed.iter().for_each(|pause| self.observer.paused(pause, false));
            if !closed.is_empty() {
                self.observer.pauses(breaker.pauses());
            }
        }
    }
}
