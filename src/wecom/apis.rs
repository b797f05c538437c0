//! The names of what is called, and with which secret.

/// An API that this program calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// gettoken (doc 91039)
    GetToken,
    /// user/convert_to_openid (doc 90202)
    ConvertToOpenid,
    /// user/get (doc 90196)
    UserGet,
    /// user/list_id (doc 96067)
    UserListId,
}

impl Api {
    /// The path below `/cgi-bin/`.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::GetToken => "gettoken",
            Self::ConvertToOpenid => "user/convert_to_openid",
            Self::UserGet => "user/get",
            Self::UserListId => "user/list_id",
        }
    }
}

/// Which of the configured secrets a call is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// app_secret: of an app whose visible range covers the members.
    App,
    /// contacts_secret: of contacts sync (通讯录同步).
    Contacts,
}

impl SecretKind {
    /// The configuration's key.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::App => "app_secret",
            Self::Contacts => "contacts_secret",
        }
    }
}
