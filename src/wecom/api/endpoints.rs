//! The APIs that the client calls, and the secrets that it calls them with.

macro_rules! apis {
    ($($(#[$doc:meta])* $variant:ident $path:literal,)*) => {
        /// An API of WeCom that the client calls.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Api { $($(#[$doc])* $variant,)* }

        impl Api {
            /// The path below `/cgi-bin/`, such as `user/get`.
            #[must_use]
            pub fn path(self) -> &'static str {
                match self { $(Self::$variant => $path,)* }
            }

            /// Inverse of [`Api::path`]; `None` for other paths.
            #[must_use]
            pub fn of_path(path: &str) -> Option<Self> {
                match path { $($path => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

apis! {
    /// doc 91039
    GetToken "gettoken",
    /// doc 90202
    ConvertToOpenid "user/convert_to_openid",
    /// doc 90196
    UserGet "user/get",
    /// doc 96067
    UserListId "user/list_id",
    /// doc 95350
    DepartmentSimpleList "department/simplelist",
    /// doc 90208
    DepartmentList "department/list",
    /// doc 95351
    DepartmentGet "department/get",
    /// doc 90216
    TagList "tag/list",
    /// doc 90213
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
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::App => "app_secret",
            Self::Contacts => "contacts_secret",
        }
    }
}
