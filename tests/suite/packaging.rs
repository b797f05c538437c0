//! What the packages promise, as far as their sources show it; the scripts in `packaging/test/` try the packages.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use sha1::{Digest, Sha1};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_packaged_settings_are_those_of_version_0_1_0_so_that_dpkg_does_not_ask() {
    let digest: String =
        Sha1::digest(read("packaging/sync.ini")).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        digest, "963fe1decfb74944d437b95724167a244e749619",
        "packaging/sync.ini changed: every administrator would be asked; document keys in wecom-dirsync.ini(5)"
    );
}

#[test]
fn the_packaged_settings_lack_only_what_the_console_has() {
    let folder = tempfile::tempdir().unwrap();
    let ini = folder.path().join("sync.ini");
    let check = |text: &str| {
        std::fs::write(&ini, text).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_wecom-dirsync")).arg("check").arg("-c").arg(&ini).output();
        let output = output.unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let packaged = read("packaging/sync.ini");
    let (_, errors) = check(&packaged);
    let errors: Vec<&str> = errors.lines().collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, key) in
        errors.iter().zip(["[wecom] corp_id", "[callback] token", "[callback] encoding_aes_key"])
    {
        assert!(error.contains(&format!("{key} is missing")), "{errors:?}");
    }
    let filled = packaged
        .replace("# corp_id =", "corp_id = wx5823bf96d3bd56c7")
        .replace("# token =", "token = QDG6eK")
        .replace("# encoding_aes_key =", "encoding_aes_key = jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C");
    let (effective, _) = check(&filled);
    assert!(effective.contains("path = /var/lib/wecom-dirsync/directory.db\nmode = 0640\n"), "{effective}");
}

/// The files that a list of Cargo.toml names.
fn sources(list: &str) -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let table = manifest.split(&format!("\n[package.metadata.{list}]\n")).nth(1).unwrap();
    let assets = table.split("\nassets = [\n").nth(1).unwrap().split("\n]\n").next().unwrap();
    assets.lines().map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn both_packages_have_the_same_files() {
    let (deb, mut rpm) = (sources("deb"), sources("generate-rpm"));
    // cargo-deb writes `copyright` by itself.
    assert!(rpm.remove("LICENSE"));
    assert_eq!(deb, rpm);
    assert!(deb.len() > 15, "{deb:?}");
}

#[test]
fn the_version_is_in_both_changelogs() {
    assert!(read("CHANGELOG.md").contains(&format!("\n## [{VERSION}] - ")));
    assert!(read("packaging/deb/changelog").starts_with(&format!("wecom-dirsync ({VERSION}-1) ")));
}

#[test]
fn the_readmes_name_every_build_script_and_its_package() {
    for readme in ["README.md", "README.zh-CN.md"] {
        let text = read(readme);
        for script in ["packaging/build-deb", "packaging/build-rpm", "packaging/build-tarball"] {
            let is_named = text.lines().any(|line| line.starts_with(' ') && line.trim() == script);
            assert!(is_named, "{readme}: {script}");
        }
        for package in [
            format!("wecom-dirsync_{VERSION}-1_amd64.deb"),
            format!("wecom-dirsync-{VERSION}-1.x86_64.rpm"),
            format!("wecom-dirsync-{VERSION}-x86_64-unknown-linux-gnu.tar.gz"),
        ] {
            assert!(text.contains(&package), "{readme}: {package}");
        }
    }
}
