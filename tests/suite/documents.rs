//! The documents for developers name files and symbols that exist.

use std::path::Path;

const FOLDERS: [&str; 9] =
    ["src/", "tests/", "fuzz/", "benches/", "examples/", "packaging/", ".ci/", ".cargo/", "sync.example.ini"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts in backticks of a document.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_path_in_the_documents_exists() {
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        let is_path = |code: &&str| FOLDERS.iter().any(|f| code.starts_with(f)) && !code.contains(' ');
        let paths: Vec<_> = code(&text).into_iter().filter(is_path).collect();
        assert!(paths.len() > 5, "{document} names files");
        for path in paths {
            assert!(root().join(path).exists(), "{document}: {path} does not exist");
        }
    }
}

/// Whether a test of this folder has `part` in its name.
fn is_test_named(folder: &str, part: &str) -> bool {
    std::fs::read_dir(root().join("tests").join(folder)).unwrap().any(|file| {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        source.split("#[test]").skip(1).any(|rest| {
            let name = rest.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            name.is_some_and(|(name, _)| name.contains(part))
        })
    })
}

#[test]
fn every_command_of_contributing_is_an_alias_or_names_a_test_that_exists() {
    const BUILT_IN: [&str; 9] =
        ["build", "deny", "fmt", "fuzz", "run", "test", "metadata", "install", "check"];
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (text, aliases) = (read("CONTRIBUTING.md"), read(".cargo/config.toml"));
    let commands = code(&text).into_iter().flat_map(|code| code.split("cargo ").skip(1));
    let mut count = 0;
    for arguments in commands {
        count += 1;
        let mut words = arguments.split_whitespace();
        let command = words.next().unwrap();
        let is_alias = aliases.contains(&format!("\n{command} = "));
        assert!(is_alias || BUILT_IN.contains(&command), "cargo {command} is no alias");
        let Some(test) = words.by_ref().skip_while(|word| *word != "--test").nth(1) else { continue };
        let is_file = root().join(format!("tests/{test}.rs")).exists();
        assert!(is_file || root().join(format!("tests/{test}/main.rs")).exists(), "no test {test}");
        // A module, or a part of a test's name.
        match words.next().map(|filter| (filter, filter.strip_suffix("::"))) {
            Some((_, Some(module))) => {
                assert!(root().join(format!("tests/{test}/{module}.rs")).exists(), "no module {module}");
            }
            Some((name, None)) => assert!(is_test_named(test, name), "no test of {test} is named {name}"),
            None => {}
        }
    }
    assert!(count > 15, "{count} commands");
}

#[test]
fn every_symbol_of_the_where_is_table_is_in_its_file() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## Where is").nth(1).expect("a table").split("\n## ").next().unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let codes = code(row);
        let (path, symbols) = codes.split_first().unwrap();
        let source =
            std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{row}: {error}"));
        for symbol in symbols {
            let name = symbol.rsplit("::").next().unwrap();
            assert!(source.contains(name), "{path} has no {symbol}");
        }
    }
}
