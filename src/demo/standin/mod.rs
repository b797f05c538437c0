//! A stand-in for WeCom's API on loopback: answers for a simulated company, records every call, and injects faults.
//!
//! Not on tiny_http: hanging, resetting and truncating an answer need the socket itself.

mod company;
mod faults;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value as Json;

pub use company::{Company, Department, ListingFault, Request, Tag, User};
pub use faults::Fault;
use faults::{FaultPlan, PlannedFault};

use crate::shutdown::Shutdown;
use crate::wecom::query::url_decode;

/// A call that the stand-in received.
#[derive(Debug, Clone)]
pub struct Call {
    /// The path below `/cgi-bin/`, such as `user/get`.
    pub api: String,
    /// When the answer was determined.
    pub at: Instant,
    /// The member in the query or the body.
    pub userid: Option<String>,
    /// The access_token; empty if the call has none.
    pub token: String,
    /// The errcode of the answer; `None` if a fault replaced the answer.
    pub errcode: Option<i64>,
    /// Calls about members that were in flight when it arrived, itself included if it is one.
    pub in_flight: usize,
}

#[derive(Default)]
struct State {
    company: Company,
    faults: FaultPlan,
    calls: Vec<Call>,
    /// Seconds that the Date header is ahead.
    date_shift: i64,
    /// Time that each answer takes.
    latency: Duration,
    /// Calls about members without an answer yet.
    in_flight: usize,
}

struct Shared {
    state: Mutex<State>,
    called: Condvar,
    shutdown: Shutdown,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running stand-in; stops when dropped.
pub struct StandIn {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

/// Maximum size of a request in bytes.
const MAX_REQUEST: usize = 1024 * 1024;

impl StandIn {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (state, shutdown) = (Mutex::default(), Shutdown::default());
        let shared = Arc::new(Shared { state, called: Condvar::new(), shutdown });
        let for_thread = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new().name("stand-in".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_thread.shutdown.is_triggered() {
                    return;
                }
                let shared = Arc::clone(&for_thread);
                let served = std::thread::Builder::new().name("stand-in-client".into()).spawn(move || {
                    // Clients may disconnect at any time.
                    let _ = serve(&shared, stream);
                });
                drop(served);
            }
        })?;
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// The value for `[wecom] api_base`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Reads or changes the simulated company.
    pub fn company<R>(&self, change: impl FnOnce(&mut Company) -> R) -> R {
        change(&mut self.shared.lock().company)
    }

    /// Injects a fault into the next `times` calls of `api` (such as `user/get`; `None`: any).
    pub fn fail(&self, api: Option<&str>, fault: Fault, times: usize) {
        self.plan(api, None, fault, times);
    }

    /// Injects a fault into every call of `api` (`None`: any) about this member.
    pub fn fail_for(&self, api: Option<&str>, userid: &str, fault: Fault) {
        self.plan(api, Some(userid), fault, usize::MAX);
    }

    fn plan(&self, api: Option<&str>, userid: Option<&str>, fault: Fault, times: usize) {
        let (api, userid) = (api.map(str::to_owned), userid.map(str::to_owned));
        self.shared.lock().faults.0.push(PlannedFault { api, userid, fault, times });
    }

    /// Sets the Date header of all later answers this many seconds ahead.
    pub fn shift_date(&self, seconds: i64) {
        self.shared.lock().date_shift = seconds;
    }

    /// Has every later answer take this long; a fault that delays comes on top.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// Removes all faults that are still planned.
    pub fn mend(&self) {
        self.shared.lock().faults.0.clear();
    }

    /// All calls so far, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// Number of calls of an API so far.
    pub fn count(&self, api: &str) -> usize {
        self.shared.lock().calls.iter().filter(|call| call.api == api).count()
    }

    /// Waits at most `timeout` until `condition` holds for the calls so far; returns whether it does.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration, condition: impl Fn(&[Call]) -> bool) -> bool {
        let until = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !condition(&state.calls) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.called.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.shutdown.trigger();
        // Wakes the acceptor, which then sees the shutdown.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Counts a call about a member until its answer is sent.
struct InFlight<'a>(Option<&'a Shared>);

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared, state: &mut State, is_counted: bool) -> Self {
        state.in_flight += usize::from(is_counted);
        Self(is_counted.then_some(shared))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.lock().in_flight -= 1;
        }
    }
}

/// Serves one connection, request after request.
fn serve(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    // Short, so that the thread sees the shutdown.
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(shared, &mut stream, &mut buffer)? else { return Ok(()) };
        let (fault, answer, latency, in_flight) = {
            let mut state = shared.lock();
            let in_flight = InFlight::new(shared, &mut state, request.userid().is_some());
            let fault = state.faults.next(&request.api, request.userid().as_deref());
            let answer = match &fault {
                Some(Fault::Errcode(errcode)) => Some(company::error(*errcode, "planned")),
                Some(Fault::Refusal(errcode, errmsg)) => {
                    Some(serde_json::json!({"errcode": errcode, "errmsg": errmsg}))
                }
                Some(Fault::Delay(_)) | None => state.company.answer(&request),
                Some(_) => None,
            };
            let errcode = answer.as_ref().and_then(|a| a.get("errcode")).and_then(Json::as_i64);
            let count = state.in_flight;
            state.calls.push(Call {
                api: request.api.clone(),
                at: Instant::now(),
                userid: request.userid(),
                token: request.query.get("access_token").cloned().unwrap_or_default(),
                errcode,
                in_flight: count,
            });
            shared.called.notify_all();
            (fault, answer, state.latency, in_flight)
        };
        let delay = if let Some(Fault::Delay(time)) = fault { latency + time } else { latency };
        if shared.shutdown.sleep(delay) {
            return Ok(());
        }
        // Before the answer, after which the client may make the next call.
        drop(in_flight);
        match fault {
            Some(Fault::Hang) => {
                let _ = shared.shutdown.sleep(Duration::from_secs(600));
                return Ok(());
            }
            Some(Fault::Reset) => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Some(Fault::HttpStatus(status)) => {
                respond(shared, &mut stream, status, "<html>bad gateway</html>")?
            }
            Some(Fault::Garbage) => respond(shared, &mut stream, 200, "<html>hello</html>")?,
            Some(Fault::Empty) => respond(shared, &mut stream, 200, "")?,
            Some(Fault::Truncated) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"errcode\":")?;
                return Ok(());
            }
            Some(Fault::Body(ref body)) => respond_with(shared, &mut stream, "200 OK", body)?,
            Some(Fault::TooLong) => {
                respond_with(shared, &mut stream, "200 OK", &vec![b' '; 17 * 1024 * 1024])?
            }
            Some(Fault::Redirect(ref to)) => {
                respond_with(shared, &mut stream, &format!("302 Found\r\nLocation: {to}"), b"")?;
            }
            Some(Fault::NotHttp) => {
                stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")?;
                return Ok(());
            }
            Some(Fault::HangInBody) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"errcode\":")?;
                let _ = shared.shutdown.sleep(Duration::from_secs(600));
                return Ok(());
            }
            Some(Fault::Errcode(_) | Fault::Refusal(..) | Fault::Delay(_)) | None => {}
        }
        match (answer, fault) {
            (Some(answer), _) => respond(shared, &mut stream, 200, &answer.to_string())?,
            (None, None | Some(Fault::Delay(_))) => respond(shared, &mut stream, 404, "no such API")?,
            (None, Some(_)) => {}
        }
    }
}

fn respond(shared: &Shared, stream: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    respond_with(shared, stream, &format!("{status} Stand-In"), body.as_bytes())
}

/// `status` may contain more header lines.
fn respond_with(shared: &Shared, stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let shift = shared.lock().date_shift;
    let shifted = Duration::from_secs(shift.unsigned_abs());
    let now = SystemTime::now();
    let date = if shift < 0 { now - shifted } else { now + shifted };
    let date = httpdate::fmt_http_date(date);
    let text = format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/json; charset=UTF-8\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[text.as_bytes(), body].concat())
}

/// Reads the next request; `None` if the client disconnected or at shutdown.
fn read_request(
    shared: &Shared,
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some((request, length)) = parse_request(buffer) {
            buffer.drain(..length);
            return Ok(Some(request));
        }
        if buffer.len() > MAX_REQUEST {
            return Ok(None);
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if shared.shutdown.is_triggered() {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Parses a complete request; returns its length too.
fn parse_request(bytes: &[u8]) -> Option<(Request, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(bytes).ok()? else { return None };
    let length = parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok()).unwrap_or(0);
    let body = bytes.get(head..head.checked_add(length)?)?;
    let (path, query) = parsed.path?.split_once('?').unwrap_or((parsed.path?, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query: HashMap<String, String> =
        pairs.filter_map(|(key, value)| Some((key.to_owned(), url_decode(value)?))).collect();
    let api = path.strip_prefix("/cgi-bin/").unwrap_or(path).to_owned();
    let body = serde_json::from_slice(body).unwrap_or(Json::Null);
    Some((Request { api, query, body }, head + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(stand_in: &StandIn, path: &str) -> Json {
        let url = format!("{}/cgi-bin/{path}", stand_in.base_url());
        serde_json::from_str(&ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()).unwrap()
    }

    #[test]
    fn a_member_converts_after_signing_in() {
        let stand_in = StandIn::start().unwrap();
        stand_in.company(|company| company.hire("Zhang"));
        let token = get(&stand_in, "gettoken?corpid=wx5823bf96d3bd56c7&corpsecret=stand-in-app-secret");
        let token = token["access_token"].as_str().unwrap().to_owned();
        let convert = || get(&stand_in, &format!("user/convert_to_openid?access_token={token}&userid=zhang"));
        assert_eq!(convert()["errcode"], 43004);
        stand_in.company(|company| company.sign_in("ZHANG", "o1"));
        assert_eq!(convert()["openid"], "o1");
        stand_in.company(|company| company.kill_tokens(42001));
        assert_eq!(convert()["errcode"], 42001);
        assert_eq!(stand_in.count("user/convert_to_openid"), 3);
    }

    #[test]
    fn faults_are_injected_in_order_and_end() {
        let stand_in = StandIn::start().unwrap();
        stand_in.fail(Some("gettoken"), Fault::Errcode(45009), 2);
        stand_in.fail(None, Fault::Errcode(-1), 1);
        let codes: Vec<_> =
            (0..4).map(|_| get(&stand_in, "gettoken?x=1")["errcode"].as_i64().unwrap()).collect();
        assert_eq!(codes, [45009, 45009, -1, 40013]);
    }

    #[test]
    fn faulty_answers_cannot_be_read() {
        let stand_in = StandIn::start().unwrap();
        for fault in [Fault::Reset, Fault::Truncated] {
            stand_in.fail(None, fault.clone(), 1);
            let outcome = ureq::get(format!("{}/cgi-bin/gettoken", stand_in.base_url())).call();
            let read = outcome.and_then(|mut response| response.body_mut().read_to_string());
            assert!(read.is_err(), "{fault:?}: {read:?}");
        }
    }
}
