//! `members` and `retry`: which members are listed, how, and why.

use crate::common::{Lab, now, text};

/// 总公司 with 研发部/后端 and 市场部/后端; four members, one of each state.
fn company() -> Lab {
    let lab = Lab::plain();
    for (id, name, parent) in
        [(1, "总公司", 0), (2, "研发部", 1), (3, "后端", 2), (4, "市场部", 1), (5, "后端", 4)]
    {
        let inner = format!("<Id>{id}</Id><Name>{name}</Name><ParentId>{parent}</ParentId>");
        lab.event(now(), "create_party", &inner);
    }
    lab.stand_in.company(|company| {
        company.hire("zhangsan");
        company.sign_in("zhangsan", "oDjGHs-1yCnGrRovBj2yHij5JAAA");
        company.hire("li_si");
        // WeCom does not know ghost, so it refuses for good.
        company.hire("gone");
    });
    for (userid, name, department, more) in [
        ("zhangsan", "张三", 3, "<Status>1</Status>"),
        ("li_si", "李四（Li\u{1b}）", 5, "<Alias>Leslie</Alias>"),
        ("ghost", "王五", 2, ""),
        ("gone", "赵六", 2, ""),
    ] {
        let inner = format!(
            "<UserID>{userid}</UserID><Name>{name}</Name><Department>{department}</Department>{more}"
        );
        lab.event(now(), "create_user", &inner);
    }
    lab.event(now() + 1, "delete_user", "<UserID>gone</UserID>");
    lab.wait_for("SELECT openid_state FROM members WHERE userid = 'zhangsan'", "converted");
    lab.wait_for("SELECT openid_errcode FROM members WHERE userid = 'li_si'", "43004");
    lab.wait_for("SELECT openid_state FROM members WHERE userid = 'ghost'", "failed");
    lab
}

fn members(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.command(&[&["members"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(&output.stdout)
}

/// The userids in the order of the table.
fn userids(table: &str) -> Vec<&str> {
    let lines: Vec<_> = table.lines().collect();
    let rows = lines.get(1..lines.len() - 1).unwrap_or_default();
    rows.iter().map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn each_list_has_its_members_with_the_reason() {
    let lab = company();
    let all = members(&lab, &[]);
    assert_eq!(userids(&all), ["ghost", "li_si", "zhangsan"]);
    assert!(all.ends_with("\n3 members\n") && all.contains("oDjGHs-1yCnGrRovBj2yHij5JAAA"), "{all}");
    for (arguments, userid, part) in [
        (&["--pending"][..], "li_si", "has not signed in to WeCom or followed it in WeChat yet (43004)"),
        (&["--failed"], "ghost", "WeCom does not know this userid (60111)"),
        (&["--departed"], "gone", "赵六"),
        (&["--department", "研发部"], "", ""),
        (&["--department", "总公司/研发部/后端"], "zhangsan", "activated"),
        (&["--department", "研发部/后端/"], "zhangsan", "后端"),
        (&["--department", "#4"], "li_si", "后端"),
        (&["张"], "zhangsan", "张三"),
        (&["ZHANG"], "zhangsan", "张三"),
        (&["leslie"], "li_si", "李四"),
        (&["i_s"], "li_si", "李四"),
        (&["--pending", "--department", "总公司"], "li_si", "43004"),
    ] {
        let table = members(&lab, arguments);
        let expected = if userid.is_empty() { vec!["ghost", "zhangsan"] } else { vec![userid] };
        assert_eq!(userids(&table), expected, "{arguments:?}: {table}");
        assert!(table.contains(part), "{arguments:?}: {table}");
    }
    for arguments in [&["--failed", "张三"][..], &["%"], &["--pending", "--department", "研发部"]] {
        assert_eq!(members(&lab, arguments), "no members\n");
    }
}

#[test]
fn columns_align_under_chinese_and_no_control_character_is_printed() {
    use unicode_width::UnicodeWidthStr;
    let lab = company();
    let table = members(&lab, &[]);
    let place = |line: &str, cell: &str| line.find(cell).map(|at| line[..at].width());
    let lines: Vec<_> = table.lines().collect();
    let column = place(lines[0], "departments").unwrap();
    assert_eq!(place(lines[1], "研发部"), Some(column), "{table}");
    assert_eq!(place(lines[2], "后端"), Some(column), "{table}");
    assert_eq!(place(lines[3], "后端"), Some(column), "{table}");
    assert!(table.contains("\\u{fffd}") || !table.contains('\u{1b}'), "{table:?}");
}

#[test]
fn a_department_that_is_unknown_or_ambiguous_is_an_error() {
    let lab = company();
    for (path, expected) in [
        ("财务部", "财务部: no department has this path"),
        ("发部", "发部: no department has this path"),
        ("#9", "#9: no department has this path"),
        ("后端", "总公司/市场部/后端 (#5), 总公司/研发部/后端 (#3)"),
    ] {
        let output = lab.command(&["members", "--department", path]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
    for arguments in [&["--pending", "--failed"][..], &["--departed", "--department", "研发部"]] {
        let output = lab.command(&[&["members"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn retry_prints_a_line_with_the_reason_for_each_userid() {
    let lab = company();
    lab.event(now() + 1, "update_user", "<UserID>ghost</UserID><NewUserID>spirit</NewUserID>");
    lab.wait_for("SELECT openid_state FROM members WHERE userid = 'spirit'", "failed");
    let output = lab.command(&["retry", "zhangsan", "li_si", "ghost", "spirit", "gone", "nobody"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stdout);
    let lines: Vec<_> = shown.lines().collect();
    for (line, expected) in lines.iter().zip([
        "zhangsan  has an openid already",
        "li_si  due now; before: has not signed in to WeCom or followed it in WeChat yet (43004)",
        "ghost  renamed: use spirit",
        "spirit  due now; before: WeCom does not know this userid (60111)",
        "gone  departed 20",
        "nobody  no such member in the directory",
        "2 due now; the daemon tries them now",
    ]) {
        assert!(line.starts_with(expected), "{expected}: {shown}");
    }
    assert_eq!(lines.len(), 7, "{shown}");
    let error = text(&output.stderr);
    assert!(error.contains("not due, for the reasons above: zhangsan, ghost, gone, nobody"), "{error}");
}
