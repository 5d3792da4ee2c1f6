//! What a run of netprobe said.

use serde_json::Value;

/// A finding, as written.
#[derive(Clone, Debug)]
pub struct Finding(Value);

impl Finding {
    /// `object`, where it is a finding.
    #[must_use]
    pub fn of(object: Value) -> Option<Self> {
        (object["kind"] == "finding").then_some(Self(object))
    }

    /// Its rule.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.text("/rule")
    }

    /// The text at a JSON pointer (`/at/device`); empty where it is null.
    ///
    /// # Panics
    ///
    /// There is no such field, or it is no text.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        match self.0.pointer(pointer) {
            Some(Value::String(text)) => text,
            Some(Value::Null) => "",
            other => panic!("{pointer} is {other:?} in {:#}", self.0),
        }
    }

    /// The value at a JSON pointer; null where it is not there.
    #[must_use]
    pub fn value(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// Its claim, cause, fix or evidence has `words`.
    ///
    /// # Panics
    ///
    /// They do not.
    pub fn says(&self, words: &str) {
        assert!(self.0.to_string().contains(words), "nothing says `{words}` in {:#}", self.0);
    }

    /// It is about `pod`, on that side (`node` or `pod`), at that device.
    ///
    /// # Panics
    ///
    /// It is not, or it lacks a claim, evidence or a fix.
    pub fn is_at(&self, pod: &str, side: &str, device: &str) {
        let place = (self.text("/pod/name"), self.text("/at/namespace"), self.text("/at/device"));
        assert_eq!(place, (pod, side, device), "{:#}", self.0);
        assert_eq!(self.text("/pod/namespace"), "shop");
        self.is_whole();
    }

    /// It has a claim, evidence and a fix.
    ///
    /// # Panics
    ///
    /// One is missing.
    pub fn is_whole(&self) {
        assert!(!self.text("/claim").is_empty(), "no claim in {:#}", self.0);
        for list in ["/evidence", "/fix"] {
            let filled = self.value(list).as_array().is_some_and(|entries| !entries.is_empty());
            assert!(filled, "no {list} in {:#}", self.0);
        }
    }
}

/// All that one run wrote.
#[derive(Debug)]
pub struct Run {
    /// Every object, in order.
    pub objects: Vec<Value>,
    /// Its log.
    pub stderr: String,
}

impl Run {
    /// The last word on each finding, in order of first mention.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut last: Vec<Finding> = Vec::new();
        for finding in self.objects.iter().cloned().filter_map(Finding::of) {
            match last.iter_mut().find(|other| other.text("/id") == finding.text("/id")) {
                Some(other) => *other = finding,
                None => last.push(finding),
            }
        }
        last
    }

    /// How many records were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.objects.iter().filter(|o| o["kind"] == "loss").filter_map(|o| o["lost"].as_u64()).sum()
    }

    /// The one finding, which must be of `rule`.
    ///
    /// # Panics
    ///
    /// There are others, or none, or records were lost: a run that lost records proves nothing.
    #[must_use]
    pub fn one(&self, rule: &str) -> Finding {
        let findings = self.findings();
        assert_eq!(self.lost(), 0, "records were lost");
        match findings.as_slice() {
            [one] if one.rule() == rule => one.clone(),
            others => panic!("expected one finding {rule}, found {others:#?}"),
        }
    }

    /// Nothing was found, and nothing lost.
    ///
    /// # Panics
    ///
    /// Something was.
    pub fn silent(&self) {
        assert_eq!(self.lost(), 0, "records were lost");
        let findings = self.findings();
        assert!(findings.is_empty(), "a healthy network, but: {findings:#?}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(objects: &[Value]) -> Run {
        Run { objects: objects.to_vec(), stderr: String::new() }
    }

    #[test]
    fn the_last_word_on_a_finding_holds() {
        let run = run(&[
            json!({"kind": "finding", "id": "f1", "rule": "no-reply", "count": 1}),
            json!({"kind": "journey"}),
            json!({"kind": "finding", "id": "f1", "rule": "wrong-egress", "count": 2}),
        ]);
        assert_eq!(run.one("wrong-egress").value("/count"), 2);
    }

    #[test]
    #[should_panic(expected = "records were lost")]
    fn a_run_that_lost_records_is_not_silent() {
        run(&[json!({"kind": "loss", "lost": 3, "what": "records"})]).silent();
    }

    #[test]
    #[should_panic(expected = "a healthy network, but")]
    fn a_finding_is_not_silence() {
        run(&[json!({"kind": "finding", "id": "f1", "rule": "x"})]).silent();
    }

    #[test]
    #[should_panic(expected = "expected one finding")]
    fn a_second_finding_is_one_too_many() {
        let object = |id| json!({"kind": "finding", "id": id, "rule": "x"});
        let _ = run(&[object("f1"), object("f2")]).one("x");
    }
}
