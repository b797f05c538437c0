//! The merge of members: what WeCom said of a group of names is kept and folded in order of WeCom's time.
//!
//! A state that is patched event by event depends on the order of arrival. Therefore each event adds a [`Record`], and
//! the members are what [`fold`] makes of all records, sorted by WeCom's time and within one second by kind and content.
//! The order of arrival cannot matter. Only facts of names that renames tie together can touch each other; such a
//! [`RenameGroup`] is folded as one.
//!
//! Rules of the fold, in order of time:
//! - A userid resolves to its present holder, else through renames.
//! - An update of a member that is unknown or deleted shows that there is one: its creation was missed, or is late.
//! - A rename moves the member, with its departments, tags and openid, to the new name. A name that is created again
//!   afterwards is another member.
//! - An openid belongs to a person at a time: an answer counts for the holder of the name while WeCom was asked. If the
//!   name changed hands meanwhile, the answer counts for nobody and WeCom is asked again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::clock::TOLERANCE;
use super::entity::{EntityState, SNAPSHOT, compaction_cut};
use super::fact::{
    CompleteListing, Fact, FactRecord, Presence, Source, Timed, TimedFields, fields_from_json,
    fields_to_json, fold_order, restamp_fields,
};
use super::fields::MemberField;
use super::ids::UserId;
use super::restamp::Restamped;
use super::time::{Rank, Stamp, UnixSeconds};

/// WeCom's answer to a conversion, dated at the end of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Seconds before the answer at which the holder of the name was known: WeCom was asked about that member.
    pub asked_before: i64,
    /// What WeCom said.
    pub said: Conversion,
}

impl Answer {
    /// The second in which the holder of the name was known, for an answer at `answered`.
    fn asked_at(&self, answered: Stamp) -> UnixSeconds {
        answered.second.plus(-self.asked_before)
    }
}

/// What WeCom says of a userid's openid for good. A refusal that may change (43004) is no fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// The holder's openid.
    Openid(String),
    /// There is nothing to convert: not found, or outside the visible range (errcode, errmsg).
    Refused(i64, String),
}

/// What WeCom said of a userid.
#[derive(Debug, Clone, PartialEq)]
pub enum MemberFact {
    /// A fact about this one name.
    Entity(Fact<MemberField>),
    /// From now on the member has this userid; and what else changed.
    Renamed(UserId, TimedFields<MemberField>),
    /// An answer to a conversion.
    Answered(Answer),
    /// Part of a snapshot: since then the name refers to the member of this userid.
    FormerName(UserId, Stamp),
}

impl MemberFact {
    /// The fields that the fact sets.
    #[must_use]
    pub fn fields(&self) -> Option<&TimedFields<MemberField>> {
        match self {
            Self::Entity(fact) => fact.fields(),
            Self::Renamed(_, fields) => Some(fields),
            Self::Answered(_) | Self::FormerName(..) => None,
        }
    }

    /// The stamp of this fact when it comes from this source.
    #[must_use]
    pub fn stamp(&self, source: Source) -> Stamp {
        let rank = match self {
            Self::Entity(fact) => fact.rank(source),
            Self::Renamed(..) => Rank::Renamed,
            Self::Answered(_) | Self::FormerName(..) => Rank::Converted,
        };
        Stamp::new(source.second(), rank)
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
            Self::Answered(Answer { asked_before, said: Conversion::Openid(openid) }) => {
                json!({"openid": openid, "asked_before": asked_before})
            }
            Self::Answered(Answer { asked_before, said: Conversion::Refused(errcode, errmsg) }) => {
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
        let said = match (json.get("openid"), json.get("refused")) {
            (Some(openid), _) => Conversion::Openid(openid.as_str()?.to_owned()),
            (None, Some(errcode)) => {
                Conversion::Refused(errcode.as_i64()?, json.get("errmsg")?.as_str()?.to_owned())
            }
            (None, None) => return Fact::from_json(stamp, json).map(Self::Entity),
        };
        Some(Self::Answered(Answer { asked_before: json.get("asked_before")?.as_i64()?, said }))
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

/// A fact about a member, under the userid that WeCom used.
pub type Record = FactRecord<(UserId, MemberFact)>;

impl Record {
    /// A record under `userid`.
    #[must_use]
    pub fn new(userid: UserId, source: Source, arrival: i64, fact: MemberFact) -> Self {
        Self { stamp: fact.stamp(source), arrival, fact: (userid, fact) }
    }

    /// The userid that WeCom used.
    #[must_use]
    pub fn userid(&self) -> &UserId {
        &self.fact.0
    }

    /// Whether the record is about this name, as the userid that WeCom used or as the new name of a rename.
    pub(crate) fn names(&self, name: &UserId) -> bool {
        let renamed_to = match self.said() {
            MemberFact::Renamed(to, _) | MemberFact::FormerName(to, _) => Some(to),
            MemberFact::Entity(_) | MemberFact::Answered(_) => None,
        };
        self.userid() == name || renamed_to == Some(name)
    }

    /// What WeCom said.
    #[must_use]
    pub fn said(&self) -> &MemberFact {
        &self.fact.1
    }
}

/// Which member it is, under any name: the first name it was known by, and the end of that name's former holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberIdentity {
    first_userid: UserId,
    reset_at: Stamp,
}

/// A member as the facts tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Which one, under any name.
    pub identity: MemberIdentity,
    /// The userid as WeCom spelled it last.
    pub userid: UserId,
    /// Existence, fields and tags.
    pub state: EntityState<MemberField>,
    /// Its openid, when WeCom gave it, and how many seconds earlier its holder was known.
    openid: Option<(Stamp, i64, String)>,
    /// The refusal that stands: no event named the member later.
    refused: Option<(Stamp, i64, String)>,
}

impl Member {
    fn new(userid: &UserId, reset_at: Stamp) -> Self {
        Self {
            identity: MemberIdentity { first_userid: userid.clone(), reset_at },
            userid: userid.clone(),
            state: EntityState { reset_at, ..EntityState::default() },
            openid: None,
            refused: None,
        }
    }

    /// The openid, if the member has one.
    #[must_use]
    pub fn openid(&self) -> Option<&str> {
        self.openid.as_ref().map(|(.., openid)| openid.as_str())
    }

    /// Whether WeCom refused to convert this member for good, and no later event names it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.openid.is_none() && self.refused.is_some()
    }

    fn upsert(&mut self, userid: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        if self.state.deleted.is_some() {
            self.openid = None;
            self.refused = None;
        }
        self.state.upsert(stamp, fields);
        self.identity.reset_at = self.state.reset_at;
        if !stamp.is_observed() {
            self.refused = None;
        }
        if self.userid == *userid {
            self.userid = userid.clone();
        }
    }

    /// The member leaves its name at `stamp`: an answer of that second, which only a snapshot can have, may be about
    /// either holder.
    fn forget_answers_of(&mut self, stamp: Stamp) {
        if self.openid.as_ref().is_some_and(|(at, ..)| at.second >= stamp.second) {
            self.openid = None;
        }
        if self.refused.as_ref().is_some_and(|(at, ..)| at.second >= stamp.second) {
            self.refused = None;
        }
    }

    fn answer(&mut self, stamp: Stamp, answer: &Answer) {
        match &answer.said {
            Conversion::Openid(openid) => {
                self.openid = Some((stamp, answer.asked_before, openid.clone()));
                self.refused = None;
            }
            Conversion::Refused(errcode, errmsg) if self.openid.is_none() => {
                self.refused = Some((stamp, *errcode, errmsg.clone()));
            }
            // A member keeps the openid that it has.
            Conversion::Refused(..) => {}
        }
    }

    /// The smallest list of facts that folds to this member.
    fn snapshot(&self) -> Vec<(Stamp, MemberFact)> {
        // A name that was left before anything but tags named it has no deletion of its own.
        let is_left = !self.state.known && self.state.deleted.is_none();
        let entity = self.state.snapshot().into_iter().map(|(stamp, fact)| match fact {
            Fact::Deleted if is_left => (stamp, Fact::Absent),
            fact => (stamp, fact),
        });
        let mut facts: Vec<_> = entity.map(|(stamp, fact)| (stamp, MemberFact::Entity(fact))).collect();
        let answered_at =
            [self.openid.as_ref().map(|(at, ..)| *at), self.refused.as_ref().map(|(at, ..)| *at)];
        if let Some(at) = answered_at.into_iter().flatten().min() {
            // The member exists when the answer comes, also where its newest fields are later than that.
            let exists = Fact::Present(Presence::Updated, TimedFields::new());
            facts.push((Stamp::new(at.second, Rank::Listed), MemberFact::Entity(exists)));
        }
        // The answer counts already, so nothing that happened to the name during the call matters any more.
        let mut answered =
            |stamp, said| facts.push((stamp, MemberFact::Answered(Answer { asked_before: 0, said })));
        if let Some((stamp, _, openid)) = &self.openid {
            answered(*stamp, Conversion::Openid(openid.clone()));
        }
        if let Some((stamp, errcode, errmsg)) = &self.refused {
            answered(*stamp, Conversion::Refused(*errcode, errmsg.clone()));
        }
        facts
    }
}

/// The members of names that renames tie together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenameGroup {
    /// By present userid; also the deleted, and those that only tags or answers have named.
    pub members: BTreeMap<UserId, Member>,
    /// Former names: the name that each was renamed to, and when.
    aliases: BTreeMap<UserId, (UserId, Stamp)>,
    /// When a name lost its last holder, and the one before.
    left_at: BTreeMap<UserId, (Stamp, Option<Stamp>)>,
    /// Answers about names without a holder: the holder's facts may be dated a little later.
    unclaimed: BTreeMap<UserId, (Stamp, Answer)>,
}

/// Folds facts, given in any order.
#[must_use]
pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> RenameGroup {
    let mut records: Vec<&Record> = records.into_iter().collect();
    sort(&mut records);
    let mut group = RenameGroup::default();
    for second in records.chunk_by(|a, b| a.stamp.second == b.stamp.second) {
        group.apply_second(second);
    }
    group
}

fn sort(records: &mut [&Record]) {
    records.sort_by(|a, b| {
        fold_order((a, a.userid()), (b, b.userid()), |record| {
            format!("{} {}", record.userid(), record.said().to_json(record.stamp))
        })
    });
}

impl RenameGroup {
    /// Whether the name has a present holder.
    #[must_use]
    pub fn is_present(&self, name: &UserId) -> bool {
        self.members.get(name).is_some_and(|member| member.state.is_present())
    }

    /// The present userid of the member that `name` refers to: its present holder, else through renames.
    #[must_use]
    pub fn resolve(&self, name: &UserId) -> UserId {
        let mut name = name;
        // At most one step per alias: a circle of renames must not hang the daemon.
        for _ in 0..=self.aliases.len() {
            if self.is_present(name) {
                break;
            }
            match self.aliases.get(name) {
                Some((next, _)) => name = next,
                None => break,
            }
        }
        name.clone()
    }

    /// Applies the facts of one second, sorted by rank and content.
    ///
    /// Events about members that are present precede the creations of that second, and all other events follow them: a
    /// userid may be deleted and created again within a second, or created and renamed. Where both orders are possible,
    /// the contradiction makes the details due.
    fn apply_second(&mut self, records: &[&Record]) {
        let is_event = |record: &&&Record| record.arrival >= 0 && !record.stamp.is_observed();
        let (events, answers): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|r| is_event(r));
        let is_last = |record: &&&Record| record.arrival >= 0 && record.stamp.rank == Rank::Converted;
        answers.iter().filter(|r| !is_last(r)).for_each(|record| self.apply(record.stamp, record));
        let (creations, mut others): (Vec<&Record>, Vec<&Record>) =
            events.into_iter().partition(|record| record.stamp.rank == Rank::Created);
        self.apply_to_present(&mut others, |record| record.stamp);
        creations.iter().for_each(|record| self.apply(record.stamp, record));
        // A deletion after a creation of its second is dated after it, too.
        let stamp_of = |record: &Record| match record.stamp.rank {
            Rank::Deleted if !creations.is_empty() => Stamp::new(record.stamp.second, Rank::Converted),
            _ => record.stamp,
        };
        self.apply_to_present(&mut others, stamp_of);
        others.iter().for_each(|record| self.apply(stamp_of(record), record));
        answers.iter().filter(is_last).for_each(|record| self.apply(record.stamp, record));
    }

    /// Applies facts about present members, and takes them from the list. A rename may make others apply.
    fn apply_to_present(&mut self, records: &mut Vec<&Record>, stamp_of: impl Fn(&Record) -> Stamp) {
        let is_meant = |group: &Self, record: &Record| group.is_present(&group.resolve(record.userid()));
        while let Some(next) = records.iter().position(|record| is_meant(self, record)) {
            let record = records.remove(next);
            self.apply(stamp_of(record), record);
        }
    }

    /// Applies a fact at `stamp`.
    fn apply(&mut self, stamp: Stamp, record: &Record) {
        let userid = record.userid();
        match record.said() {
            MemberFact::Renamed(to, fields) => self.rename(userid, to, stamp, fields),
            MemberFact::Answered(answer) => self.answer(userid, stamp, answer),
            MemberFact::FormerName(to, since) => {
                self.aliases.insert(userid.clone(), (to.clone(), *since));
                self.leave(userid, *since);
            }
            MemberFact::Entity(Fact::Present(Presence::Updated, fields)) => {
                let resolved = self.resolve(userid);
                self.member(&resolved, None).upsert(userid, stamp, fields);
                self.claim_answer(&resolved, stamp);
            }
            // A creation or listing never refers to a member that was renamed from this name.
            MemberFact::Entity(Fact::Present(_, fields)) => {
                let reset_at = self.aliases.remove(userid).map(|(_, renamed)| renamed);
                self.member(userid, reset_at).upsert(userid, stamp, fields);
                self.claim_answer(userid, stamp);
            }
            MemberFact::Entity(Fact::Absent) => {
                if let Some(member) = self.members.get_mut(userid) {
                    member.state.apply(stamp, &Fact::Absent);
                }
                self.leave(userid, stamp);
            }
            MemberFact::Entity(fact) => {
                let resolved = self.resolve(userid);
                self.member(&resolved, None).state.apply(stamp, fact);
                if *fact == Fact::Deleted {
                    self.leave(&resolved, stamp);
                }
            }
        }
    }

    /// The name loses its holder.
    fn leave(&mut self, userid: &UserId, stamp: Stamp) {
        let before = self.left_at.get(userid).map(|(last, _)| *last);
        if before.is_none_or(|last| last < stamp) {
            self.left_at.insert(userid.clone(), (stamp, before));
        }
    }

    fn answer(&mut self, userid: &UserId, stamp: Stamp, answer: &Answer) {
        if let Some((left, before)) = self.lost_holder(userid, stamp, answer) {
            // The member that WeCom was asked about has another name since, and nobody else has held this one.
            let was_renamed = self.aliases.get(userid).is_some_and(|(_, at)| *at == left)
                && before.is_none_or(|before| before.second <= answer.asked_at(stamp));
            let holder = self.resolve(userid);
            if was_renamed
                && let Some(holder) = self.members.get_mut(&holder).filter(|m| m.state.is_present())
            {
                holder.answer(stamp, answer);
            }
            return;
        }
        match self.members.get_mut(userid).filter(|member| member.state.is_present()) {
            Some(holder) => holder.answer(stamp, answer),
            // A refusal is void anyway once a later event names the member.
            None if matches!(answer.said, Conversion::Openid(_)) => {
                self.unclaimed.insert(userid.clone(), (stamp, answer.clone()));
            }
            None => {}
        }
    }

    /// When the name lost its holder, and the one before, if that was after WeCom was asked and before it answered.
    fn lost_holder(
        &self,
        userid: &UserId,
        answered: Stamp,
        answer: &Answer,
    ) -> Option<(Stamp, Option<Stamp>)> {
        self.left_at.get(userid).copied().filter(|(left, _)| left.second > answer.asked_at(answered))
    }

    /// A fact shows at `stamp` that the name has a holder. An answer about it may be dated a little earlier, because no two
    /// clocks agree to the second; nobody else can have been meant, if the name was never left since.
    fn claim_answer(&mut self, userid: &UserId, stamp: Stamp) {
        let Some((at, answer)) = self.unclaimed.remove(userid) else { return };
        if self.lost_holder(userid, at, &answer).is_none()
            && stamp.second.since(at.second) <= TOLERANCE
            && let Some(holder) = self.members.get_mut(userid)
            && answer.asked_at(at) > holder.state.reset_at.second
            && holder.openid.as_ref().is_none_or(|(known, ..)| *known < at)
        {
            holder.answer(at, &answer);
        }
    }

    /// The member of this very name. If a member that was renamed from it has its identity, the new one begins where that
    /// one left the name.
    fn member(&mut self, userid: &UserId, reset_at: Option<Stamp>) -> &mut Member {
        let mut reset_at = reset_at.unwrap_or(Stamp::BEGINNING);
        let has_identity =
            |member: &Member| member.identity.first_userid == *userid && member.identity.reset_at == reset_at;
        if !self.members.contains_key(userid)
            && self.members.values().any(has_identity)
            && let Some((left_at, _)) = self.left_at.get(userid)
        {
            reset_at = *left_at;
        }
        self.members.entry(userid.clone()).or_insert_with(|| Member::new(userid, reset_at))
    }

    fn rename(&mut self, from: &UserId, to: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        let resolved = self.resolve(from);
        let was_never_known = !self
            .members
            .get(&resolved)
            .is_some_and(|member| member.state.known || member.state.deleted.is_some());
        if resolved == *to || (was_never_known && self.is_present(to)) {
            // A repetition, or only the spelling changes; or the member was never known by the old name, which at most
            // tags have named.
            let only_tagged = if resolved == *to { None } else { self.members.remove(&resolved) };
            let member = self.member(to, None);
            if let Some(only_tagged) = only_tagged {
                member.state.merge_from(only_tagged.state);
            }
            member.upsert(to, stamp, fields);
            if *from != *to {
                self.leave(from, stamp);
                self.aliases.insert(from.clone(), (to.clone(), stamp));
                self.aliases.remove(to);
            }
            self.claim_answer(to, stamp);
            return;
        }
        self.member(&resolved, None);
        let Some(mut member) = self.members.remove(&resolved) else { return };
        member.forget_answers_of(stamp);
        for left in [from, &resolved] {
            self.leave(left, stamp);
        }
        // A deleted member begins a new existence first; the fields come last, so that a repetition of the rename finds
        // the same list to resolve flags with.
        member.upsert(&resolved, stamp, &TimedFields::new());
        if let Some(former) = self.members.remove(to)
            && former.state.deleted.is_none()
        {
            // The member that is known by the new name already is the same one, seen before its rename arrived.
            let at = |openid: &Option<(Stamp, i64, String)>| openid.as_ref().map(|(at, ..)| *at);
            let is_newer = at(&former.openid) > at(&member.openid);
            let asked_at = former.openid.as_ref().map(|(at, before, _)| at.second.plus(-before));
            if is_newer && asked_at > Some(member.state.reset_at.second) {
                member.openid.clone_from(&former.openid);
            }
            member.state.merge_from(former.state);
        }
        member.upsert(&resolved, stamp, fields);
        member.userid = to.clone();
        // Earlier names of the member lead to it directly, not to a later holder of the name in between.
        for (next, _) in self.aliases.values_mut().filter(|(next, _)| *next == resolved) {
            next.clone_from(to);
        }
        for old in [from, &resolved] {
            self.aliases.insert(old.clone(), (to.clone(), stamp));
        }
        self.aliases.remove(to);
        self.members.insert(to.clone(), member);
        self.claim_answer(to, stamp);
    }

    /// The same group with these stamps in its members' identities, so that the same member is found again after its
    /// facts got other stamps.
    #[must_use]
    pub(super) fn with_identities(mut self, restamped: &Restamped) -> Self {
        for member in self.members.values_mut() {
            member.identity.reset_at = restamped.stamp(member.identity.reset_at);
        }
        self
    }
}

/// What the last complete listing implied of the names of these facts and of `userid`, unless the facts contain it. Former
/// names that lead to a member are left out.
#[must_use]
pub fn implied_by_listing(known: &[Record], userid: &UserId, listing: CompleteListing) -> Vec<Record> {
    if listing.is_explicit_in(known) {
        return Vec::new();
    }
    let group = fold(listing.known_before(known));
    let mut names: BTreeSet<&UserId> = known.iter().map(Record::userid).collect();
    names.insert(userid);
    let names = names.into_iter().filter(|name| !group.aliases.contains_key(*name));
    names
        .map(|name| {
            let (source, fact) = listing.implied(group.is_present(name));
            Record::new(name.clone(), source, listing.arrival, MemberFact::Entity(fact))
        })
        .collect()
}

/// A group whose older facts were replaced by a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Compacted {
    /// The facts of the snapshot, and those that are newer.
    pub records: Vec<Record>,
    /// The last second of the snapshot.
    pub up_to: UnixSeconds,
    /// Whether renames up to then still tie names together, because newer facts use a former name.
    pub keeps_ties: bool,
}

/// Replaces the older facts by a snapshot, if it is time for that: of each member the smallest list of facts that folds
/// to it, under its present name. Former names that no newer fact uses are forgotten; they become names of their own.
///
/// What follows folds as before. A fact that arrives later than that and is older than the snapshot folds against the
/// snapshot's facts, in every order alike; what it may get wrong, because the snapshot has forgotten the names and
/// former holders in between, the API settles ([`is_below_snapshot`](super::entity::is_below_snapshot)).
#[must_use]
pub fn compact<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Compacted> {
    let mut sorted: Vec<&Record> = records.into_iter().collect();
    sort(&mut sorted);
    let stamps: Vec<Stamp> = sorted.iter().map(|record| record.stamp).collect();
    let names = sorted.iter().map(|record| record.userid()).collect::<BTreeSet<_>>().len();
    let (old, recent) = sorted.split_at(compaction_cut(&stamps, names)?);
    let compacted = snapshot_of(old, recent)?;
    (compacted.records.len() < sorted.len()).then_some(compacted)
}

fn snapshot_of(old: &[&Record], recent: &[&Record]) -> Option<Compacted> {
    let up_to = old.last()?.stamp.second;
    let group = fold(old.iter().copied());
    let mut snapshot: Vec<(UserId, Stamp, MemberFact)> = Vec::new();
    for member in group.members.values() {
        let facts = member.snapshot().into_iter();
        snapshot.extend(facts.map(|(stamp, fact)| (member.userid.clone(), stamp, fact)));
    }
    let mut unclaimed = group.unclaimed.clone();
    unclaimed.retain(|name, (at, answer)| group.lost_holder(name, *at, answer).is_none());
    snapshot.extend(
        unclaimed
            .iter()
            .map(|(name, (stamp, answer))| (name.clone(), *stamp, MemberFact::Answered(answer.clone()))),
    );
    let is_used = |name: &UserId| {
        recent.iter().any(|record| {
            let to = if let MemberFact::Renamed(to, _) = record.said() { Some(to) } else { None };
            record.userid() == name || to == Some(name)
        })
    };
    let mut keeps_ties = false;
    for (name, (to, since)) in &group.aliases {
        if is_used(name) {
            keeps_ties = true;
            let stamp = Stamp::new(up_to, Rank::Converted);
            snapshot.push((name.clone(), stamp, MemberFact::FormerName(to.clone(), *since)));
        } else if !group.members.contains_key(name) {
            // A name without a holder: no late fact brings one about.
            let asked_at = unclaimed.get(name).map(|(at, answer)| answer.asked_at(*at));
            let second = asked_at.map_or(up_to, |asked_at| asked_at.min(up_to));
            let stamp = Stamp::new(second, Rank::Deleted);
            snapshot.push((name.clone(), stamp, MemberFact::Entity(Fact::Deleted)));
        }
    }
    for (name, (left_at, _)) in &group.left_at {
        if !group.aliases.contains_key(name) && !group.members.contains_key(name) {
            snapshot.push((name.clone(), *left_at, MemberFact::Entity(Fact::Absent)));
        }
    }
    let snapshot = snapshot.into_iter().zip(SNAPSHOT..);
    let snapshot =
        snapshot.map(|((userid, stamp, fact), arrival)| Record { stamp, arrival, fact: (userid, fact) });
    let records = snapshot.chain(recent.iter().map(|record| (*record).clone())).collect();
    Some(Compacted { records, up_to, keeps_ties })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Fields, TagId, Value};
    use fastrand::Rng;

    const START: i64 = 1_600_000_000;

    fn userid(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn named(name: &str) -> Fields<MemberField> {
        Fields::from([(MemberField::Name, Value::text(name))])
    }

    fn present(name: &str, kind: Presence, at: i64, value: &str) -> Record {
        let source = match kind {
            Presence::Listed => Source::Api(UnixSeconds(at)),
            _ => Source::Event(UnixSeconds(at)),
        };
        Record::new(userid(name), source, at, MemberFact::Entity(Fact::present(kind, source, &named(value))))
    }

    fn event(name: &str, at: i64, fact: MemberFact) -> Record {
        Record::new(userid(name), Source::Event(UnixSeconds(at)), at, fact)
    }

    fn renamed(name: &str, to: &str, at: i64) -> Record {
        event(name, at, MemberFact::Renamed(userid(to), TimedFields::new()))
    }

    fn deleted(name: &str, at: i64) -> Record {
        event(name, at, MemberFact::Entity(Fact::Deleted))
    }

    fn openid(name: &str, at: i64, openid: &str) -> Record {
        let said = Conversion::Openid(openid.into());
        event(name, at, MemberFact::Answered(Answer { asked_before: 0, said }))
    }

    fn openid_of(records: &[Record], name: &str) -> Option<String> {
        fold(records).members[&userid(name)].openid().map(str::to_owned)
    }

    #[test]
    fn an_openid_belongs_to_the_holder_of_the_name_at_the_time() {
        let records = [
            present("c", Presence::Created, 10, "former"),
            present("c", Presence::Created, 30, "next"),
            openid("c", 35, "o-next"),
            renamed("c", "f1", 20),
        ];
        assert_eq!(openid_of(&records, "c").as_deref(), Some("o-next"));
        assert_eq!(openid_of(&records, "f1"), None);
    }

    #[test]
    fn a_refusal_does_not_follow_a_member_that_an_event_names_later() {
        let refused = Answer { asked_before: 0, said: Conversion::Refused(60111, "not found".into()) };
        let records = [
            present("c", Presence::Created, 10, "a"),
            event("c", 11, MemberFact::Answered(refused)),
            present("c", Presence::Created, 30, "b"),
            deleted("c", 40),
            renamed("c", "f1", 20),
        ];
        let group = fold(&records);
        assert!(!group.members[&userid("f1")].is_refused());
        assert!(group.members[&userid("f1")].state.is_present());
    }

    #[test]
    fn an_answer_while_the_name_changes_hands_counts_for_nobody() {
        let mut answer = openid("c", 31, "o");
        answer.fact.1 =
            MemberFact::Answered(Answer { asked_before: 2, said: Conversion::Openid("o".into()) });
        let records = [
            present("c", Presence::Created, 10, "a"),
            renamed("c", "d", 30),
            present("c", Presence::Created, 31, "b"),
            answer,
        ];
        assert_eq!(openid_of(&records, "c"), None);
        assert_eq!(openid_of(&records, "d"), None);
    }

    #[test]
    fn an_answer_dated_shortly_before_its_member_counts() {
        let records = [present("c", Presence::Created, 31, "b"), openid("c", 29, "o")];
        assert_eq!(openid_of(&records, "c").as_deref(), Some("o"));
    }

    #[test]
    fn a_late_event_does_not_revive_what_a_listing_lacked() {
        let listing = |arrival| CompleteListing { second: UnixSeconds(100), arrival };
        let late = present("x", Presence::Updated, 90, "late");
        let mut records = implied_by_listing(&[], &userid("x"), listing(7));
        records.push(late);
        assert!(!fold(&records).members[&userid("x")].state.is_present());
        // What the listing named stays, also after a late deletion.
        let known = [present("y", Presence::Created, 50, "y")];
        let mut records = implied_by_listing(&known, &userid("y"), listing(70));
        records.extend(known);
        records.push(deleted("y", 60));
        assert!(fold(&records).members[&userid("y")].state.is_present());
        assert_eq!(implied_by_listing(&records, &userid("y"), listing(70)), []);
    }

    /// A random fact about one of `names`, in second `at`.
    pub(super) fn any_fact(rng: &mut Rng, names: &[&str], at: i64) -> Record {
        let name = userid(names[rng.usize(0..names.len())]);
        let second = UnixSeconds(START + at);
        let mut fields = Fields::new();
        for field in [MemberField::Name, MemberField::Position, MemberField::Mobile] {
            if rng.bool() {
                fields.insert(field, Value::text(&"x".repeat(rng.usize(0..4))));
            }
        }
        if rng.bool() {
            fields.insert(MemberField::Department, Value::Ids((0..rng.u32(0..4)).collect()));
            fields.insert(MemberField::LeaderOf, Value::Flags(vec![rng.bool(), rng.bool()]));
        }
        let (event, api) = (Source::Event(second), Source::Api(second));
        let entity = |fact| MemberFact::Entity(fact);
        let (source, fact) = match rng.u32(0..16) {
            0 | 1 => (event, entity(Fact::Deleted)),
            2 => (api, entity(Fact::Absent)),
            3 => (api, entity(Fact::present(Presence::Listed, api, &fields))),
            4 | 5 => (event, entity(Fact::Tagged(TagId(rng.u32(0..3)), rng.bool()))),
            6 | 7 => (event, entity(Fact::present(Presence::Created, event, &fields))),
            8 | 9 => {
                let to = userid(names[rng.usize(0..names.len())]);
                let stamp = Stamp::new(second, Rank::Renamed);
                (event, MemberFact::Renamed(to, super::super::fact::timed(stamp, &fields)))
            }
            10 | 11 => {
                let said = if rng.bool() {
                    Conversion::Openid(format!("o{}", rng.u32(0..9)))
                } else {
                    Conversion::Refused(60111, String::new())
                };
                (api, MemberFact::Answered(Answer { asked_before: rng.i64(0..3), said }))
            }
            _ => (event, entity(Fact::present(Presence::Updated, event, &fields))),
        };
        Record::new(name, source, rng.i64(1..1_000_000), fact)
    }

    #[test]
    fn the_order_of_arrival_does_not_matter_within_one_second_either() {
        for seed in 0..3000 {
            let mut rng = Rng::with_seed(seed);
            let number = rng.usize(2..8);
            let mut records: Vec<Record> = (0..number)
                .map(|_| {
                    let at = rng.i64(0..4);
                    any_fact(&mut rng, &["a", "b", "c"], at)
                })
                .collect();
            let expected = fold(&records);
            for _ in 0..6 {
                rng.shuffle(&mut records);
                for record in &mut records {
                    record.arrival = rng.i64(1..100);
                }
                assert_eq!(fold(&records), expected, "{seed}: {records:#?}");
            }
        }
    }

    #[test]
    fn a_member_may_be_created_and_renamed_or_deleted_within_a_second() {
        let group =
            fold(&[present("c", Presence::Created, 10, "c"), renamed("c", "d", 10), renamed("d", "a", 10)]);
        assert_eq!(group.members.keys().map(UserId::as_str).collect::<Vec<_>>(), ["a"]);
        let created_and_deleted = [present("c", Presence::Created, 10, "c"), deleted("c", 10)];
        assert!(!fold(&created_and_deleted).members[&userid("c")].state.is_present());
        let before = [present("c", Presence::Created, 5, "c")];
        assert!(fold(before.iter().chain(&created_and_deleted)).members[&userid("c")].state.is_present());
        let renamed_and_created = [renamed("c", "d", 10), present("c", Presence::Created, 10, "next")];
        let group = fold(before.iter().chain(&renamed_and_created));
        assert_eq!(group.members.keys().map(UserId::as_str).collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn every_fact_survives_its_json_form() {
        let mut rng = Rng::with_seed(1);
        for at in 0..500 {
            let record = any_fact(&mut rng, &["a", "b"], at);
            let kept = record.said().to_json(record.stamp);
            assert_eq!(MemberFact::from_json(record.stamp, &kept).as_ref(), Some(record.said()), "{kept}");
        }
    }

    /// The members as rows would have them.
    pub(super) fn rows(group: &RenameGroup) -> Vec<(UserId, bool, String)> {
        let members = group.members.values().filter(|member| member.state.is_present());
        let shown = |member: &Member| {
            let fields: Vec<_> = member.state.fields.iter().map(|(f, (_, value))| (f, value)).collect();
            let tags: Vec<_> = member.state.tags_now().collect();
            format!("{fields:?} {tags:?} {:?} {}", member.openid(), member.is_refused())
        };
        members.map(|member| (member.userid.clone(), true, shown(member))).collect()
    }

    #[test]
    fn a_snapshot_folds_to_the_same_and_so_does_what_follows() {
        let mut compacted_some = 0;
        for seed in 0..3000 {
            let mut rng = Rng::with_seed(seed);
            let names: &[&str] = if seed % 2 == 0 { &["a"] } else { &["a", "b", "c"] };
            let span = 86_400 * rng.i64(1..60);
            let number = if seed % 20 == 0 { 330 } else { rng.usize(20..60) };
            let mut ats: Vec<i64> = (0..number).map(|_| rng.i64(0..span)).collect();
            ats.sort_unstable();
            ats.dedup();
            let records: Vec<Record> = ats.iter().map(|at| any_fact(&mut rng, names, *at)).collect();
            let Some(compacted) = compact(&records) else { continue };
            compacted_some += 1;
            assert!(compacted.records.len() <= records.len(), "{seed}");
            assert_eq!(
                rows(&fold(&compacted.records)),
                rows(&fold(&records)),
                "{seed}: {records:#?}\n{compacted:#?}"
            );
            // What follows, present names only: former names are forgotten by then.
            let later: Vec<Record> = (1..6)
                .map(|n| {
                    let at = span + 3600 * n;
                    any_fact(&mut rng, &["a"], at)
                })
                .collect();
            if names.len() == 1 {
                let chain = |all: &[Record]| rows(&fold(all.iter().chain(&later)));
                assert_eq!(chain(&compacted.records), chain(&records), "{seed}");
            }
            // Facts below the snapshot: the same in every order.
            let mut late: Vec<Record> = (0..4)
                .map(|_| {
                    let at = rng.i64(0..compacted.up_to.0 - START);
                    any_fact(&mut rng, names, at)
                })
                .collect();
            let folded = |late: &[Record]| fold(compacted.records.iter().chain(late));
            let expected = folded(&late);
            for _ in 0..4 {
                rng.shuffle(&mut late);
                assert_eq!(folded(&late), expected, "{seed}");
            }
        }
        assert!(compacted_some > 1000, "only {compacted_some}");
    }

    #[test]
    fn a_snapshot_anywhere_folds_to_the_same() {
        for seed in 0..20_000 {
            let mut rng = Rng::with_seed(seed);
            let number = rng.usize(4..9);
            let records: Vec<Record> = (0..number)
                .map(|n| {
                    any_fact(&mut rng, &["a", "b", "c"], i64::try_from(n / (1 + number % 2) * 5).unwrap())
                })
                .collect();
            let mut sorted: Vec<&Record> = records.iter().collect();
            sort(&mut sorted);
            let last = sorted[rng.usize(1..number)].stamp.second;
            let (old, recent) = sorted.split_at(sorted.partition_point(|r| r.stamp.second <= last));
            let compacted = snapshot_of(old, recent).unwrap();
            let (found, expected) = (rows(&fold(&compacted.records)), rows(&fold(&records)));
            assert_eq!(found, expected, "{seed}: {records:#?}\n{compacted:#?}");
        }
    }
}
