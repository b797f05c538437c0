//! The APIs that the client calls, and the secrets that it calls them with.

macro_rules! apis {
    ($($(#[$doc:meta])* $variant:ident $path:literal,)*) => {
        /// An API of WeCom that the client calls.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Api { $($(#[$doc])* $variant,)* }

        impl Api {
            /// The path below `/cgi-bin/`, such as `user/get`.
            pub fn path(self) -> &'static str {
                match self { $(Self::$variant => $path,)* }
            }

            /// Inverse of [`Api::path`]; `None` for other paths.
            pub fn of_path(path: &str) -> Option<Self> {
                match path { $($path => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

apis! {
    /// Issues an access_token for a secret (doc 91039).
    GetToken "gettoken",
    /// Converts a userid to an openid (doc 90202).
    ConvertToOpenid "user/convert_to_openid",
    /// Returns the fields of one member (doc 90196).
    UserGet "user/get",
    /// Lists the userids of all members, in pages (doc 96067).
    UserListId "user/list_id",
    /// Lists all departments without names (doc 95350).
    DepartmentSimpleList "department/simplelist",
    /// Lists the visible departments with their names (doc 90208).
    DepartmentList "department/list",
    /// Returns one department with its name (doc 95351).
    DepartmentGet "department/get",
    /// Lists the visible tags with their names (doc 90216).
    TagList "tag/list",
    /// Lists the members and departments of one tag (doc 90213).
    TagGet "tag/get",
}

/// The configured secret that a call uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// app_secret, of an app whose visible range covers the members.
    App,
    /// contacts_secret, of contacts sync (通讯录同步).
    Contacts,
}

impl SecretKind {
    /// Its key in the section `[wecom]`.
    pub fn key(self) -> &'static str {
        match self {
            Self::App => "app_secret",
            Self::Contacts => "contacts_secret",
        }
    }
}
