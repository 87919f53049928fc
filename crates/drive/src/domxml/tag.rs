//! The places of the parts of a start tag.
//!
//! The parser knows them too, but counts the white space around `=` in one byte, and not those of `xmlns`.

use std::ops::Range;

/// A start tag, or a tag that closes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    /// The element's name, with its prefix.
    pub(super) name: Range<usize>,
    /// The attributes, `xmlns` among them.
    pub(super) attributes: Vec<Attribute>,
    /// After the last attribute, or after the name where there is none.
    pub(super) named: usize,
    /// After its `>`.
    pub(super) end: usize,
    /// It ends in `/>`.
    pub(super) selfclosing: bool,
}

/// An attribute; its value without the quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

impl Tag {
    /// Reads the tag whose `<` stands at `start`. The text was parsed before, so the tag is whole.
    pub(super) fn read(text: &str, start: usize) -> Tag {
        let name = until(text, start + 1, |c| is_space(c) || c == '/' || c == '>');
        let mut attributes: Vec<Attribute> = Vec::new();
        let mut named = name.end;
        loop {
            let next = until(text, until(text, named, |c| !is_space(c)).end, |c| {
                is_space(c) || matches!(c, '=' | '/' | '>')
            });
            if next.is_empty() {
                let selfclosing = text[next.end..].starts_with('/');
                return Tag {
                    name,
                    attributes,
                    named,
                    end: until(text, named, |c| c == '>').end + 1,
                    selfclosing,
                };
            }
            let before_quote = until(text, next.end, |c| c == '"' || c == '\'').end;
            let double = text[before_quote..].starts_with('"');
            let value = until(text, before_quote + 1, |c| c == if double { '"' } else { '\'' });
            named = value.end + 1;
            attributes.push(Attribute { name: next, value });
        }
    }
}

/// From `from` up to the first character that `ends` it.
fn until(text: &str, from: usize, ends: impl Fn(char) -> bool) -> Range<usize> {
    from..from + text[from..].find(ends).expect("the text was parsed, so its tags are whole")
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (String, Vec<(String, String)>, bool) {
        let tag = Tag::read(text, 0);
        assert_eq!(tag.end, text.len());
        let part = |range: &Range<usize>| text[range.clone()].to_owned();
        (
            part(&tag.name),
            tag.attributes.iter().map(|a| (part(&a.name), part(&a.value))).collect(),
            tag.selfclosing,
        )
    }

    #[test]
    fn every_part_of_a_tag_has_its_place() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(shown("<cpu>"), ("cpu".to_owned(), vec![], false));
        assert_eq!(shown("<cpu/>"), ("cpu".to_owned(), vec![], true));
        assert_eq!(
            shown("<q:cpu xmlns:q=\"a>'b\"\n  mode  =  'x/>\"y'\t/>"),
            ("q:cpu".to_owned(), vec![pair("xmlns:q", "a>'b"), pair("mode", "x/>\"y")], true)
        );
        let wide = format!("<cpu mode{}='x' >", " ".repeat(1000));
        assert_eq!(shown(&wide), ("cpu".to_owned(), vec![pair("mode", "x")], false));
    }
}
