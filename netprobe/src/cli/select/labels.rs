//! Label selectors, as `kubectl -l` takes them.

use std::str::FromStr;

/// Tests that all must hold for a pod's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    tests: Vec<Test>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    key: String,
    want: Want,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    Present,
    Absent,
    OneOf(Vec<String>),
    /// Holds too where the label is absent, as in Kubernetes.
    NoneOf(Vec<String>),
}

impl LabelSelector {
    /// Whether a pod with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        self.tests.iter().all(|test| {
            let value = labels.iter().find(|(key, _)| *key == test.key).map(|(_, value)| value);
            match &test.want {
                Want::Present => value.is_some(),
                Want::Absent => value.is_none(),
                Want::OneOf(values) => value.is_some_and(|value| values.contains(value)),
                Want::NoneOf(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

impl FromStr for LabelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tests = requirements(text).into_iter().map(Test::from_str).collect::<Result<_, _>>()?;
        Ok(Self { tests })
    }
}

/// The parts between the commas that are not in parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (key, want) = if let Some((key, value)) = text.split_once("!=") {
            (key, Want::NoneOf(vec![value.trim().to_owned()]))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Want::OneOf(vec![value.trim().to_owned()]))
        } else if let Some((key, values)) = set(text, " notin ") {
            (key, Want::NoneOf(values))
        } else if let Some((key, values)) = set(text, " in ") {
            (key, Want::OneOf(values))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Want::Absent)
        } else {
            (text, Want::Present)
        };
        let key = key.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let values_fit = match &want {
            Want::Present | Want::Absent => true,
            Want::OneOf(values) | Want::NoneOf(values) => values.iter().all(|value| value.chars().all(fits)),
        };
        if key.is_empty() || !key.chars().all(fits) || !values_fit {
            return Err(format!("`{text}` is no label test: write KEY=VALUE, KEY!=VALUE, KEY, !KEY or KEY in (A, B)"));
        }
        Ok(Self { key: key.to_owned(), want })
    }
}

/// `KEY in (A, B)`
fn set<'a>(text: &'a str, word: &str) -> Option<(&'a str, Vec<String>)> {
    let (key, values) = text.split_once(word)?;
    let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some((key, values.split(',').map(|value| value.trim().to_owned()).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: Vec<_> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        selector.parse::<LabelSelector>().expect("the selector is right").matches(&labels)
    }

    #[test]
    fn tests_hold_as_kubectl_says() {
        let labels = [("app", "web"), ("tier", "front")];
        for selector in ["app=web", "app==web,tier", "app!=db", "!cache", "app in (db, web)", "env notin (a,b),app"] {
            assert!(selects(selector, &labels), "{selector}");
        }
        for selector in ["app=db", "app=web,cache", "!app", "tier!=front", "app in (db)", "app notin (web, db)"] {
            assert!(!selects(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn a_wrong_test_is_named() {
        let error = "app=web,a b".parse::<LabelSelector>().expect_err("a blank in a key");
        assert_eq!(error, "`a b` is no label test: write KEY=VALUE, KEY!=VALUE, KEY, !KEY or KEY in (A, B)");
        assert!("".parse::<LabelSelector>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z=!(), ]{0,40}|\\PC{0,40}") {
            let _ = text.parse::<LabelSelector>();
        }
    }
}
