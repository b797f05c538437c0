//! The messages of the control socket: one request and any number of responses, each a line of JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::daemon::reconciler::ReconcileRequest;
use crate::store::state::{PauseState, ReconcileProgress};

/// The only line that a client sends on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Look for due conversions now. Answered with [`Response::Done`].
    Retry,
    /// Compare. Answered with [`Response::Accepted`], any number of [`Response::Progress`] and one
    /// [`Response::Report`].
    Reconcile(ReconcileRequest),
    /// List the pauses in force. Answered with [`Response::Pauses`].
    Pauses,
    /// Report the log level, or set it until the next restart. Answered with [`Response::LogLevel`].
    LogLevel {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        #[serde(default)]
        set: Option<String>,
    },
    /// Subscribe to changes. Answered with [`Response::Changes`] at once and after each commit with changes.
    Changes,
}

impl Request {
    /// Whether only root and the daemon's user may send it.
    pub(super) fn is_privileged(&self) -> bool {
        match self {
            Self::Retry | Self::Reconcile(_) | Self::LogLevel { set: Some(_) } => true,
            Self::Pauses | Self::LogLevel { set: None } | Self::Changes => false,
        }
    }
}

/// A line that the daemon sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// The request was carried out.
    Done,
    /// The comparison waits for its turn.
    Accepted,
    /// The progress of the comparison that runs now, which may be one before the requested one.
    Progress(ReconcileProgress),
    /// The report of the requested comparison, as `reconcile --json` prints it.
    Report(Json),
    Pauses(Vec<PauseState>),
    /// The log level in force.
    LogLevel(String),
    /// Changes were committed; the number of the last one, 0 on subscription.
    Changes(i64),
    /// The request failed; for people.
    Error(String),
}
