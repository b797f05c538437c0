//! Tags: list, fetch the content of each, compare.

use super::super::api_reader::Abort;
use super::{Missing, Run, TAGS_NAMED};
use crate::directory::comparison::SetDifference;
use crate::directory::{TagId, UnixSeconds};
use crate::store::observations::Observation;
use crate::store::reconciles::{known_tag_content, known_tags};
use crate::wecom::api::Dated;
use crate::wecom::api::directory::TagContent;
use crate::wecom::api::{ApiObserver, SecretKind};

impl<L: ApiObserver> Run<'_, L> {
    /// Compares all tags; those that WeCom does not list.
    pub(super) fn tags(&mut self) -> Result<Missing<TagId>, Abort> {
        self.progress("tags", 0, None);
        let client = self.comparison.client;
        let (mut secret, mut listed) =
            (SecretKind::Contacts, self.api.read(|| client.tags(SecretKind::Contacts))?);
        if listed.is_err() && client.has_secret(SecretKind::App) {
            (secret, listed) = (SecretKind::App, self.api.read(|| client.tags(SecretKind::App))?);
        }
        let Dated { value: listed, at } = match listed {
            Ok(seen) => seen,
            Err(denial) => {
                self.note_denial("tags are not compared", &denial);
                return Ok(Missing::none(UnixSeconds::default()));
            }
        };
        let at = self.stamp(at);
        self.skipped("rows of tags, for which none is deleted", &listed.nameless);
        self.skipped("names of tags", &listed.skipped);
        let (tags, is_whole) = (listed.tags, listed.nameless.is_empty());
        // An app sees some tags, and in them only members of its visible range.
        let sees_all = secret == SecretKind::Contacts;
        if !sees_all {
            self.is_partial = true;
            self.notes.push("of tags only what the app may see is compared, and nothing is removed".into());
        }
        let known = known_tags(self.comparison.reader)?;
        let total = tags.len();
        for (done, (tag, name)) in tags.iter().enumerate() {
            self.progress("tags", done, Some(total));
            match (known.get(tag), name) {
                (None, _) => self.differences.tags.new.add(tag),
                (Some((known, _)), Some(_)) if known != name => self.differences.tags.changed.add(tag),
                (Some(_), _) => {}
            }
            if let Some(name) = name
                && !matches!(known.get(tag), Some((Some(known), _)) if known == name)
            {
                self.batches.add(Observation::Tag(*tag, name.clone()), at)?;
            }
            match self.api.read(|| client.tag(*tag, secret))? {
                Ok(content) => self.tag(*tag, content, sees_all, known.contains_key(tag))?,
                Err(denial) => {
                    self.is_partial = true;
                    self.unreadable.tags_refused += 1;
                    if denial.is_for_all || self.unreadable.tags_refused <= TAGS_NAMED {
                        self.note_denial(&format!("tag {tag} is not compared"), &denial);
                    }
                    if denial.is_for_all {
                        return Ok(Missing::none(at));
                    }
                }
            }
        }
        if let Some(more) = self.unreadable.tags_refused.checked_sub(TAGS_NAMED).filter(|more| *more > 0) {
            self.notes.push(format!("{more} more tags are not compared"));
        }
        let skipped = std::mem::take(&mut self.unreadable.of_tags);
        self.skipped("entries of tags, which stay as they are", &skipped);
        let is_complete = sees_all && is_whole && !tags.is_empty();
        let mut missing = Missing { what: Vec::new(), present: known.len(), at, is_complete };
        for (tag, (_, event_time)) in known.iter().filter(|_| is_complete) {
            if !tags.contains_key(tag) && self.is_missing(*event_time, at, &Observation::TagAbsent(*tag))? {
                missing.what.push(*tag);
            }
        }
        Ok(missing)
    }

    fn tag(
        &mut self,
        tag: TagId,
        Dated { value: content, at }: Dated<TagContent>,
        sees_all: bool,
        was_known: bool,
    ) -> Result<(), Abort> {
        let at = self.stamp(at);
        let (known_members, known_departments) = known_tag_content(self.comparison.reader, tag)?;
        let mut members = SetDifference::of(&content.members, &known_members);
        let mut departments = SetDifference::of(&content.departments, &known_departments);
        // An unreadable entry may be the one that seems removed.
        if !sees_all || !content.skipped.is_empty() {
            members.removed.clear();
            departments.removed.clear();
        }
        let is_complete = sees_all && content.skipped.is_empty();
        self.unreadable.of_tags.extend(content.skipped.within(&format!("tag {tag}")));
        if was_known && !(members.is_empty() && departments.is_empty()) {
            self.differences.tags.changed.add(tag);
        }
        for (list, within) in [(members.added, true), (members.removed, false)] {
            for userid in list {
                self.batches.add(Observation::TagMember(tag, userid, within), at)?;
            }
        }
        for (list, within) in [(departments.added, true), (departments.removed, false)] {
            for id in list {
                self.batches.add(Observation::TagDepartment(tag, id, within), at)?;
            }
        }
        if is_complete {
            self.batches.add(Observation::TagContentComplete(tag), at)?;
        }
        Ok(())
    }
}
