//! What to do about WeCom's errcodes (doc 90313; decided by the number alone, as errmsg may change).

/// Whose problem an answer is, and what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing is wrong.
    Done,
    /// The access_token is no good any more: fetch another, try again at once.
    RenewToken,
    /// WeCom is busy: try again soon, a few times.
    Busy,
    /// This member has no openid yet.
    NotYet,
    /// There is nothing for this member, unless something changes.
    Never,
    /// Somebody must do something first: all that this concerns is paused.
    Pause(Reason),
    /// Not known to this program: the member's problem, unless everybody has it.
    Unknown,
}

/// Why calls are paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Wrong corp id or secret.
    Secret,
    /// This machine's address is not allowed.
    Address,
    /// This secret may not call this API.
    Permission,
    /// The company's licence does not cover this API for these members.
    Licence,
    /// Called too often.
    Quota,
    /// Too many calls at the same time.
    Concurrency,
    /// No answer, or none that makes sense for several items in a row.
    Network,
    /// Everybody gets the same unknown errcode.
    Unknown,
}

impl Reason {
    /// All reasons.
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

    /// The word in `status` and metrics.
    #[must_use]
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

    /// Whether only a person can end it.
    #[must_use]
    pub fn needs_operator(self) -> bool {
        matches!(self, Self::Secret | Self::Address | Self::Permission | Self::Licence | Self::Unknown)
    }

    /// First and longest pause, in seconds; it doubles each time the trouble is still there.
    #[must_use]
    pub fn pause_seconds(self) -> (u64, u64) {
        match self {
            // Many wrong tries get the address banned for an hour.
            Self::Secret => (300, 3600),
            // An address that has been allowed works a minute later.
            Self::Address => (60, 600),
            Self::Permission | Self::Licence => (300, 3600),
            // A limit is per minute, per hour or per day, and the answer does not say which.
            Self::Quota => (60, 3600),
            Self::Concurrency => (2, 60),
            Self::Network => (1, 60),
            Self::Unknown => (60, 1800),
        }
    }

    /// What the operator should do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Secret => {
                "check corp_id and the secret in the configuration against the admin console, then restart"
            }
            Self::Address => {
                "add this machine's address to the app's trusted IPs (企业可信IP) in the admin console; it works a minute later"
            }
            Self::Permission => {
                "grant the app this API in the admin console, or use the secret of one that may call it"
            }
            Self::Licence => {
                "buy or activate licences for the members (接口许可, 互通账号) in the admin console; WeCom refuses this API without them"
            }
            Self::Quota => {
                "nothing to do, WeCom's limit passes by itself; if it comes often, lower calls_per_minute"
            }
            Self::Concurrency => "nothing to do; if it comes often, lower [openid] workers",
            Self::Network => "check the network, DNS, proxy and gateway between this machine and api_base",
            Self::Unknown => "look the errcode up in WeCom's documentation (全局错误码)",
        }
    }
}

/// What to do about an errcode of any API.
#[must_use]
pub fn reaction(errcode: i64) -> Reaction {
    match errcode {
        0 => Reaction::Done,
        -1 => Reaction::Busy,
        40014 | 42001 | 41001 => Reaction::RenewToken,
        // gettoken: corpid or corpsecret missing, or of the wrong form.
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

/// Whether an errcode of user/get says that there is no such member; others say that the caller may not see it.
#[must_use]
pub fn is_unknown_member(errcode: i64) -> bool {
    matches!(errcode, 60111 | 46004 | 40003)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_problem_never_pauses_and_an_operators_always_does() {
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
