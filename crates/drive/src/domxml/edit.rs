//! Edits of a description that leave every byte alone which they do not change.
//!
//! An edit is a place in the original text and what goes there; the tree only says where things are and is never
//! written back. So comments, foreign namespaces, the order and the quotes of attributes, white space, line ends, the
//! XML declaration and entities stay as they are. New elements look like their neighbours. It will not delete elements.

use super::document::{Document, attribute, content};
use super::fragment::{Fragment, Layout, escape};
use super::tag::Tag;
use super::units::{kib, read_amount, unit_scale};
use roxmltree::{Node, NodeId};
use scale::units::Bytes;
use std::ops::Range;

/// What is to be changed in one description.
#[derive(Debug)]
pub(super) struct Edits<'t, 'a> {
    document: &'t Document<'a>,
    splices: Vec<Splice>,
    /// Kept apart until the end: several children of one element are one splice.
    appended: Vec<(NodeId, Node<'t, 'a>, Vec<Fragment>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Splice {
    range: Range<usize>,
    with: String,
}

impl<'t, 'a> Edits<'t, 'a> {
    pub(super) fn new(document: &'t Document<'a>) -> Edits<'t, 'a> {
        Edits { document, splices: Vec::new(), appended: Vec::new() }
    }

    /// Gives `node` that value of an attribute, which is added where it is missing.
    pub(super) fn set_attribute(&mut self, node: Node<'t, 'a>, name: &'static str, value: impl ToString) {
        let value = value.to_string();
        if attribute(node, name).as_deref() == Some(value.as_str()) {
            return;
        }
        let tag = self.tag(node);
        match tag.attributes.iter().find(|attribute| self.text()[attribute.name.clone()] == *name) {
            Some(attribute) => {
                let quote = self.quote_before(attribute.value.start);
                self.splice(attribute.value.clone(), escape(&value, quote));
            }
            None => {
                let quote = tag.attributes.last().map_or('\'', |last| self.quote_before(last.value.start));
                self.splice(tag.named..tag.named, format!(" {name}={quote}{}{quote}", escape(&value, quote)));
            }
        }
    }

    /// Gives `node` that text. White space and comments in it stay.
    pub(super) fn set_text(&mut self, node: Node<'t, 'a>, value: impl ToString) {
        let value = value.to_string();
        if content(node) == value {
            return;
        }
        let mut value = escape(&value, '>');
        let tag = self.tag(node);
        if tag.selfclosing {
            let name = self.text()[tag.name.clone()].to_owned();
            self.splice(tag.named..node.range().end, format!(">{value}</{name}>"));
            return;
        }
        let inside = self.inside(node, &tag);
        let mut written = false;
        for piece in raw_pieces(node, inside.clone()) {
            let raw = &self.text()[piece.clone()];
            let lead = raw.len() - raw.trim_start().len();
            let trimmed = raw.trim().len();
            if trimmed > 0 {
                self.splice(piece.start + lead..piece.start + lead + trimmed, std::mem::take(&mut value));
                written = true;
            }
        }
        if !written {
            self.splice(inside.start..inside.start, value);
        }
    }

    /// Gives `node` that amount of memory: in its own unit where that is exact, else in KiB.
    pub(super) fn set_amount(&mut self, node: Node<'t, 'a>, size: Bytes) {
        let unit = attribute(node, "unit");
        if read_amount(&content(node), unit.as_deref()) == Ok(size) {
            return;
        }
        let scale = unit_scale(unit.as_deref().unwrap_or("")).map_or(Bytes::ZERO, Bytes::new);
        if !scale.is_zero() && size.is_multiple_of(scale) {
            self.set_text(node, size.count_of(scale));
        } else {
            self.set_text(node, kib(size));
            self.set_attribute(node, "unit", "KiB");
        }
    }

    /// Puts an element before `node`, on a line of its own if `node` has one.
    pub(super) fn insert_before(&mut self, node: Node<'t, 'a>, new: &Fragment) {
        let layout = self.layout_of(node);
        let start = node.range().start;
        self.splice(start..start, format!("{}{}", new.render(&layout), layout.line()));
    }

    /// Puts an element after `node` and the remarks on its line, on a line of its own if `node` has one.
    pub(super) fn insert_after(&mut self, node: Node<'t, 'a>, new: &Fragment) {
        let layout = self.layout_of(node);
        let mut end = node.range().end;
        for next in node.next_siblings().skip(1) {
            let range = next.range();
            let raw = &self.text()[range.clone()];
            if raw.contains(['\n', '\r']) || !(next.is_comment() || raw.trim().is_empty()) {
                break;
            }
            if next.is_comment() {
                end = range.end;
            }
        }
        self.splice(end..end, format!("{}{}", layout.line(), new.render(&layout)));
    }

    /// Puts an element at the end of `node`.
    pub(super) fn append(&mut self, node: Node<'t, 'a>, new: Fragment) {
        match self.appended.iter_mut().find(|(id, ..)| *id == node.id()) {
            Some((_, _, fragments)) => fragments.push(new),
            None => self.appended.push((node.id(), node, vec![new])),
        }
    }

    /// The text with all edits.
    pub(super) fn apply(mut self) -> String {
        for (_, node, fragments) in std::mem::take(&mut self.appended) {
            self.append_all(node, &fragments);
        }
        // Stable: what goes to one place keeps the order of the calls.
        self.splices.sort_by_key(|splice| (splice.range.start, splice.range.end));
        let text = self.text();
        let mut out =
            String::with_capacity(text.len() + self.splices.iter().map(|s| s.with.len()).sum::<usize>());
        let mut done = 0;
        for splice in &self.splices {
            assert!(splice.range.start >= done, "two edits of one place: {:?}", self.splices);
            out.push_str(&text[done..splice.range.start]);
            out.push_str(&splice.with);
            done = splice.range.end;
        }
        out.push_str(&text[done..]);
        out
    }

    fn append_all(&mut self, node: Node<'t, 'a>, fragments: &[Fragment]) {
        let tag = self.tag(node);
        let layout = self.layout_in(node);
        let new: String =
            fragments.iter().map(|new| format!("{}{}", layout.line(), new.render(&layout))).collect();
        let own_line = if layout == Layout::Compact { String::new() } else { self.layout_of(node).line() };
        if tag.selfclosing {
            let name = self.text()[tag.name.clone()].to_owned();
            self.splice(tag.named..node.range().end, format!(">{new}{own_line}</{name}>"));
            return;
        }
        let inside = self.inside(node, &tag);
        let raw = &self.text()[inside.clone()];
        let end = inside.start + raw.trim_end().len();
        let closes_on_a_line = self.text()[end..inside.end].contains(['\n', '\r']);
        let tail = if closes_on_a_line { "" } else { &own_line };
        self.splice(end..end, format!("{new}{tail}"));
    }

    fn splice(&mut self, range: Range<usize>, with: String) {
        self.splices.push(Splice { range, with });
    }

    fn text(&self) -> &'a str {
        self.document.text()
    }

    fn tag(&self, node: Node<'t, 'a>) -> Tag {
        Tag::read(self.text(), node.range().start)
    }

    /// What stands between the tags of `node`, which is not self-closing.
    fn inside(&self, node: Node<'t, 'a>, tag: &Tag) -> Range<usize> {
        let all = node.range();
        let end = self.text()[all.clone()].rfind("</").expect("an element that is open has an end tag");
        tag.end..all.start + end
    }

    fn quote_before(&self, place: usize) -> char {
        if self.text()[..place].ends_with('"') { '"' } else { '\'' }
    }

    /// The layout for a neighbour of `node`: that of `node` itself.
    fn layout_of(&self, node: Node<'t, 'a>) -> Layout {
        let start = node.range().start;
        match line_before(self.text(), start) {
            Some((newline, indent)) => {
                Layout::Lines { newline, indent: indent.to_owned(), step: self.step() }
            }
            None if node == self.document.root() => match first_newline(self.text()) {
                Some(newline) => Layout::Lines { newline, indent: String::new(), step: self.step() },
                None => Layout::Compact,
            },
            None => Layout::Compact,
        }
    }

    /// The layout for a child of `node`: that of its first child, else one step from its own.
    fn layout_in(&self, node: Node<'t, 'a>) -> Layout {
        match node.first_element_child() {
            Some(child) => self.layout_of(child),
            None => self.layout_of(node).within(),
        }
    }

    /// How much deeper a child stands than its parent, from the first child of the root; two spaces where that says
    /// nothing.
    fn step(&self) -> String {
        let indent =
            |node: Node<'t, 'a>| line_before(self.text(), node.range().start).map(|(_, indent)| indent);
        let root = self.document.root();
        let outer = indent(root).unwrap_or("");
        root.first_element_child()
            .and_then(indent)
            .and_then(|inner| inner.strip_prefix(outer))
            .filter(|step| !step.is_empty())
            .unwrap_or("  ")
            .to_owned()
    }
}

/// The places in `inside` that belong to `node`'s own text: all but comments, instructions and elements.
fn raw_pieces(node: Node<'_, '_>, inside: Range<usize>) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut from = inside.start;
    for child in node.children().filter(|child| !child.is_text()) {
        pieces.push(from..child.range().start);
        from = child.range().end;
    }
    pieces.push(from..inside.end);
    pieces
}

/// The line end and the white space before `place`, if nothing else stands before it on its line.
fn line_before(text: &str, place: usize) -> Option<(&'static str, &str)> {
    let before = text[..place].trim_end_matches([' ', '\t']);
    let indent = &text[before.len()..place];
    let newline = if before.ends_with("\r\n") {
        "\r\n"
    } else if before.ends_with('\n') {
        "\n"
    } else if before.ends_with('\r') {
        "\r"
    } else {
        return None;
    };
    Some((newline, indent))
}

fn first_newline(text: &str) -> Option<&'static str> {
    let place = text.find(['\n', '\r'])?;
    Some(match (&text[place..=place], text[place + 1..].starts_with('\n')) {
        ("\r", true) => "\r\n",
        ("\r", false) => "\r",
        _ => "\n",
    })
}

#[cfg(test)]
mod tests;
