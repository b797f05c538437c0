//! The texts of notices, in English and Chinese. Pure.

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::store::state::PauseState;
use crate::wecom::api::errcode::Reason;

/// A text in both languages, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    pub(super) en: String,
    pub(super) zh: String,
}

/// Name and remedy of a pause in Chinese.
fn pause_zh(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::Secret => ("企业ID 或 Secret 不正确", "核对 corp_id 和 Secret，改正后重启服务"),
        Reason::Address => (
            "本机的出口 IP 不在“企业可信IP”中",
            "在管理后台把出口 IP 加入该应用（或通讯录同步）的“企业可信IP”，一分钟后生效",
        ),
        Reason::Permission => ("没有接口权限", "在管理后台授予该接口的权限，或改用有权限的应用的 Secret"),
        Reason::Licence => ("接口许可未覆盖", "在管理后台购买或激活成员的接口许可（互通账号）"),
        Reason::Quota => ("调用次数达到限额", "到期自动恢复；经常出现时，调低 [wecom] calls_per_minute"),
        Reason::Concurrency => {
            ("并发调用过多", "自动减少并发；经常出现时，调低 [openid] max_concurrent_calls")
        }
        Reason::Network => ("无法访问企业微信接口", "检查网络、DNS、代理和网关"),
        Reason::Unknown => ("多个成员返回同一个未知错误码", "在企业微信的“全局错误码”中查找该错误码"),
    }
}

/// A duration in its largest whole unit.
fn duration(seconds: i64) -> (String, String) {
    match seconds {
        s @ ..7200 => (format!("{} min", s / 60), format!("{} 分钟", s / 60)),
        s @ 7200..172_800 => (format!("{} h", s / 3600), format!("{} 小时", s / 3600)),
        s => (format!("{} days", s / 86_400), format!("{} 天", s / 86_400)),
    }
}

impl Text {
    pub(super) fn not_durable(error: &str) -> Self {
        Self {
            en: format!("callbacks cannot be made durable and get 503: {error}"),
            zh: format!(
                "收到的回调无法落盘，返回 503。原因：{error}。处理：检查数据库所在的磁盘，以及占用数据库的程序"
            ),
        }
    }

    /// The pauses of one reason; `pauses` is not empty.
    pub(super) fn paused(reason: Reason, pauses: &[&PauseState]) -> Self {
        let one = |pause: &&PauseState| {
            let errcode = pause.errcode.map_or_else(String::new, |code| format!("errcode {code}, "));
            format!("{}: {errcode}{}", pause.what, pause.errmsg)
        };
        let list: Vec<String> = pauses.iter().map(one).collect();
        let (list, (name, remedy)) = (list.join("; "), pause_zh(reason));
        let advice = pauses.first().map_or(reason.advice(), |pause| &pause.advice);
        Self {
            en: format!("calls of WeCom's API are paused ({}): {list}; {advice}", reason.as_str()),
            zh: format!("接口调用已暂停：{name}（{list}）。处理：{remedy}"),
        }
    }

    pub(super) fn blocked(note: &str) -> Self {
        Self {
            en: format!("the comparison with WeCom is blocked: {note}"),
            zh: format!(
                "与企业微信核对时，待删除的数量过多，未删除任何内容（{note}）。处理：确认这些删除正确后，执行 \
                 wecom-dirsync reconcile --allow-deletes N"
            ),
        }
    }

    /// `age` and `limit` in seconds.
    pub(super) fn oldest_pending(age: i64, limit: i64) -> Self {
        let ((age_en, age_zh), (limit_en, limit_zh)) = (duration(age), duration(limit));
        Self {
            en: format!(
                "a member has been waiting for its openid for {age_en}, longer than {limit_en}; see the view pending_members"
            ),
            zh: format!(
                "有成员等待转换 openid 已 {age_zh}，超过 {limit_zh}。处理：在视图 pending_members 中查看原因"
            ),
        }
    }

    /// `silence` in seconds.
    pub(super) fn no_event(silence: i64) -> Self {
        let (en, zh) = duration(silence);
        Self {
            en: format!(
                "no event arrived for {en}; check the callback URL in the console, DNS and the reverse proxy"
            ),
            zh: format!("已有 {zh}没有收到通讯录事件。处理：检查管理后台的回调 URL、域名解析和反向代理"),
        }
    }

    /// `offset`: WeCom's clock minus this machine's, in seconds.
    pub(super) fn clock_offset(offset: i64) -> Self {
        Self {
            en: format!("WeCom's clock is {offset:+} s from this machine's; synchronise it (NTP)"),
            zh: format!("本机时钟与企业微信相差 {} 秒。处理：校准本机时钟（NTP）", offset.abs()),
        }
    }

    pub(super) fn openid_clash(count: usize) -> Self {
        Self {
            en: format!(
                "{count} openids belong to more than one present member; see the view openid_clashes"
            ),
            zh: format!(
                "{count} 个 openid 同时属于多名现有成员。处理：在视图 openid_clashes 中查看，并在管理后台删除多余的成员"
            ),
        }
    }

    pub(super) fn ended(condition: Condition) -> Self {
        let (en, zh) = match condition {
            Condition::NotDurable => ("callbacks are made durable again", "回调恢复正常落盘"),
            Condition::Paused(reason) => {
                return Self {
                    en: format!("calls of WeCom's API work again ({})", reason.as_str()),
                    zh: format!("已恢复接口调用（此前：{}）", pause_zh(reason).0),
                };
            }
            Condition::Blocked => {
                ("the comparison with WeCom is no longer blocked", "与企业微信的核对不再被拦截")
            }
            Condition::OldestPending => ("no member waits too long for its openid", "已没有等待过久的成员"),
            Condition::NoEvent => ("events arrive again", "恢复收到通讯录事件"),
            Condition::ClockOffset => ("the clocks agree again", "本机时钟已与企业微信一致"),
            Condition::OpenidClash => ("the openid clashes are resolved", "openid 重复的问题已解决"),
        };
        Self { en: format!("recovered: {en}"), zh: zh.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Vec<Condition> {
        let others = [
            Condition::NotDurable,
            Condition::Blocked,
            Condition::OldestPending,
            Condition::NoEvent,
            Condition::ClockOffset,
            Condition::OpenidClash,
        ];
        others.into_iter().chain(Reason::ALL.map(Condition::Paused)).collect()
    }

    #[test]
    fn every_condition_has_its_own_texts_and_each_beginning_a_remedy_in_chinese() {
        let ends: std::collections::BTreeSet<String> =
            conditions().into_iter().map(|condition| Text::ended(condition).zh).collect();
        assert_eq!(ends.len(), conditions().len());
        let pause = PauseState {
            what: "all API calls with app_secret".into(),
            reason: "address".into(),
            errcode: Some(60020),
            errmsg: "from ip: 203.0.113.9".into(),
            since: 1,
            until: 2,
            advice: "add it".into(),
        };
        let mut texts: Vec<Text> =
            Reason::ALL.into_iter().map(|reason| Text::paused(reason, &[&pause])).collect();
        texts.extend([
            Text::not_durable("the disk is full"),
            Text::blocked("12 deletions"),
            Text::oldest_pending(9 * 86_400, 7 * 86_400),
            Text::no_event(3 * 86_400),
            Text::clock_offset(-75),
            Text::openid_clash(2),
        ]);
        for text in &texts {
            assert!(text.zh.contains("处理：") && !text.en.is_empty(), "{text:?}");
        }
        assert!(texts[1].zh.contains("60020") && texts[1].zh.contains("203.0.113.9"), "{}", texts[1].zh);
    }
}
