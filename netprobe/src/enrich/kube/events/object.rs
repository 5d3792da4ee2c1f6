//! The Event as the API takes it: `events.k8s.io/v1`.

use serde_json::{Value, json};

use super::Notice;

/// Who reports, as a qualified name.
const CONTROLLER: &str = "netprobe.dev/agent";
/// The longest note, bytes (`noteLengthLimit` of the API server).
const NOTE: usize = 1_024;
/// The longest name of an instance, bytes.
const INSTANCE: usize = 128;
/// What of a pod's name goes into an Event's, bytes: that has 253, and a dot and a number in it.
const NAME: usize = 200;

/// The name of a new Event, made as the kubelet makes its own.
pub(super) fn name(notice: &Notice, unique: u64) -> String {
    // Behind a cut there may be what no part of a name ends with.
    let pod = cut(&notice.pod, NAME).trim_end_matches(['.', '-']);
    format!("{pod}.{unique:x}")
}

/// A new Event.
pub(super) fn created(notice: &Notice, node: &str, name: &str) -> Value {
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": notice.namespace},
        "eventTime": notice.first,
        "reportingController": CONTROLLER,
        "reportingInstance": cut(node, INSTANCE),
        "action": "Observed",
        "reason": reason(notice.rule),
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": notice.namespace,
            "name": notice.pod,
            "uid": notice.uid,
        },
        "note": note(&notice.claim),
        "type": "Warning",
    });
    // A series of one is none.
    if notice.count > 1 {
        event["series"] = series(notice);
    }
    event
}

/// What changes it: the API takes nothing but the series.
pub(super) fn changed(notice: &Notice) -> Value {
    json!({"series": series(notice)})
}

fn series(notice: &Notice) -> Value {
    // The API's number is an int32.
    let count = i32::try_from(notice.count).unwrap_or(i32::MAX);
    json!({"count": count, "lastObservedTime": notice.last})
}

/// `route-blackhole` is `RouteBlackhole`.
fn reason(rule: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    rule.split('-').map(word).collect()
}

fn note(claim: &str) -> String {
    if claim.len() <= NOTE {
        return claim.to_owned();
    }
    format!("{}…", cut(claim, NOTE - '…'.len_utf8()))
}

/// At most that many bytes of it.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_within_the_limits_of_the_api() {
        let notice = Notice {
            rule: "rp-filter-drop",
            pod: format!("{}-{}", "a".repeat(199), "b".repeat(53)),
            claim: "ü".repeat(600),
            count: u64::MAX,
            ..Notice::default()
        };
        let event = created(&notice, &"n".repeat(253), &name(&notice, u64::MAX));
        let length = |field: &str| event[field].as_str().expect("it is text").len();
        assert_eq!(event["reason"], "RpFilterDrop");
        assert!((1_020..=NOTE).contains(&length("note")), "{}", length("note"));
        assert_eq!(length("reportingInstance"), INSTANCE);
        assert_eq!(event["metadata"]["name"], format!("{}.ffffffffffffffff", "a".repeat(199)));
        assert_eq!(event["series"]["count"], i32::MAX);
        assert!(created(&Notice { count: 1, ..notice }, "n", "x")["series"].is_null());
    }
}
