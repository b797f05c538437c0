//! The result of one check, and the report of all. Pure.

use std::fmt::Write;

use serde::Serialize;

use crate::text::printable;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Ok,
    Warning,
    /// The only level with exit status 1.
    MustFix,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The stable name of the check, for scripts.
    pub(super) check: String,
    pub(super) level: Level,
    /// What was found, on what.
    pub(super) what: String,
    /// What to do; `None` where nothing is to be done.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: impl Into<String>, what: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Ok, what: what.into(), remedy: None }
    }

    pub(super) fn warning(
        check: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, remedy: Some(remedy.into()), ..Self::ok(check, what) }
    }

    pub(super) fn must_fix(
        check: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::MustFix, ..Self::warning(check, what, remedy) }
    }
}

/// One line for each finding, the remedy below it, and the numbers at the end.
pub(super) fn in_words(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, level, what, remedy } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::MustFix => "MUST FIX",
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{level:8}  {check:width$}  {}", printable(what));
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:8}  {:width$}  -> {}", "", "", printable(remedy));
        }
    }
    let _ = writeln!(
        text,
        "\n{} ok, {} warnings, {} must be fixed",
        count(findings, Level::Ok),
        count(findings, Level::Warning),
        count(findings, Level::MustFix)
    );
    text
}

pub(super) fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_its_finding_and_control_characters_are_escaped() {
        let findings = [
            Finding::ok("disk", "5 GiB are free"),
            Finding::must_fix("url.response", "HTTP status 404\u{1b}[31m", "add a location"),
        ];
        let expected = "ok        disk          5 GiB are free\n\
                        MUST FIX  url.response  HTTP status 404\\u{1b}[31m\n\
                        \x20                       -> add a location\n\
                        \n1 ok, 0 warnings, 1 must be fixed\n";
        assert_eq!(in_words(&findings), expected);
        assert_eq!(serde_json::to_value(Level::MustFix).unwrap(), "must_fix");
    }
}
