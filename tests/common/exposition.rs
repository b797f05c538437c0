//! A strict reader of the Prometheus text format, version 0.0.4: whatever it does not like is a panic.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Exposition {
    /// By name of the family.
    pub types: BTreeMap<String, String>,
    pub samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    pub fn read(text: &str) -> Self {
        let mut all = Self::default();
        let (mut helped, mut closed) = (BTreeSet::new(), BTreeSet::new());
        let mut current = String::new();
        assert!(text.ends_with('\n'), "the last line must end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("HELP has a name and a text");
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("TYPE has a name and a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(helped.contains(name), "no HELP before: {line}");
                assert!(is_name(name) && !closed.contains(name), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(all.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                closed.insert(std::mem::replace(&mut current, name.to_owned()));
            } else {
                let (name, labels, value) = sample(line);
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                    let family = name.strip_suffix(suffix)?;
                    (all.types.get(family).map(String::as_str) == Some("histogram")).then_some(family)
                });
                assert_eq!(family.unwrap_or(&name), current, "outside of its family: {line}");
                let may_be_negative = name.ends_with("_offset_seconds");
                assert!(value.is_finite() && (value >= 0.0 || may_be_negative), "{line}");
                let twice = all.samples.iter().any(|(n, l, _)| *n == name && *l == labels);
                assert!(!twice, "twice: {line}");
                all.samples.push((name, labels, value));
            }
        }
        for (name, _) in all.types.iter().filter(|(_, kind)| *kind == "histogram") {
            all.check_histogram(name);
        }
        all
    }

    /// The sample with just these labels; panics if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {self:#?}"))
    }

    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.samples.iter().find(|(n, l, _)| n == name && *l == labels).map(|(_, _, value)| *value)
    }

    /// The values of a label, in the order of the samples.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<&str> {
        self.samples.iter().filter(|(n, ..)| n == name).map(|(_, labels, _)| labels[label].as_str()).collect()
    }

    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(n, ..)| n == name).map(|(_, _, value)| value).sum()
    }

    fn check_histogram(&self, name: &str) {
        let bucket = format!("{name}_bucket");
        let mut last = (f64::NEG_INFINITY, 0.0);
        for (_, labels, count) in self.samples.iter().filter(|(n, ..)| *n == bucket) {
            let bound = match labels["le"].as_str() {
                "+Inf" => f64::INFINITY,
                text => text.parse().unwrap(),
            };
            assert!(bound > last.0 && *count >= last.1, "{name}: {labels:?} {count} after {last:?}");
            last = (bound, *count);
        }
        assert_eq!(last, (f64::INFINITY, self.value(&format!("{name}_count"), &[])));
        assert!(self.get(&format!("{name}_sum"), &[]).is_some());
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(value);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            if let Some(end) = after.strip_prefix('}') {
                rest = end;
                break;
            }
            rest = after.strip_prefix(',').unwrap_or_else(|| panic!("no comma: {line}"));
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no blank: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// Up to the closing quote, and what comes after it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                c => panic!("not an escape: \\{c}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}")
}

#[test]
fn the_reader_unescapes_and_refuses() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"1\\\"\\\\\\n\",c=\"\"} 5\na_total 1\n";
    assert_eq!(Exposition::read(good).value("a_total", &[("b", "1\"\\\n"), ("c", "")]), 5.0);
    let head = "# HELP a x\n# TYPE a gauge\n";
    let cases =
        ["a 1", "b 1\n", "a{b=\"\\x\"} 1\n", "a{b=\"1\" 1\n", "a x\n", "a 1\na 1\n", "a{b=\"1\",} 1\n"];
    for bad in cases {
        let text = format!("{head}{bad}");
        assert!(std::panic::catch_unwind(|| Exposition::read(&text)).is_err(), "{bad:?}");
    }
}
