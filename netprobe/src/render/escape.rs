//! Names from outside never reach a terminal as they are.

use std::{borrow::Cow, fmt::Write};

/// `text` with everything made visible that would steer a terminal or hide what is written:
/// control characters, and the Unicode ones that turn, join or hide text.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters; marks without width that join, hide or reorder (Unicode category Cf, as
/// far as it is in use); line and paragraph separators; tags.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_terminal_sequence_in_a_name_becomes_visible() {
        assert_eq!(escape("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(escape("a\nb\u{202e}c\u{9b}1m"), "a\\nb\\u{202e}c\\u{9b}1m");
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        assert!(matches!(escape("shop/web-0 (größe)"), Cow::Borrowed("shop/web-0 (größe)")));
    }

    proptest! {
        #[test]
        fn nothing_escaped_steers_a_terminal(text in any::<String>()) {
            prop_assert!(!escape(&text).chars().any(steers));
        }
    }
}
