//! Columns: words to the left, cut where they do not fit; numbers to the right, never cut.

/// A column is never cut below this.
const NARROWEST: usize = 8;

/// Rows of `cells`, none wider than `columns` where that can be. The first `words` columns hold text, the others
/// numbers.
pub(super) fn lines<const N: usize>(cells: &[[String; N]], words: usize, columns: usize) -> Vec<String> {
    let widths = widths(cells, words, columns);
    cells.iter().map(|row| line(row, words, &widths)).collect()
}

/// Widths of the columns: what they hold, the widest words cut until the line fits.
fn widths<const N: usize>(cells: &[[String; N]], words: usize, columns: usize) -> [usize; N] {
    let mut widths = [0; N];
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(display_width(cell));
        }
    }
    let gaps = 2 * (N - 1);
    while widths.iter().sum::<usize>() + gaps > columns {
        match widths[..words].iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    widths
}

fn line<const N: usize>(cells: &[String; N], words: usize, widths: &[usize; N]) -> String {
    let mut line = String::new();
    for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let cell = cut(cell, width);
        let space = " ".repeat(width.saturating_sub(display_width(&cell)));
        if index > 0 {
            line.push_str("  ");
        }
        if index < words {
            line.push_str(&cell);
            line.push_str(&space);
        } else {
            line.push_str(&space);
            line.push_str(&cell);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// `text` in at most `width` columns, with `…` where something is missing.
fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if display_width(&short) + display_width(c.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        short.push(c);
    }
    short + "…"
}

fn display_width(text: &str) -> usize {
    textwrap::core::display_width(text)
}
