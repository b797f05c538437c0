//! Reactions to WeCom's errcodes (doc 90313), by number alone, because errmsg may change.

/// How the client reacts to an errcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The answer is a success and can be used.
    Done,
    /// The access_token is invalid: fetch another and retry at once.
    RenewToken,
    /// WeCom is busy: retry soon, a few times.
    Busy,
    /// The member has no openid yet: back off.
    NotYet,
    /// WeCom refuses this member until something changes.
    Never,
    /// Open the circuit breaker: the problem is not the member's.
    Pause(Reason),
    /// Not known to this program: attributed to the member, unless several members get it.
    Unknown,
}

/// Why the circuit breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The corp id or the secret is wrong.
    Secret,
    /// This machine's address is not a trusted IP.
    Address,
    /// The secret may not call this API.
    Permission,
    /// The company's licence does not cover this API.
    Licence,
    /// WeCom's rate limit is exceeded.
    Quota,
    /// WeCom refuses this many concurrent calls.
    Concurrency,
    /// No answer, or unusable answers for several items in a row.
    Network,
    /// Several members get the same unknown errcode.
    Unknown,
}

impl Reason {
    /// For the labels of the metric `api_paused`.
    pub const ALL: [Self; 8] = [
        Self::Secret,
        Self::Address,
        Self::Permission,
        Self::Licence,
        Self::Quota,
        Self::Concurrency,
        Self::Network,
        Self::Unknown,
    ];

    /// The reason's name in `status`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Address => "address",
            Self::Permission => "permission",
            Self::Licence => "licence",
            Self::Quota => "quota",
            Self::Concurrency => "concurrency",
            Self::Network => "network",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the pause ends only after an operator acts.
    pub fn needs_operator(self) -> bool {
        matches!(self, Self::Secret | Self::Address | Self::Permission | Self::Licence | Self::Unknown)
    }

    /// First and longest pause in seconds; it doubles after each failed probe.
    pub fn pause_seconds(self) -> (u64, u64) {
        match self {
            // WeCom bans an address for an hour after many failed attempts.
            Self::Secret => (300, 3600),
            // A new trusted IP takes effect after a minute.
            Self::Address => (60, 600),
            Self::Permission | Self::Licence => (300, 3600),
            // The limit may be per minute, hour or day; the answer does not state which.
            Self::Quota => (60, 3600),
            Self::Concurrency => (2, 60),
            Self::Network => (1, 60),
            Self::Unknown => (60, 1800),
        }
    }

    /// The operator's remedy, shown in the log and in `status`.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Secret => {
                "check corp_id and the secret in the configuration against the admin console, then restart"
            }
            Self::Address => {
                "add this machine's address to the app's trusted IPs (企业可信IP) in the admin console; it takes effect after a minute"
            }
            Self::Permission => {
                "grant the app this API in the admin console, or configure the secret of an app that may call it"
            }
            Self::Licence => {
                "buy or activate licences for the members (接口许可, 互通账号) in the admin console; WeCom refuses this API without them"
            }
            Self::Quota => {
                "no action needed, WeCom's limit passes by itself; if this repeats, lower [wecom] calls_per_minute"
            }
            Self::Concurrency => {
                "no action needed, fewer calls are made at a time; if this repeats, lower [openid] max_concurrent_calls"
            }
            Self::Network => "check the network, DNS, proxy and gateway between this machine and api_base",
            Self::Unknown => "look the errcode up in WeCom's documentation (全局错误码)",
        }
    }
}

/// The reaction to an errcode of any API.
pub fn reaction(errcode: i64) -> Reaction {
    match errcode {
        0 => Reaction::Done,
        -1 => Reaction::Busy,
        40014 | 42001 | 41001 => Reaction::RenewToken,
        // Answers of gettoken to a wrong, missing or malformed corpid or corpsecret.
        40001 | 40013 | 40091 | 41002 | 41004 | 2_000_002 => Reaction::Pause(Reason::Secret),
        60020 => Reaction::Pause(Reason::Address),
        48002 | 48004 | 48009 | 301_002 => Reaction::Pause(Reason::Permission),
        301_052 | 701_008 => Reaction::Pause(Reason::Licence),
        45009 => Reaction::Pause(Reason::Quota),
        45033 => Reaction::Pause(Reason::Concurrency),
        43004 => Reaction::NotYet,
        60111 | 46004 | 40003 | 301_021 | 60011 | 60003 | 60123 => Reaction::Never,
        _ => Reaction::Unknown,
    }
}

/// Whether an errcode of user/get means that the member does not exist; the others mean that it is not visible.
pub fn is_unknown_member(errcode: i64) -> bool {
    matches!(errcode, 60111 | 46004 | 40003)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errcodes_of_a_member_never_pause_and_those_of_an_operator_always_do() {
        for member in [43004, 60111, 46004, 40003, 301_021, 60011, 60003, 60123, 12345] {
            assert!(!matches!(reaction(member), Reaction::Pause(_)), "{member}");
        }
        let operators = [
            40001, 40013, 40091, 41002, 41004, 2_000_002, 60020, 48002, 48004, 48009, 301_002, 301_052,
            701_008,
        ];
        for operator in operators {
            let Reaction::Pause(reason) = reaction(operator) else { panic!("{operator}") };
            assert!(reason.needs_operator(), "{operator}");
        }
        for passing in [45009, 45033] {
            let Reaction::Pause(reason) = reaction(passing) else { panic!("{passing}") };
            assert!(!reason.needs_operator(), "{passing}");
        }
    }
}
