//! What can be made to go wrong, in every way the protocol knows.

use std::time::Duration;

/// How a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// WeCom answers with this errcode.
    Errcode(i64),
    /// WeCom answers with this errcode and this errmsg.
    Refusal(i64, String),
    /// A gateway answers with this HTTP status and a page of HTML.
    HttpStatus(u16),
    /// The right answer comes this much later.
    Delay(Duration),
    /// No answer ever comes; the connection stays open.
    Hang,
    /// The connection is reset.
    Reset,
    /// Status 200 and something that is not JSON.
    Garbage,
    /// The answer breaks off in the middle.
    Truncated,
    /// Status 200 and nothing.
    Empty,
    /// Status 200 and this body.
    Body(Vec<u8>),
    /// Status 200 and a body above every limit.
    TooLong,
    /// A redirect to this address.
    Redirect(String),
    /// Something that is not HTTP.
    NotHttp,
    /// The answer's head, and then nothing more; the connection stays open.
    HangInBody,
}

/// A fault, for which API, and how often.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) api: Option<String>,
    /// Only for this member.
    pub(super) userid: Option<String>,
    pub(super) fault: Fault,
    pub(super) times: usize,
}

/// The faults to come, in order.
#[derive(Debug, Default)]
pub(super) struct FaultPlan(Vec<Planned>);

impl FaultPlan {
    pub(super) fn plan(&mut self, planned: Planned) {
        self.0.push(planned);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that this call meets, if any; counts it.
    pub(super) fn next(&mut self, api: &str, userid: Option<&str>) -> Option<Fault> {
        let concerns = |p: &Planned| {
            let is_of = |of: &str| userid.is_some_and(|userid| userid.eq_ignore_ascii_case(of));
            p.api.as_deref().is_none_or(|of| of == api) && p.userid.as_deref().is_none_or(is_of)
        };
        let planned = self.0.iter_mut().find(|p| p.times > 0 && concerns(p))?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }
}
