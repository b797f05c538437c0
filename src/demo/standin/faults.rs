//! Faults that the stand-in can inject into its answers.

use std::time::Duration;

/// A fault that replaces or delays an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this errcode and a usual errmsg.
    Errcode(i64),
    /// Answers with this errcode and this errmsg.
    Refusal(i64, String),
    /// Answers with this HTTP status and HTML, as a gateway does.
    HttpStatus(u16),
    /// Delays the right answer by this duration.
    Delay(Duration),
    /// Sends nothing and keeps the connection open.
    Hang,
    /// Resets the TCP connection without an answer.
    Reset,
    /// Status 200 and HTML instead of JSON.
    Garbage,
    /// Closes the connection in the middle of the answer.
    Truncated,
    /// Status 200 and an empty body.
    Empty,
    /// Status 200 and this body.
    Body(Vec<u8>),
    /// Status 200 and a body of 17 MiB.
    TooLong,
    /// Redirects to this URL with status 302.
    Redirect(String),
    /// Answers in another protocol than HTTP.
    NotHttp,
    /// Sends the head and a part of the body, and keeps the connection open.
    HangInBody,
}

/// A fault of the next `times` calls of this API and about this member; `None` matches every call.
#[derive(Debug, Clone)]
pub(super) struct PlannedFault {
    pub(super) api: Option<String>,
    pub(super) userid: Option<String>,
    pub(super) fault: Fault,
    pub(super) times: usize,
}

/// The planned faults; the first that matches a call is used.
#[derive(Debug, Default)]
pub(super) struct FaultPlan(pub(super) Vec<PlannedFault>);

impl FaultPlan {
    /// The fault of this call, if any; counts it.
    pub(super) fn next(&mut self, api: &str, userid: Option<&str>) -> Option<Fault> {
        let matches = |p: &PlannedFault| {
            let is_of = |of: &str| userid.is_some_and(|userid| userid.eq_ignore_ascii_case(of));
            p.api.as_deref().is_none_or(|of| of == api) && p.userid.as_deref().is_none_or(is_of)
        };
        let planned = self.0.iter_mut().find(|p| p.times > 0 && matches(p))?;
        planned.times -= 1;
        Some(planned.fault.clone())
    }
}
