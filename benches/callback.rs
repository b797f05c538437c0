//! Cost of a callback by step: cryptography, parsing, merge, commit.
//!
//! `cargo bench` prints a table; `cargo bench -- merge` only that part.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use divan::Bencher;
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const CORP: &str = "wx5823bf96d3bd56c7";

fn main() {
    divan::main();
}

fn crypt() -> Crypt {
    let key = EncodingAesKey::parse("jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C").unwrap();
    Crypt::new("QDG6eK", key, CORP)
}

/// An event of about 900 bytes, with every field that a member usually has.
fn event(userid: &str, create_time: i64) -> String {
    let inner = format!(
        "<UserID><![CDATA[{userid}]]></UserID><Name><![CDATA[张三]]></Name><Department><![CDATA[2,3]]></Department>\
         <MainDepartment>2</MainDepartment><IsLeaderInDept><![CDATA[1,0]]></IsLeaderInDept>\
         <DirectLeader><![CDATA[lisi,wangwu]]></DirectLeader><Position><![CDATA[工程师 {create_time}]]></Position>\
         <Mobile>13800000000</Mobile><Gender>1</Gender><Email><![CDATA[zhangsan@example.com]]></Email>\
         <Status>1</Status><Alias><![CDATA[san]]></Alias><Telephone><![CDATA[020-12345]]></Telephone>\
         <ExtAttr><Item><Name><![CDATA[工号]]></Name><Type>0</Type><Text><Value><![CDATA[007]]></Value></Text></Item>\
         </ExtAttr>"
    );
    contact_event(CORP, create_time, "create_user", &inner)
}

mod crypto {
    use super::*;
    use wecom_dirsync::wecom::callback::crypt::{Signed, SignedText};

    const MESSAGE: [u8; 2048] = [b'x'; 2048];
    const TIMESTAMP: &str = "1700000000";

    #[divan::bench]
    fn encrypt_2_kib(bencher: Bencher) {
        let crypt = crypt();
        bencher.bench(|| crypt.encrypt(&MESSAGE, [7; 16]));
    }

    /// Signature, decryption and receive_id; the envelope is measured under `parse`.
    #[divan::bench]
    fn check_and_decrypt_2_kib(bencher: Bencher) {
        let crypt = crypt();
        let encrypted = crypt.encrypt(&MESSAGE, [7; 16]).unwrap();
        let signature = crypt.sign(TIMESTAMP, "n", &encrypted);
        let signed = Signed { signature: &signature, timestamp: TIMESTAMP, nonce: "n" };
        let text = SignedText { signed, encrypted: &encrypted };
        bencher.bench(|| crypt.open(&[text]).unwrap());
    }
}

mod parse {
    use super::*;
    use wecom_dirsync::wecom::callback::envelope::{Envelope, callback};
    use wecom_dirsync::wecom::callback::message;

    #[divan::bench]
    fn envelope_of_an_event(bencher: Bencher) {
        let encrypted = crypt().encrypt(event("zhangsan", 1).as_bytes(), [7; 16]).unwrap();
        let body = callback(CORP, &encrypted, "");
        bencher.bench(|| Envelope::scan(body.as_bytes()).is_some());
    }

    #[divan::bench]
    fn event_xml(bencher: Bencher) {
        let xml = event("zhangsan", 1_700_000_000);
        bencher.bench(|| message::read(xml.as_bytes(), CORP).unwrap());
    }
}

/// Merges one fact into the known facts of a member.
mod merge {
    use super::*;
    use wecom_dirsync::directory::diff::merge;
    use wecom_dirsync::directory::fact::timed;
    use wecom_dirsync::directory::members::{MemberFact, Record};
    use wecom_dirsync::directory::{
        Fact, Fields, MemberField, Presence, Rank, Source, Stamp, UnixSeconds, UserId, Value,
    };

    fn position(at: i64) -> Fields<MemberField> {
        Fields::from([(MemberField::Position, Value::text(&format!("position {at}")))])
    }

    fn updated(at: i64) -> MemberFact {
        MemberFact::Entity(Fact::present(Presence::Updated, Source::Event(UnixSeconds(at)), &position(at)))
    }

    fn known(userid: &UserId, count: usize) -> Vec<Record> {
        (1..)
            .take(count)
            .map(|at| Record::new(userid.clone(), Source::Event(UnixSeconds(at)), at, updated(at)))
            .collect()
    }

    #[divan::bench(args = [1, 16, 64])]
    fn update_onto(bencher: Bencher, facts: usize) {
        let userid = UserId::parse("zhangsan").unwrap();
        let known = known(&userid, facts);
        bencher
            .with_inputs(|| updated(1000))
            .bench_values(|fact| merge(&known, &userid, Source::Event(UnixSeconds(1000)), 1000, fact));
    }

    #[divan::bench(args = [1, 16, 64])]
    fn rename_onto(bencher: Bencher, facts: usize) {
        let (userid, to) = (UserId::parse("zhangsan").unwrap(), UserId::parse("ZS0001").unwrap());
        let known = known(&userid, facts);
        let renamed = || {
            let stamp = Stamp::new(UnixSeconds(1000), Rank::Renamed);
            MemberFact::Renamed(to.clone(), timed(stamp, &position(1000)))
        };
        bencher
            .with_inputs(renamed)
            .bench_values(|fact| merge(&known, &userid, Source::Event(UnixSeconds(1000)), 1000, fact));
    }
}

/// From the writer's queue to the synced file.
mod commit {
    use super::*;
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};
    use wecom_dirsync::directory::UnixSeconds;
    use wecom_dirsync::store::{NewEvent, Writer, apply_event, open_writer};
    use wecom_dirsync::wecom::callback::message;

    fn new_member(n: usize) -> NewEvent {
        let payload = event(&format!("user{n}"), 1_700_000_000);
        let read = message::read(payload.as_bytes(), CORP).unwrap();
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        NewEvent {
            received_at: UnixSeconds(1_700_000_001),
            create_time: read.create_time,
            event: read.event,
            change_type: read.change_type,
            subject: read.subject,
            payload,
            digest: hasher.finish().cast_signed(),
            meaning: read.meaning.ok(),
            latest: None,
            comparison_due: read.reconcile_reason,
        }
    }

    /// Commits `waiting` new members at once, in the folder for temporary files: TMPDIR selects the disk.
    #[divan::bench(args = [1, 16, 64], sample_count = 50, sample_size = 1)]
    fn new_members_waiting(bencher: Bencher, waiting: usize) {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writer(&folder.path().join("directory.db"), 0o600).unwrap();
        let (writer, thread) = Writer::start(connection).unwrap();
        let mut next = 0;
        bencher
            .counter(divan::counter::ItemsCount::new(waiting))
            .with_inputs(|| {
                next += waiting;
                (next - waiting..next).map(new_member).collect::<Vec<_>>()
            })
            .bench_local_values(|events| {
                let (done, committed) = channel();
                for event in events {
                    let done = done.clone();
                    writer.submit(
                        Instant::now() + Duration::from_secs(10),
                        move |connection| apply_event(connection, &event),
                        move |applied| done.send(applied.is_ok()).unwrap(),
                    );
                }
                drop(done);
                assert!(committed.iter().all(|is_committed| is_committed));
            });
        writer.close();
        assert!(thread.join_within(Duration::from_secs(10)));
    }
}
