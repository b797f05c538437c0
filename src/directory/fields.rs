//! The fields of members and departments, and their values.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// The type of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// Text; empty if WeCom sent an empty value.
    Text,
    /// A 64-bit integer, as SQLite stores it.
    Int,
    /// A list of department ids, in WeCom's order.
    Ids,
    /// The member's departments that the member leads.
    Leads,
    /// Self-defined attributes, in the form of the API's `extattr.attrs`.
    Attrs,
}

/// A field's value. [`FieldKind`] determines the variant; [`Value::Cleared`] is valid for all kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// WeCom sent an empty value: an empty element, not an absent one.
    Cleared,
    /// Text in its normal form, not empty.
    Text(String),
    /// For [`FieldKind::Int`] only: an integer.
    Int(i64),
    /// Department ids in order. For [`FieldKind::Leads`]: the departments that are led.
    Ids(Vec<u32>),
    /// For [`FieldKind::Leads`] only: 0/1 in the order of the member's departments at that time.
    Flags(Vec<bool>),
    /// For [`FieldKind::Attrs`] only: a JSON array.
    Attrs(Json),
}

/// A field of one kind of entity.
pub trait Field: Copy + Ord + std::fmt::Debug + 'static {
    /// All fields, in the order of the schema's columns.
    const ALL: &'static [Self];
    /// The name in the database and in the change feed.
    fn name(self) -> &'static str;
    /// The type of the field's values.
    fn kind(self) -> FieldKind;

    /// Finds a field by its [`Field::name`].
    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }
}

macro_rules! fields {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident $name:literal $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum $type { $($(#[$vdoc])* $variant,)* }
        impl Field for $type {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            fn kind(self) -> FieldKind { match self { $(Self::$variant => FieldKind::$kind,)* } }
        }
    };
}

fields! {
    /// A member's fields (doc 90970). The departments are one field, a list.
    MemberField {
        Name "name" Text,
        Alias "alias" Text,
        Mobile "mobile" Text,
        Telephone "telephone" Text,
        Email "email" Text,
        BizMail "biz_mail" Text,
        Position "position" Text,
        /// 0: unknown, 1: male, 2: female.
        Gender "gender" Int,
        /// 1: activated, 2: disabled, 4: not activated, 5: left the company.
        Status "status" Int,
        Avatar "avatar" Text,
        Address "address" Text,
        MainDepartment "main_department" Int,
        /// Userids of the direct leaders, separated by commas.
        DirectLeader "direct_leader" Text,
        ExtAttr "ext_attr" Attrs,
        Department "department" Ids,
        /// The departments in `department` that the member leads.
        LeaderOf "leader_of" Leads,
    }
}

fields! {
    /// A department's fields (doc 90974).
    DepartmentField {
        Name "name" Text,
        ParentId "parent_id" Int,
        /// Position within the parent department (在父部门中的次序); larger values come first.
        Order "order" Int,
    }
}

fields! {
    /// A tag's fields (doc 90976). Events carry none; only the API shows the name.
    TagField {
        Name "name" Text,
    }
}

/// Fields and their values. A field that is not in the map is unchanged.
pub type Fields<F> = BTreeMap<F, Value>;

impl Value {
    /// Text in its [normal form](super::text); [`Value::Cleared`] if that is empty.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let text = super::text::normal(text);
        if text.is_empty() { Self::Cleared } else { Self::Text(text.into_owned()) }
    }

    /// The form in the change feed and in the tables of facts.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Cleared => Json::Null,
            Self::Text(text) => Json::from(text.as_str()),
            Self::Int(number) => Json::from(*number),
            Self::Ids(ids) => Json::from(ids.as_slice()),
            Self::Flags(flags) => Json::from(flags.as_slice()),
            Self::Attrs(attrs) => attrs.clone(),
        }
    }

    /// Reads the output of [`Value::to_json`]; `None` if the JSON does not match the kind.
    #[must_use]
    pub fn from_json(kind: FieldKind, json: &Json) -> Option<Self> {
        if json.is_null() {
            return Some(Self::Cleared);
        }
        match kind {
            FieldKind::Text => json.as_str().map(Self::text),
            FieldKind::Int => json.as_i64().map(Self::Int),
            FieldKind::Ids => ids(json).map(Self::Ids),
            FieldKind::Leads => ids(json).map(Self::Ids).or_else(|| {
                let flags = json.as_array()?.iter().map(Json::as_bool);
                flags.collect::<Option<Vec<_>>>().map(Self::Flags)
            }),
            FieldKind::Attrs => json.is_array().then(|| Self::Attrs(json.clone())),
        }
    }
}

fn ids(json: &Json) -> Option<Vec<u32>> {
    let numbers = json.as_array()?.iter();
    numbers.map(|n| u32::try_from(n.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_survive_their_json_form() {
        let values = [
            (FieldKind::Text, Value::Text("张三".into())),
            (FieldKind::Text, Value::Cleared),
            (FieldKind::Int, Value::Int(-1)),
            (FieldKind::Ids, Value::Ids(vec![1, u32::MAX])),
            (FieldKind::Ids, Value::Ids(vec![])),
            (FieldKind::Leads, Value::Flags(vec![true, false])),
            (FieldKind::Leads, Value::Ids(vec![7])),
            (FieldKind::Attrs, Value::Attrs(json!([{"name": "工号"}]))),
        ];
        for (kind, value) in values {
            assert_eq!(Value::from_json(kind, &value.to_json()), Some(value));
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused() {
        assert_eq!(Value::from_json(FieldKind::Int, &json!("1")), None);
        assert_eq!(Value::from_json(FieldKind::Ids, &json!([-1])), None);
        assert_eq!(Value::from_json(FieldKind::Attrs, &json!({})), None);
    }

    #[test]
    fn every_field_is_found_by_its_name() {
        for field in MemberField::ALL {
            assert_eq!(MemberField::by_name(field.name()), Some(*field));
        }
    }
}
