//! The events that `send` makes, and their fields.

use clap::{Args, ValueEnum};

use crate::demo::sender::contact_event;
use crate::directory::UnixSeconds;
use crate::wecom::callback::xml::escape;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Message {
    /// The verification that the console sends when it saves the URL
    Verify,
    CreateUser,
    UpdateUser,
    DeleteUser,
    CreateParty,
    UpdateParty,
    DeleteParty,
    UpdateTag,
    /// The XML on standard input
    #[value(name = "-")]
    Stdin,
}

/// The fields of an event.
#[derive(Debug, Default, Args)]
pub(super) struct Fields {
    /// Member of create_user, update_user, delete_user
    #[arg(long)]
    userid: Option<String>,
    /// Its new userid (update_user)
    #[arg(long, value_name = "USERID")]
    new_userid: Option<String>,
    /// Name of the member or department of an event
    #[arg(long)]
    name: Option<String>,
    /// Departments of the event's member, separated by commas
    #[arg(long, value_name = "IDS")]
    department: Option<String>,
    /// Department or tag of an event
    #[arg(long)]
    id: Option<String>,
    /// Parent of the event's department
    #[arg(long, value_name = "ID")]
    parent_id: Option<String>,
    /// Members that the event's tag gains, separated by commas
    #[arg(long, value_name = "USERIDS")]
    add_users: Option<String>,
    /// Members that the event's tag loses
    #[arg(long, value_name = "USERIDS")]
    del_users: Option<String>,
    /// Departments that the event's tag gains
    #[arg(long, value_name = "IDS")]
    add_parties: Option<String>,
    /// Departments that the event's tag loses
    #[arg(long, value_name = "IDS")]
    del_parties: Option<String>,
    /// Any other element of an event, such as Mobile=13800000000
    #[arg(long = "field", value_name = "ELEMENT=VALUE", value_parser = element)]
    others: Vec<(String, String)>,
}

/// Elements of one kind of event; the first is required.
const MEMBER: &[(&str, &str)] =
    &[("userid", "UserID"), ("new-userid", "NewUserID"), ("name", "Name"), ("department", "Department")];
const PARTY: &[(&str, &str)] = &[("id", "Id"), ("name", "Name"), ("parent-id", "ParentId")];
const TAG: &[(&str, &str)] = &[
    ("id", "TagId"),
    ("add-users", "AddUserItems"),
    ("del-users", "DelUserItems"),
    ("add-parties", "AddPartyItems"),
    ("del-parties", "DelPartyItems"),
];

impl Message {
    /// As in the command line, and ChangeType of an event.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Option and element of each field; the first is required.
    fn elements(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Verify | Self::Stdin => &[],
            Self::CreateUser | Self::UpdateUser | Self::DeleteUser => MEMBER,
            Self::CreateParty | Self::UpdateParty | Self::DeleteParty => PARTY,
            Self::UpdateTag => TAG,
        }
    }
}

impl Fields {
    fn given(&self) -> Vec<(&'static str, &str)> {
        let Self { userid, new_userid, name, department, id, parent_id, .. } = self;
        let Self { add_users, del_users, add_parties, del_parties, .. } = self;
        let options = [
            ("userid", userid),
            ("new-userid", new_userid),
            ("name", name),
            ("department", department),
            ("id", id),
            ("parent-id", parent_id),
            ("add-users", add_users),
            ("del-users", del_users),
            ("add-parties", add_parties),
            ("del-parties", del_parties),
        ];
        options.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }

    /// Refuses options that the message does not have, and a missing required one.
    pub(super) fn check(&self, message: Message) -> Result<(), String> {
        let (given, elements) = (self.given(), message.elements());
        if let Some((option, _)) =
            given.iter().find(|(option, _)| elements.iter().all(|(name, _)| name != option))
        {
            return Err(format!("{} has no --{option}", message.name()));
        }
        match elements.first() {
            None if !self.others.is_empty() => Err(format!("{} has no --field", message.name())),
            Some((required, _)) if given.iter().all(|(option, _)| option != required) => {
                Err(format!("{} needs --{required}", message.name()))
            }
            _ => Ok(()),
        }
    }

    /// The event's XML; `message` is a change type.
    pub(super) fn xml(&self, message: Message, corp_id: &str, now: UnixSeconds) -> String {
        let given = self.given();
        let value = |option: &str| given.iter().find(|(name, _)| *name == option).map(|(_, value)| *value);
        let named =
            message.elements().iter().filter_map(|(option, element)| Some((*element, value(option)?)));
        let others = self.others.iter().map(|(element, value)| (element.as_str(), value.as_str()));
        let inner: String = named
            .chain(others)
            .map(|(element, value)| format!("<{element}>{}</{element}>", escape(value)))
            .collect();
        contact_event(corp_id, now.0, &message.name(), &inner)
    }
}

fn element(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("this is not ELEMENT=VALUE")?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then(|| (name.to_owned(), value.to_owned())).ok_or_else(|| "this is not ELEMENT=VALUE".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_given_fields_and_no_others() {
        let fields = Fields {
            userid: Some("a".into()),
            name: Some("<张三>".into()),
            others: vec![element("Mobile=1=2").unwrap()],
            ..Fields::default()
        };
        assert_eq!(fields.check(Message::CreateUser), Ok(()));
        let xml = fields.xml(Message::CreateUser, "ww1", UnixSeconds(5));
        let inner = "<UserID>a</UserID><Name>&lt;张三&gt;</Name><Mobile>1=2</Mobile></xml>";
        assert!(xml.ends_with(&format!("<ChangeType>create_user</ChangeType>{inner}")), "{xml}");
        assert_eq!(fields.check(Message::UpdateTag).unwrap_err(), "update_tag has no --userid");
        assert_eq!(fields.check(Message::Verify).unwrap_err(), "verify has no --userid");
        assert_eq!(Fields::default().check(Message::DeleteParty).unwrap_err(), "delete_party needs --id");
        for bad in ["Mobile", "=1", "a b=1", "<a>=1"] {
            assert!(element(bad).is_err(), "{bad}");
        }
    }
}
