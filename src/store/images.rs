//! The rows of one entity as one map, to compare what the tables hold with what the facts say.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::Result;
use super::connection::{Column, Connection, Row, values};
use super::departments::NumberedTable;
use super::members::columns;
use crate::directory::entity::EntityState;
use crate::directory::fields::FieldKind;
use crate::directory::members::Member;
use crate::directory::{Field, MemberField, UserId, Value, column_form};

/// Fields by name, in the form of the change feed; unknown values and empty lists are absent.
pub(super) type Image = BTreeMap<&'static str, Json>;

/// A row of the tables, and the tags that hold the entity.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Stored {
    /// `None` if there is no row.
    pub(super) row: Option<Image>,
    /// Numbers of the tags.
    pub(super) tags: Vec<u32>,
}

pub(super) const USERID: &str = "userid";
pub(super) const OPENID: &str = "openid";
pub(super) const DELETED_AT: &str = "deleted_at";
pub(super) const EVENT_TIME: &str = "event_time";

impl Stored {
    /// What the facts say of a member; of a name without a member, `None`.
    pub(super) fn expected_member(member: Option<&Member>) -> Self {
        let Some(member) = member else { return Self::default() };
        let row = member.state.known.then(|| {
            let mut image = image_of(&member.state);
            image.insert(USERID, json!(member.userid.as_str()));
            image.extend(member.openid().map(|openid| (OPENID, json!(openid))));
            with_stored_lists(image)
        });
        Self { row, tags: member.state.tags_now().map(|tag| tag.0).collect() }
    }

    /// What the facts say of a department or tag.
    pub(super) fn expected<F: Field>(state: &EntityState<F>) -> Self {
        let row = state.known.then(|| image_of(state));
        Self { row, tags: state.tags_now().map(|tag| tag.0).collect() }
    }

    /// What the tables hold of a member.
    pub(super) fn member(connection: &Connection, userid: &UserId) -> Result<Self> {
        let row = connection.row("SELECT name, alias, mobile, telephone, email, biz_mail, position, gender, status, avatar, address,
                        main_department, direct_leader, ext_attr, userid, openid, deleted_at, event_time
                 FROM members WHERE userid = ?1", values![userid.as_str()], |row| {
                read(row, columns(), &[USERID, OPENID, DELETED_AT, EVENT_TIME])
            })?;
        let Some(mut image) = row else { return Ok(Self { row: None, tags: tags_of(connection, userid)? }) };
        let departments: Vec<(i64, bool)> = connection.rows(
            "SELECT department_id, is_leader FROM member_departments WHERE userid = ?1 ORDER BY position",
            values![userid.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let led = departments.iter().filter(|(_, is_led)| *is_led);
        insert_list(&mut image, MemberField::LeaderOf, led.map(|(id, _)| *id).collect());
        insert_list(&mut image, MemberField::Department, departments.iter().map(|(id, _)| *id).collect());
        Ok(Self { row: Some(image), tags: tags_of(connection, userid)? })
    }

    /// What the tables hold of a department or tag.
    pub(super) fn numbered<F: NumberedTable>(connection: &Connection, id: u32) -> Result<Self> {
        let row = connection.row(F::SELECT_ROW, values![id], |row| {
            read(row, F::ALL.iter().copied(), &[DELETED_AT, EVENT_TIME])
        })?;
        let Some(select) = F::SELECT_TAGS else { return Ok(Self { row, tags: Vec::new() }) };
        let tags = connection.rows(select, values![id], |row| row.get(0))?;
        Ok(Self { row, tags })
    }

    /// Whether there is a row of a present entity.
    pub(super) fn is_present(&self) -> bool {
        self.row.as_ref().is_some_and(|row| !row.contains_key(DELETED_AT))
    }

    /// The names of the fields in which the two differ.
    pub(super) fn differs_in(&self, expected: &Self) -> Vec<&'static str> {
        let mut names = match (&self.row, &expected.row) {
            (None, None) => Vec::new(),
            (Some(_), None) => vec!["a row without a fact"],
            (None, Some(_)) => vec!["no row"],
            (Some(row), Some(expected)) => {
                difference(row, expected).into_iter().map(|(name, _)| name).collect()
            }
        };
        if self.tags != expected.tags {
            names.push("tags");
        }
        names
    }
}

/// The fields that differ, with `[stored, expected]`.
pub(super) fn difference(stored: &Image, expected: &Image) -> Vec<(&'static str, Json)> {
    let names: std::collections::BTreeSet<_> = stored.keys().chain(expected.keys()).collect();
    let both = |name: &&'static str| json!([stored.get(*name), expected.get(*name)]);
    let differs = |name: &&&'static str| stored.get(**name) != expected.get(**name);
    names.into_iter().filter(differs).map(|name| (*name, both(name))).collect()
}

/// Lines of the change feed name all fields but the time of the newest fact.
pub(super) fn fields_of(differences: Vec<(&'static str, Json)>) -> Map<String, Json> {
    let shown = differences.into_iter().filter(|(name, _)| *name != EVENT_TIME);
    shown.map(|(name, both)| (name.to_owned(), both)).collect()
}

fn image_of<F: Field>(state: &EntityState<F>) -> Image {
    let fields =
        state.fields.iter().map(|(field, (_, value))| (field.name(), column_form(field.kind(), Some(value))));
    let mut image: Image = fields.filter(|(_, value)| !is_nothing(value)).collect();
    image.extend(state.deleted.map(|stamp| (DELETED_AT, json!(stamp.second.0))));
    image.insert(EVENT_TIME, json!(state.event_time().0));
    image
}

/// Lists as `member_departments` keeps them: none for a deleted member, no repetition, and only departments of the
/// member are led.
pub(super) fn with_stored_lists(mut image: Image) -> Image {
    let ids = |image: &mut Image, field: MemberField| -> Vec<i64> {
        let list = image.remove(field.name());
        list.iter().flat_map(|list| list.as_array().into_iter().flatten()).filter_map(Json::as_i64).collect()
    };
    let (departments, led) =
        (ids(&mut image, MemberField::Department), ids(&mut image, MemberField::LeaderOf));
    if !image.contains_key(DELETED_AT) {
        let mut unique: Vec<i64> = Vec::new();
        departments.into_iter().for_each(|id| {
            if !unique.contains(&id) {
                unique.push(id)
            }
        });
        insert_list(
            &mut image,
            MemberField::LeaderOf,
            unique.iter().copied().filter(|id| led.contains(id)).collect(),
        );
        insert_list(&mut image, MemberField::Department, unique);
    }
    image
}

fn insert_list(image: &mut Image, field: MemberField, ids: Vec<i64>) {
    if !ids.is_empty() {
        image.insert(field.name(), json!(ids));
    }
}

fn is_nothing(value: &Json) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn read<F: Field>(row: &Row<'_>, fields: impl Iterator<Item = F>, others: &[&'static str]) -> Result<Image> {
    let columns = fields.map(|field| (field.name(), field.kind() == FieldKind::Attrs));
    let columns = columns.chain(others.iter().map(|name| (*name, false)));
    let mut image = Image::new();
    for (place, (name, is_json)) in columns.enumerate() {
        let value = match row.column(place)? {
            Column::Int(number) => json!(number),
            Column::Text(text) if is_json => serde_json::from_str(&text).unwrap_or(Json::Null),
            Column::Text(text) => json!(text),
            // CHECKs of the schema allow nothing else.
            Column::Null | Column::Real(_) | Column::Bytes => Json::Null,
        };
        if !is_nothing(&value) {
            image.insert(name, value);
        }
    }
    Ok(image)
}

fn tags_of(connection: &Connection, userid: &UserId) -> Result<Vec<u32>> {
    connection.rows(
        "SELECT tag_id FROM tag_members WHERE userid = ?1 ORDER BY tag_id",
        values![userid.as_str()],
        |row| row.get(0),
    )
}

/// The fields of a row as an answer of WeCom would give them, for facts that replace lost ones.
pub(super) fn fields_of_row<F: Field>(row: &Image) -> crate::directory::Fields<F> {
    let value = |field: F, json: &Json| -> Option<Value> {
        Some(match field.kind() {
            FieldKind::Text => Value::text(json.as_str()?),
            FieldKind::Int => Value::Int(json.as_i64()?),
            FieldKind::Attrs => Value::Attrs(json.clone()),
            FieldKind::Ids | FieldKind::Leads => {
                let ids = json.as_array()?.iter().filter_map(|id| u32::try_from(id.as_i64()?).ok());
                Value::Ids(ids.collect())
            }
        })
    };
    F::ALL.iter().filter_map(|field| Some((*field, value(*field, row.get(field.name())?)?))).collect()
}
