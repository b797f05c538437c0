//! The head of a request, as the gate parses it.

use wecom_dirsync::gate::{Head, PEER_HEADER, Refusal, Routes, parse_head};

const MAX_BODY: usize = 1000;
const PEER: &str = "192.0.2.7:81";

/// The input is the bytes that a client sent.
pub fn check(data: &[u8]) {
    let routes =
        Routes::new().with_callback("/callback", &["GET", "POST"]).with("/healthz", &["GET", "HEAD"]);
    let judge = |bytes: &[u8]| parse_head(bytes, &routes, MAX_BODY, PEER.parse().unwrap());
    let judged = judge(data);
    match &judged {
        Ok(Some(head)) => {
            assert!(head.len <= data.len() && head.body <= MAX_BODY);
            let (taken, _) = data.split_at(head.len);
            assert_eq!(judge(taken), judged, "the bytes after a head do not change it");
            // Any prefix of a valid head is incomplete, never refused.
            let cut =
                taken.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
            assert_eq!(judge(&taken[..cut % taken.len()]), Ok(None));
            forwarded(head, taken, judge);
        }
        Ok(None) => {}
        Err(refusal) => {
            let status = refusal.status();
            assert!(
                [400, 404, 405, 411, 413, 417, 431].contains(&status),
                "{status} is not the head's fault"
            );
            if let Refusal::MethodNotAllowed { route } = refusal {
                assert!(*route < 2);
            }
            // More bytes do not make it valid.
            let mut longer = data.to_vec();
            longer.extend_from_slice(b"\r\n\r\n");
            assert!(judge(&longer).is_err(), "refused, but accepted with more bytes");
        }
    }
}

/// The head for the server has the same meaning, in the strictest form, and nothing more.
fn forwarded(head: &Head, taken: &[u8], judge: impl Fn(&[u8]) -> Result<Option<Head>, Refusal>) {
    let passed = if head.forwards_body { head.body } else { 0 };
    let forward = head.forward(passed);
    let text = std::str::from_utf8(&forward).expect("ASCII");
    assert!(text.bytes().all(|b| b.is_ascii_graphic() || b" \r\n".contains(&b)), "{text:?}");
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n").expect("an end").split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(['\r', '\n'])), "{text:?}");

    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(taken).unwrap().is_complete());
    let (method, target) = (request.method.unwrap(), request.path.unwrap());
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let path = path.strip_suffix('/').unwrap_or(path);
    assert_eq!(lines[0], format!("{method} {path}{query} HTTP/1.0"));
    // No header that a server could interpret differently was accepted.
    let given = |name: &str| -> Vec<&[u8]> {
        let headers = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        headers.map(|header| header.value.trim_ascii()).collect()
    };
    assert!(given("Host").len() < 2);
    let codings = given("Transfer-Encoding");
    assert_eq!(codings.len(), usize::from(head.is_chunked), "{codings:?}");
    assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")), "{codings:?}");
    let lengths = given("Content-Length");
    let same = |length: &&[u8]| str::from_utf8(length).unwrap().parse() == Ok(head.body);
    assert!(lengths.iter().all(same) && (!lengths.is_empty() || head.body == 0), "{lengths:?}");
    assert!(lengths.is_empty() || !head.is_chunked, "two lengths of one body");
    let values = |name: &str| -> Vec<&str> {
        let fields = lines[1..].iter().map(|line| line.split_once(": ").expect("name: value"));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    };
    assert_eq!(values("Content-Length"), [passed.to_string()]);
    assert_eq!(values(PEER_HEADER), [PEER], "the client cannot set its address");
    assert_eq!((values("Host").len(), values("Connection")), (1, vec!["keep-alive"]));
    assert!(values("Transfer-Encoding").is_empty() && values("Expect").is_empty());

    let again = judge(&forward).expect("accepted").expect("complete");
    assert_eq!((again.len, again.body, again.keep_alive), (forward.len(), passed, true));
    assert_eq!((again.forwards_body, again.is_head_request), (head.forwards_body, head.is_head_request));
    assert_eq!(again.forward(passed), forward, "forwarding is idempotent");
}
