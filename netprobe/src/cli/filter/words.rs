//! Text → words.

use super::FilterError;

/// Words in one filter. It bounds the parser's recursion.
const WORDS_MAX: usize = 256;

/// A word or a sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    /// Its first character, counted from 1.
    pub at: usize,
}

impl Word<'_> {
    /// The word is wrong: why, and what to write.
    pub(super) fn wrong(&self, why: impl Into<String>) -> FilterError {
        FilterError { word: Some((self.text.to_owned(), self.at)), why: why.into() }
    }
}

/// Signs that stand for themselves, the longer ones first.
const SIGNS: [&str; 17] = ["&&", "||", "!=", "==", "<=", ">=", "<<", ">>", "(", ")", "[", "]", "!", "=", "&", "|", "<"];

/// The words of `text`.
pub(super) fn split(text: &str) -> Result<Vec<Word<'_>>, FilterError> {
    let mut words: Vec<Word<'_>> = Vec::new();
    let mut rest = text;
    let mut at = 1;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if let Some(sign) = sign(rest) {
            words.push(Word { text: sign, at });
            sign.len()
        } else {
            let end = rest
                .char_indices()
                .find(|(index, c)| c.is_whitespace() || sign(&rest[*index..]).is_some())
                .map_or(rest.len(), |(index, _)| index);
            words.push(Word { text: &rest[..end], at });
            end
        };
        at += rest[..length].chars().count();
        rest = &rest[length..];
    }
    match words.get(WORDS_MAX) {
        Some(word) => Err(word.wrong(format!("is one word too many: a filter has at most {WORDS_MAX}"))),
        None => Ok(words),
    }
}

fn sign(text: &str) -> Option<&str> {
    let length = SIGNS.iter().find(|sign| text.starts_with(**sign)).map(|sign| sign.len());
    length.or_else(|| text.starts_with(['>', '+', '*', '^', ',']).then_some(1)).map(|length| &text[..length])
}
