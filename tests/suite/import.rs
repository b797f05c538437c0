//! `import-openids`: as facts, with clashes shown.

use crate::common::{Lab, Settings, now, text};

fn lab() -> Lab {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    for userid in ["a", "b", "c", "d", "e", "gone"] {
        lab.event(now() - 50, "create_user", &format!("<UserID>{userid}</UserID><Name>n</Name>"));
    }
    lab.event(now() - 40, "delete_user", "<UserID>gone</UserID>");
    lab
}

fn import(lab: &Lab, csv: &str, more: &[&str]) -> (Option<i32>, String) {
    let path = lab.folder.path().join("openids.csv");
    std::fs::write(&path, csv).unwrap();
    let output = lab.command(&[&["import-openids", path.to_str().unwrap()], more].concat());
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

const OPENIDS: &str =
    "SELECT group_concat(userid || coalesce(openid, '-')) FROM (SELECT * FROM members ORDER BY userid)";

#[test]
fn openids_are_imported_and_clashes_and_unknown_userids_are_shown() {
    let lab = lab();
    let csv = "\u{feff}UserID,OpenID\r\nA,o-1\r\n\"b\", o-2\r\nnobody,o-3\r\ngone,o-4\r\nc,o-1\r\n";
    let (code, said) = import(&lab, csv, &["--dry-run"]);
    assert_eq!(code, Some(1));
    let shown = ": no present member has this userid";
    for line in [
        format!("line 4: userid=nobody{shown}\n"),
        format!("line 5: userid=gone{shown}\n"),
        "line 6: userid=c: clash: openid=o-1 belongs to userid=A\n".to_owned(),
        "2 would be imported, 0 known already, 3 not imported\n".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}{said}");
    }
    assert_eq!(lab.value(OPENIDS), "a-,b-,c-,d-,e-,gone-", "a dry run changes nothing");
    let (_, said) = import(&lab, csv, &[]);
    assert!(said.contains("line 6: userid=c: clash: openid=o-1 belongs to userid=A"), "{said}");
    assert!(said.contains("2 imported, 0 known already, 3 not imported"), "{said}");
    assert_eq!(lab.value(OPENIDS), "ao-1,bo-2,c-,d-,e-,gone-");
    let (code, said) = import(&lab, "a,o-1\nb,o-9\n", &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("line 2: userid=b: clash: the member has openid=o-2"), "{said}");
    assert!(said.contains("0 imported, 1 known already, 1 not imported"), "{said}");
    assert_eq!(import(&lab, "c,o-5\n", &[]).0, Some(0));
    assert_eq!(lab.value("SELECT group_concat(action) FROM changes WHERE key = 'c'"), "created,openid");
    assert!(lab.command(&["check", "--database"]).status.success());
}

#[test]
fn a_file_that_is_wrong_anywhere_imports_nothing() {
    let lab = lab();
    for (csv, expected) in [
        ("a,o-1\nb\n", "line 2 has 1 columns; a line is userid,openid"),
        ("a,o-1\nb,o-2,x\n", "line 2 has 3 columns"),
        ("a,o-1\n_b,o-2\n", "line 2: \"_b\" is not a userid"),
        ("a,o-1\nb,\n", "line 2: this is no openid"),
        ("a,o-1\nb,张三\n", "line 2: this is no openid"),
        ("a;o-1\n", "line 1 has 1 columns"),
    ] {
        let (code, said) = import(&lab, csv, &[]);
        assert_eq!(code, Some(1), "{csv}");
        assert!(said.contains(expected) && said.contains("Nothing was imported"), "{csv}{said}");
        assert_eq!(lab.value(OPENIDS), "a-,b-,c-,d-,e-,gone-");
    }
    std::fs::write(lab.folder.path().join("gbk.csv"), b"a,o-1\n\xd5\xc5,o-2\n").unwrap();
    let output = lab.command(&["import-openids", lab.folder.path().join("gbk.csv").to_str().unwrap()]);
    assert!(text(&output.stderr).contains("is not UTF-8"), "{}", text(&output.stderr));
}

#[test]
fn late_events_move_and_remove_an_imported_openid_as_one_that_wecom_gave() {
    let lab = lab();
    assert_eq!(import(&lab, "a,o-a\nb,o-b\nc,o-c\n", &[]).0, Some(0));
    // Renamed later, re-created later; and the name changed hands before the import, which the import could not know.
    lab.event(now() + 1, "update_user", "<UserID>a</UserID><NewUserID>a2</NewUserID>");
    lab.event(now() + 1, "delete_user", "<UserID>b</UserID>");
    lab.event(now() + 2, "create_user", "<UserID>b</UserID>");
    lab.event(now() - 30, "delete_user", "<UserID>c</UserID>");
    lab.event(now() - 20, "create_user", "<UserID>c</UserID>");
    let openid = |userid: &str| {
        lab.value(&format!(
            "SELECT coalesce(openid, '-') FROM members WHERE userid = '{userid}' AND deleted_at IS NULL"
        ))
    };
    assert_eq!([openid("a2"), openid("b"), openid("c")], ["o-a", "-", "-"]);
    assert!(lab.command(&["check", "--database"]).status.success());
}
