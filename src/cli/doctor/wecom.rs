//! What the responses of WeCom's API mean: level, cause and remedy. Pure.

use std::net::IpAddr;

use super::finding::{Finding, Level};
use crate::directory::clock::{Estimate, TOLERANCE};
use crate::wecom::api::errcode::{Reaction, Reason, reaction};
use crate::wecom::api::probe::{ProbeOutcome, caller_address};
use crate::wecom::api::{Api, SecretKind};

/// An offset of more seconds is reported.
const NOTABLE: i64 = 60;

/// The APIs that are tried with each secret, and what depends on them.
pub(super) const CALLS: [(SecretKind, Api, &str); 9] = [
    (SecretKind::App, Api::ConvertToOpenid, "conversion of userids to openids"),
    (SecretKind::App, Api::UserGet, "details of members"),
    (SecretKind::App, Api::DepartmentList, "names of departments within the app's visible range"),
    (SecretKind::App, Api::TagList, "tags that the app may see"),
    (
        SecretKind::Contacts,
        Api::UserListId,
        "the list of all members, by which the database is filled and compared",
    ),
    (SecretKind::Contacts, Api::DepartmentSimpleList, "the list of all departments"),
    (SecretKind::Contacts, Api::DepartmentList, "names of departments"),
    (SecretKind::Contacts, Api::UserGet, "details of members, and proof that one was deleted"),
    (SecretKind::Contacts, Api::TagList, "tags"),
];

/// Whether the directory cannot be kept without this API.
fn is_essential(secret: SecretKind, api: Api) -> bool {
    matches!(
        (secret, api),
        (SecretKind::App, Api::ConvertToOpenid)
            | (SecretKind::Contacts, Api::UserListId | Api::DepartmentSimpleList)
    )
}

/// The name of the check in the report.
pub(super) fn check_name(secret: SecretKind, api: Api) -> String {
    let secret = match secret {
        SecretKind::App => "app",
        SecretKind::Contacts => "contacts",
    };
    if api == Api::GetToken { format!("token.{secret}") } else { format!("api.{secret}.{}", api.path()) }
}

fn errcode_in_words(errcode: i64, errmsg: &str) -> String {
    if errmsg.is_empty() { format!("errcode {errcode}") } else { format!("errcode {errcode}: {errmsg}") }
}

/// The console's page of a secret.
fn place(secret: SecretKind) -> &'static str {
    match secret {
        SecretKind::App => "应用管理 > the app",
        SecretKind::Contacts => "管理工具 > 通讯录同步",
    }
}

/// What an errcode that concerns no member means; `None`: the call itself was permitted.
fn trouble(check: &str, secret: SecretKind, (errcode, errmsg): (i64, &str)) -> Option<Finding> {
    let what = format!("{}: {}", secret.key(), errcode_in_words(errcode, errmsg));
    let (level, remedy) = match reaction(errcode) {
        Reaction::Done | Reaction::NotYet | Reaction::Never => return None,
        Reaction::Pause(Reason::Secret) => (
            Level::MustFix,
            format!(
                "copy 企业ID from 我的企业 into [wecom] corp_id, and the Secret of {} into {}",
                place(secret),
                secret.key()
            ),
        ),
        Reaction::Pause(Reason::Address) => {
            let address =
                caller_address(errmsg).map_or("the address in the message".into(), |ip| ip.to_string());
            (
                Level::MustFix,
                format!("enter {address} in 企业可信IP of {}; it takes effect after a minute", place(secret)),
            )
        }
        Reaction::Pause(reason @ (Reason::Quota | Reason::Concurrency)) => {
            (Level::Warning, reason.advice().to_owned())
        }
        Reaction::Pause(reason) => (Level::MustFix, reason.advice().to_owned()),
        Reaction::Busy => (Level::Warning, "run doctor again: WeCom is busy".into()),
        Reaction::RenewToken => (
            Level::MustFix,
            "WeCom refuses a token that it has just given: check what stands between here and api_base"
                .into(),
        ),
        Reaction::Unknown => (Level::Warning, Reason::Unknown.advice().to_owned()),
    };
    Some(Finding { check: check.to_owned(), level, what, remedy: Some(remedy) })
}

fn failed(check: &str, secret: SecretKind, what: &str, advice: Option<&'static str>) -> Finding {
    let remedy = advice.unwrap_or_else(|| Reason::Network.advice());
    Finding::must_fix(check, format!("{}: {what}", secret.key()), remedy)
}

/// The answer of gettoken.
pub(super) fn judge_token(secret: SecretKind, outcome: &ProbeOutcome) -> Finding {
    let check = check_name(secret, Api::GetToken);
    match outcome {
        ProbeOutcome::Answered { errcode, errmsg, .. } => trouble(&check, secret, (*errcode, errmsg))
            .unwrap_or_else(|| match errcode {
                0 => Finding::ok(check, format!("WeCom gives a token for {}", secret.key())),
                _ => Finding::must_fix(
                    check,
                    format!("{}: {}", secret.key(), errcode_in_words(*errcode, errmsg)),
                    Reason::Unknown.advice(),
                ),
            }),
        ProbeOutcome::Failed { what, advice } => failed(&check, secret, what, *advice),
    }
}

/// The answer of an API. `purpose` is its row of [`CALLS`]; `has_app`: the app's secret is set, which serves where the contacts
/// secret may not.
pub(super) fn judge_call(
    (secret, api, purpose): (SecretKind, Api, &str),
    outcome: &ProbeOutcome,
    has_app: bool,
) -> Finding {
    let check = check_name(secret, api);
    let (errcode, errmsg, hidden) = match outcome {
        ProbeOutcome::Answered { errcode, errmsg, hidden } => (*errcode, errmsg.as_str(), hidden),
        ProbeOutcome::Failed { what, advice } => return failed(&check, secret, what, *advice),
    };
    if matches!(reaction(errcode), Reaction::Pause(Reason::Permission | Reason::Licence)) {
        return refused(check, (secret, api, purpose), (errcode, errmsg), has_app);
    }
    if let Some(finding) = trouble(&check, secret, (errcode, errmsg)) {
        return finding;
    }
    let code =
        if errcode == 0 { String::new() } else { format!(" (errcode {errcode} about the member asked for)") };
    let shown = if hidden.is_empty() {
        String::new()
    } else {
        format!("; WeCom does not show {}", hidden.join(", "))
    };
    Finding::ok(check, format!("permitted with {}{code}: {purpose}{shown}", secret.key()))
}

/// A secret that may not call an API.
fn refused(
    check: String,
    (secret, api, purpose): (SecretKind, Api, &str),
    (errcode, errmsg): (i64, &str),
    has_app: bool,
) -> Finding {
    let what = format!(
        "{} may not call it: {}; missing: {purpose}",
        secret.key(),
        errcode_in_words(errcode, errmsg)
    );
    let advice = match reaction(errcode) {
        Reaction::Pause(reason) => reason.advice(),
        _ => Reason::Permission.advice(),
    };
    match (secret, api) {
        _ if is_essential(secret, api) => Finding::must_fix(check, what, advice),
        // A secret of contacts sync whose address was added since 2022-08-15 reads little more than ids.
        (SecretKind::Contacts, Api::UserGet | Api::DepartmentList | Api::TagList) if has_app => Finding::ok(
            check,
            format!("errcode {errcode}, which is normal for contacts_secret: the app is asked instead"),
        ),
        (SecretKind::Contacts, _) => Finding::warning(
            check,
            what,
            "set [wecom] app_secret to that of an app whose visible range (可见范围) covers the members",
        ),
        (SecretKind::App, _) => Finding::warning(check, what, advice),
    }
}

/// The address that WeCom named in one of these errmsgs.
pub(super) fn judge_address<'a>(errmsgs: impl Iterator<Item = &'a str>) -> Option<Finding> {
    let address: IpAddr = errmsgs.filter_map(caller_address).next()?;
    Some(Finding::ok(
        "address",
        format!(
            "WeCom sees this machine as {address}: the address for 企业可信IP of the app and of 通讯录同步"
        ),
    ))
}

/// WeCom's clock against this machine's.
pub(super) fn judge_clock(estimate: &Estimate) -> Finding {
    const CHECK: &str = "clock";
    const REMEDY: &str = "synchronise this machine's clock (NTP, such as timedatectl set-ntp true); if it is right, check the \
                          gateways and caches in front of api_base, which send the Date";
    let offset = estimate.contradiction.unwrap_or(estimate.offset);
    let what = format!("WeCom's clock is {offset:+} s from this machine's");
    match offset.abs() {
        0..=NOTABLE => Finding::ok(CHECK, what),
        ..=TOLERANCE => Finding::warning(CHECK, what, REMEDY),
        _ => Finding::must_fix(CHECK, format!("{what}; comparisons delete nothing meanwhile"), REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::UnixSeconds;
    use crate::directory::clock::Agreement;

    fn answered(errcode: i64, errmsg: &str) -> ProbeOutcome {
        ProbeOutcome::Answered { errcode, errmsg: errmsg.into(), hidden: Vec::new() }
    }

    fn row(secret: SecretKind, api: Api) -> (SecretKind, Api, &'static str) {
        CALLS.into_iter().find(|(s, a, _)| (*s, *a) == (secret, api)).unwrap()
    }

    #[test]
    fn each_errcode_of_gettoken_has_level_and_remedy() {
        for (errcode, level, part) in [
            (0, Level::Ok, ""),
            (40001, Level::MustFix, "app_secret"),
            (40013, Level::MustFix, "企业ID"),
            (40091, Level::MustFix, "Secret"),
            (41002, Level::MustFix, "企业ID"),
            (60020, Level::MustFix, "enter 203.0.113.9 in 企业可信IP"),
            (45009, Level::Warning, "calls_per_minute"),
            (-1, Level::Warning, "again"),
            (42001, Level::MustFix, "api_base"),
            (99_999, Level::Warning, "全局错误码"),
            (60011, Level::MustFix, "全局错误码"),
        ] {
            let finding = judge_token(SecretKind::App, &answered(errcode, "x, from ip: 203.0.113.9, y"));
            assert_eq!(finding.level, level, "{errcode}");
            assert!(finding.remedy.unwrap_or_default().contains(part), "{errcode}");
            assert!(errcode == 0 || finding.what.contains(&errcode.to_string()), "{}", finding.what);
        }
        let failed = ProbeOutcome::Failed { what: "HTTP status 502".into(), advice: None };
        let finding = judge_token(SecretKind::App, &failed);
        assert_eq!(finding.level, Level::MustFix);
        assert!(finding.what.contains("HTTP status 502") && finding.remedy.unwrap().contains("gateway"));
    }

    #[test]
    fn a_refused_api_weighs_as_much_as_what_depends_on_it() {
        use Api::{ConvertToOpenid, DepartmentList, DepartmentSimpleList, TagList, UserGet, UserListId};
        use SecretKind::{App, Contacts};
        for (secret, api, has_app, level) in [
            (App, ConvertToOpenid, true, Level::MustFix),
            (App, UserGet, true, Level::Warning),
            (App, DepartmentList, true, Level::Warning),
            (Contacts, UserListId, true, Level::MustFix),
            (Contacts, DepartmentSimpleList, true, Level::MustFix),
            (Contacts, UserGet, true, Level::Ok),
            (Contacts, UserGet, false, Level::Warning),
            (Contacts, DepartmentList, true, Level::Ok),
            (Contacts, TagList, false, Level::Warning),
        ] {
            for errcode in [48009, 48002, 48004, 301_002, 301_052] {
                let finding = judge_call(row(secret, api), &answered(errcode, "no"), has_app);
                assert_eq!(finding.level, level, "{errcode} {finding:?}");
                assert!(finding.what.contains(&errcode.to_string()), "{finding:?}");
                assert_eq!(finding.remedy.is_some(), level != Level::Ok);
            }
        }
    }

    #[test]
    fn a_refusal_about_the_member_shows_that_the_api_is_permitted() {
        for errcode in [0, 43004, 60111, 46004, 40003, 301_021, 60011] {
            let finding =
                judge_call(row(SecretKind::App, Api::ConvertToOpenid), &answered(errcode, "m"), true);
            assert_eq!(finding.level, Level::Ok, "{errcode}");
        }
        let outcome =
            ProbeOutcome::Answered { errcode: 0, errmsg: "ok".into(), hidden: vec!["mobile", "email"] };
        let finding = judge_call(row(SecretKind::App, Api::UserGet), &outcome, true);
        assert!(finding.what.contains("does not show mobile, email"), "{}", finding.what);
    }

    #[test]
    fn the_clock_is_reported_from_a_minute_on() {
        let estimate = |offset, contradiction| Estimate {
            now: UnixSeconds(0),
            offset,
            agreement: Agreement::DateAndLocal,
            contradiction,
        };
        for (offset, contradiction, level) in [
            (0, None, Level::Ok),
            (-60, None, Level::Ok),
            (61, None, Level::Warning),
            (-300, None, Level::Warning),
            (0, Some(-301), Level::MustFix),
            (90_000, None, Level::MustFix),
        ] {
            assert_eq!(
                judge_clock(&estimate(offset, contradiction)).level,
                level,
                "{offset} {contradiction:?}"
            );
        }
    }

    #[test]
    fn the_address_is_taken_from_any_refusal() {
        let found =
            judge_address(["ok", "userid not found, from ip: 203.0.113.9, more"].into_iter()).unwrap();
        assert!(found.what.contains("203.0.113.9"));
        assert_eq!(judge_address(["ok"].into_iter()), None);
    }
}
