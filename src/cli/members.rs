//! `members`: a table of members, by state, department and name.

use std::path::Path;

use clap::Args;

use super::table::Table;
use super::{ConfigFile, Failure, load, print};
use crate::store::member_list::{Filter, Listed, departments, members as list};
use crate::store::{Connection, open_reader};
use crate::text::printable;

/// Bytes that are collected before they are printed.
const CHUNK: usize = 64 * 1024;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Only members without an openid yet, and why
    #[arg(long, group = "state")]
    pending: bool,
    /// Only members that WeCom refuses to convert for good, and why
    #[arg(long, group = "state")]
    failed: bool,
    /// Departed members, as long as their rows are stored
    #[arg(long, group = "state", conflicts_with = "department")]
    departed: bool,
    /// Only members of this department and those below it: a path such as 研发部/后端 or its end, or #ID
    #[arg(long, value_name = "PATH")]
    department: Option<String>,
    /// Only members whose userid, name or alias contains this
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Arguments {
    fn listed(&self) -> Listed {
        match (self.pending, self.failed, self.departed) {
            (true, ..) => Listed::Pending,
            (_, true, _) => Listed::Failed,
            (.., true) => Listed::Departed,
            _ => Listed::Present,
        }
    }
}

pub(super) fn members(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(arguments.config.config.as_deref())?;
    print_list(arguments, &config.database.path)
}

fn print_list(arguments: &Arguments, database: &Path) -> Result<(), Failure> {
    let connection = open_reader(database)?;
    // Both passes see the same rows.
    connection.hold_snapshot()?;
    let department = arguments.department.as_deref().map(|path| department(&connection, path)).transpose()?;
    let (listed, filter) = (arguments.listed(), Filter { department, name: arguments.name.as_deref() });
    let mut table = Table::default();
    let mut count = 0_usize;
    list(&connection, listed, filter, |row| {
        table.measure(&row);
        count += 1;
    })?;
    // The first row has the names of the columns.
    let count = count.saturating_sub(1);
    if count == 0 {
        return print("no members\n");
    }
    let mut text = String::new();
    let mut printed = Ok(());
    list(&connection, listed, filter, |row| {
        text.push_str(&table.line(&row));
        text.push('\n');
        if text.len() > CHUNK && printed.is_ok() {
            printed = print(&text);
            text.clear();
        }
    })?;
    printed?;
    let members = if count == 1 { "member" } else { "members" };
    print(&format!("{text}{count} {members}\n"))
}

fn department(connection: &Connection, path: &str) -> Result<i64, Failure> {
    let found = departments(connection, path)?;
    let name = |(id, path): &(i64, String)| format!("{path} (#{id})");
    let shown = printable(path);
    match &*found {
        [(id, _)] => Ok(*id),
        [] => Err(Failure::Other(format!(
            "{shown}: no department has this path; `select path from department_tree` lists all"
        ))),
        several => {
            let names: Vec<_> = several.iter().take(10).map(name).collect();
            let what = format!("{shown}: {} departments, name one by path or #ID: ", several.len());
            Err(Failure::Other(what + &names.join(", ")))
        }
    }
}
