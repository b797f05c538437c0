//! The lists of words that the schema's CHECKs allow are those of the program's enums.

use std::collections::BTreeMap;

use wecom_dirsync::directory::diff::{Action, Entity};
use wecom_dirsync::directory::openid::OpenidState;
use wecom_dirsync::store::EventOutcome;
use wecom_dirsync::store::open::open_in_memory;
use wecom_dirsync::store::queries::table;
use wecom_dirsync::store::reconciles::ReconcileOutcome;

/// `CHECK (column IN ('a', 'b'))` of a fresh database: table and column, and the words.
fn lists() -> BTreeMap<String, Vec<String>> {
    let db = open_in_memory().unwrap();
    let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table'";
    let mut lists = BTreeMap::new();
    for row in table(&db, sql).unwrap() {
        let [table, sql] = row.try_into().unwrap();
        for check in sql.split("CHECK (").skip(1) {
            let Some((column, rest)) = check.split_once(" IN ('") else { continue };
            if !column.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                continue;
            }
            let words = rest.split_once("')").unwrap().0.split("', '").map(str::to_owned);
            lists.insert(format!("{table}.{column}"), words.collect::<Vec<_>>());
        }
    }
    lists
}

const ENTITIES: [Entity; 3] = [Entity::Member, Entity::Department, Entity::Tag];
const ACTIONS: [Action; 5] =
    [Action::Created, Action::Updated, Action::Renamed, Action::Deleted, Action::Openid];

/// Does not compile while a variant is missing here; it belongs in the lists above, too.
fn is_listed(entity: Entity, action: Action) -> bool {
    match entity {
        Entity::Member | Entity::Department | Entity::Tag => {}
    }
    match action {
        Action::Created | Action::Updated | Action::Renamed | Action::Deleted | Action::Openid => {}
    }
    ENTITIES.contains(&entity) && ACTIONS.contains(&action)
}

#[test]
fn every_list_of_words_in_the_schema_is_that_of_its_enum() {
    assert!(ENTITIES.iter().all(|entity| ACTIONS.iter().all(|action| is_listed(*entity, *action))));
    let kinds = || ENTITIES.map(Entity::as_str).to_vec();
    let expected: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("members.openid_state", OpenidState::ALL.map(OpenidState::as_str).to_vec()),
        // No enum: only SQL reads and writes it.
        ("members.details_state", vec!["known", "due", "denied"]),
        ("events.outcome", EventOutcome::ALL.map(EventOutcome::as_str).to_vec()),
        ("changes.entity", kinds()),
        ("changes.action", ACTIONS.map(Action::as_str).to_vec()),
        ("reconciles.outcome", ReconcileOutcome::ALL.map(ReconcileOutcome::as_str).to_vec()),
        ("listings.kind", kinds()),
    ]);
    let found = lists();
    let found: BTreeMap<&str, Vec<&str>> = found
        .iter()
        .map(|(column, words)| (column.as_str(), words.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(found, expected);
}
