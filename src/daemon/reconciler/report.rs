//! The report of a comparison, for people and programs: counts and names of the differences.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use crate::store::observations::Effect;
use crate::store::reconciles::ReconcileOutcome;

/// Names of one kind that are kept; all items are counted.
const NAMES: usize = 1000;

/// A count, and the first names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// The number of all items, named or not.
    pub count: usize,
    names: Vec<String>,
}

impl Named {
    /// Counts an item, and keeps its name if there is room.
    pub(crate) fn add(&mut self, name: impl ToString) {
        self.count += 1;
        if self.names.len() < NAMES {
            self.names.push(name.to_string());
        }
    }

    fn to_json(&self) -> Json {
        json!({"count": self.count, "names": self.names})
    }
}

/// The differences of one kind of entity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KindDifferences {
    /// Entities that only WeCom has.
    pub new: Named,
    /// Entities that differ in a field.
    pub changed: Named,
    /// Entities that only the directory has.
    pub missing: Named,
}

/// All differences of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    pub members: KindDifferences,
    pub departments: KindDifferences,
    /// A difference of content is a change.
    pub tags: KindDifferences,
}

impl Differences {
    fn kinds(&self) -> [(&'static str, &KindDifferences); 3] {
        [("members", &self.members), ("departments", &self.departments), ("tags", &self.tags)]
    }

    /// The number of deletions, for `--allow-deletes`.
    pub(crate) fn deletions(&self) -> usize {
        self.kinds().iter().map(|(_, kind)| kind.missing.count).sum()
    }

    fn to_json(&self) -> Json {
        let kinds = self.kinds().into_iter().map(|(name, kind)| {
            let kind = json!({
                "create": kind.new.to_json(),
                "update": kind.changed.to_json(),
                "delete": kind.missing.to_json(),
            });
            (name.to_owned(), kind)
        });
        Json::Object(kinds.collect())
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The outcome, as `reconciles` records it.
    pub outcome: ReconcileOutcome,
    /// Number of members that WeCom listed.
    pub members_seen: usize,
    /// The changes that were made; none in a dry run.
    pub effect: Effect,
    /// The differences that were found.
    pub differences: Differences,
    pub notes: Vec<String>,
    /// Whether deletions wait until the clocks agree.
    pub deletions_held: bool,
}

impl Report {
    /// All notes, in one line.
    pub(crate) fn note(&self) -> String {
        self.notes.join("; ")
    }

    /// The output of `reconcile --json`.
    pub(crate) fn to_json(&self, dry_run: bool) -> Json {
        json!({
            "outcome": self.outcome.as_str(),
            "dry_run": dry_run,
            "members_seen": self.members_seen,
            "plan": self.differences.to_json(),
            "deletions": self.differences.deletions(),
            "done": {
                "created": self.effect.created,
                "updated": self.effect.updated,
                "deleted": self.effect.deleted,
            },
            "notes": self.notes,
        })
    }
}

/// The text of a report's JSON, for people.
pub(crate) fn in_words(report: &Json) -> String {
    let mut text = String::new();
    let number = |json: &Json, key: &str| json.get(key).and_then(Json::as_u64).unwrap_or(0);
    let dry = report.get("dry_run").and_then(Json::as_bool).unwrap_or(false);
    let _ = writeln!(text, "members listed by WeCom  {}", number(report, "members_seen"));
    let plan = report.get("plan").and_then(Json::as_object);
    for (kind, differences) in plan.into_iter().flatten() {
        for (what, named) in differences.as_object().into_iter().flatten() {
            let count = number(named, "count");
            if count == 0 {
                continue;
            }
            let names: Vec<&str> = named
                .get("names")
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
                .filter_map(Json::as_str)
                .collect();
            let more = count - u64::try_from(names.len()).unwrap_or(count);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let _ = writeln!(text, "{what} {kind:<12} {count:>7}  {}{more}", names.join(" "));
        }
    }
    for note in report.get("notes").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
        let _ = writeln!(text, "note: {note}");
    }
    let done = report.get("done").unwrap_or(&Json::Null);
    let outcome = report.get("outcome").and_then(Json::as_str).unwrap_or("");
    let _ = if dry {
        writeln!(text, "dry run: nothing was written")
    } else {
        writeln!(
            text,
            "{outcome}: {} created, {} updated, {} deleted",
            number(done, "created"),
            number(done, "updated"),
            number(done, "deleted")
        )
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_a_bounded_number_of_items() {
        let mut differences = Differences::default();
        for n in 0..1002 {
            differences.members.new.add(format!("u{n}"));
        }
        differences.tags.missing.add(7);
        let report = Report {
            outcome: ReconcileOutcome::Ok,
            members_seen: 5000,
            effect: Effect { created: 1002, updated: 0, deleted: 1 },
            differences,
            notes: vec!["names of departments are not shown".into()],
            deletions_held: false,
        };
        let text = in_words(&report.to_json(false));
        assert!(text.contains("create members         1002  u0 u1 "), "{text}");
        assert!(text.contains(" u999 and 2 more\n"), "{text}");
        assert!(text.contains("delete tags               1  7\n"), "{text}");
        assert!(
            text.ends_with(
                "note: names of departments are not shown\nok: 1002 created, 0 updated, 1 deleted\n"
            )
        );
        assert!(in_words(&report.to_json(true)).ends_with("nothing was written\n"));
    }
}
