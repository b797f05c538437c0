//! Facts about members, and their JSON form in the database.

use serde_json::{Value as Json, json};

use crate::directory::fact::{
    Fact, FactRecord, Source, Timed, TimedFields, fields_from_json, fields_to_json, restamp_fields,
};
use crate::directory::fields::MemberField;
use crate::directory::ids::UserId;
use crate::directory::restamp::Restamped;
use crate::directory::time::{Rank, Stamp, UnixSeconds};

/// WeCom's answer to a conversion, dated at the end of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Seconds between the claim and the answer. The answer is about the member that held the name at the claim.
    pub asked_before: i64,
    /// The openid or the final refusal.
    pub conversion: Conversion,
}

impl Answer {
    /// The second of the claim, for an answer at `answered`.
    pub(super) fn claimed_at(&self, answered: Stamp) -> UnixSeconds {
        answered.second.plus(-self.asked_before)
    }
}

/// The final result of a conversion. A refusal that may change (43004) is not a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// The openid of the name's holder.
    Openid(String),
    /// errcode and errmsg: the member does not exist, or is outside the app's visible range.
    Refused(i64, String),
}

/// A fact about a userid.
#[derive(Debug, Clone, PartialEq)]
pub enum MemberFact {
    /// A fact about this name alone.
    Entity(Fact<MemberField>),
    /// The member's new userid, and the fields that changed with it.
    Renamed(UserId, TimedFields<MemberField>),
    /// The answer to a conversion (user/convert_to_openid).
    Answered(Answer),
    /// Part of a snapshot: from the stamp on, the name refers to the member with this userid.
    FormerName(UserId, Stamp),
}

impl MemberFact {
    /// The fields that the fact sets, if it can set any.
    #[must_use]
    pub fn fields(&self) -> Option<&TimedFields<MemberField>> {
        match self {
            Self::Entity(fact) => fact.fields(),
            Self::Renamed(_, fields) => Some(fields),
            Self::Answered(_) | Self::FormerName(..) => None,
        }
    }

    /// The stamp that source and kind of the fact imply.
    #[must_use]
    pub fn stamp(&self, source: Source) -> Stamp {
        let rank = match self {
            Self::Entity(fact) => fact.rank(source),
            Self::Renamed(..) => Rank::Renamed,
            Self::Answered(_) | Self::FormerName(..) => Rank::Converted,
        };
        Stamp::new(source.second(), rank)
    }

    /// The new name of a rename.
    pub(crate) fn new_name(&self) -> Option<&UserId> {
        match self {
            Self::Renamed(to, _) | Self::FormerName(to, _) => Some(to),
            Self::Entity(_) | Self::Answered(_) => None,
        }
    }

    /// The JSON form in the database.
    #[must_use]
    pub fn to_json(&self, stamp: Stamp) -> Json {
        match self {
            Self::Entity(fact) => fact.to_json(stamp),
            Self::Renamed(to, fields) => {
                json!({"renamed": to.as_str(), "updated": fields_to_json(stamp, fields)})
            }
            Self::FormerName(to, since) => {
                json!({"former_name_of": to.as_str(), "since": [since.second.0, since.rank_number()]})
            }
            Self::Answered(Answer { asked_before, conversion: Conversion::Openid(openid) }) => {
                json!({"openid": openid, "asked_before": asked_before})
            }
            Self::Answered(Answer { asked_before, conversion: Conversion::Refused(errcode, errmsg) }) => {
                json!({"refused": errcode, "errmsg": errmsg, "asked_before": asked_before})
            }
        }
    }

    /// Reads what [`MemberFact::to_json`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_json(stamp: Stamp, json: &Json) -> Option<Self> {
        if let Some(to) = json.get("renamed") {
            let to = UserId::parse(to.as_str()?).ok()?;
            return Some(Self::Renamed(to, fields_from_json(stamp, json.get("updated")?)?));
        }
        if let Some(to) = json.get("former_name_of") {
            let (to, since) = (UserId::parse(to.as_str()?).ok()?, json.get("since")?);
            let since = Stamp::from_columns(since.get(0)?.as_i64()?, since.get(1)?.as_i64()?)?;
            return Some(Self::FormerName(to, since));
        }
        let conversion = match (json.get("openid"), json.get("refused")) {
            (Some(openid), _) => Conversion::Openid(openid.as_str()?.to_owned()),
            (None, Some(errcode)) => {
                Conversion::Refused(errcode.as_i64()?, json.get("errmsg")?.as_str()?.to_owned())
            }
            (None, None) => return Fact::from_json(stamp, json).map(Self::Entity),
        };
        Some(Self::Answered(Answer { asked_before: json.get("asked_before")?.as_i64()?, conversion }))
    }
}

impl Timed for (UserId, MemberFact) {
    fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.1.fields().into_iter().flat_map(|fields| fields.values().map(|(at, _)| *at))
    }

    fn restamp(&mut self, restamped: &Restamped) {
        match &mut self.1 {
            MemberFact::Entity(fact) => fact.restamp(restamped),
            MemberFact::Renamed(_, fields) => restamp_fields(fields, restamped),
            MemberFact::Answered(_) | MemberFact::FormerName(..) => {}
        }
    }
}

/// A stored fact about a member, under the userid in WeCom's message.
pub type Record = FactRecord<(UserId, MemberFact)>;

impl Record {
    /// Records a fact about `userid`; `arrival` as in [`FactRecord::arrival`].
    #[must_use]
    pub fn new(userid: UserId, source: Source, arrival: i64, fact: MemberFact) -> Self {
        Self { stamp: fact.stamp(source), arrival, fact: (userid, fact) }
    }

    /// The userid in WeCom's message, perhaps a former one.
    #[must_use]
    pub fn userid(&self) -> &UserId {
        &self.fact.0
    }

    /// The names that the record is about: the userid that WeCom used, and the new name of a rename.
    pub(crate) fn names(&self) -> impl Iterator<Item = &UserId> {
        std::iter::once(self.userid()).chain(self.member_fact().new_name())
    }

    /// The fact without its userid.
    #[must_use]
    pub fn member_fact(&self) -> &MemberFact {
        &self.fact.1
    }
}
