//! A description opened for reading: bounded, without a DTD, with the few ways to find something in it.
//!
//! Names are compared without a namespace only, as libvirt's own XPath does: an element of somebody's `<metadata>` is
//! never taken for one of libvirt's. It will not interpret anything; `read` does that.

use roxmltree::{Document as Tree, Error, Node, ParsingOptions};

/// libvirt's own protocol carries no longer text (`REMOTE_STRING_MAX`, libvirt 9.0 and 11.3).
const LARGEST: usize = 4 << 20;
/// Elements, texts and comments; real descriptions have some hundreds.
const NODES: u32 = 1 << 18;
/// Attributes of one element, and namespaces of a whole document: the parser compares each with each.
const ATTRIBUTES: usize = 1 << 10;

/// Why a text is not the description of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadXml {
    /// Longer than what libvirt itself could carry.
    #[error("the description has {bytes} bytes; libvirt itself carries at most {LARGEST}")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// More elements, attributes or namespaces than any real machine has.
    #[error(
        "the description has more elements, attributes or namespaces than a machine can have; is it the right file?"
    )]
    TooIntricate,
    /// A document type, whose entities would put text where none is written.
    #[error(
        "the description has a <!DOCTYPE>; libvirt writes none, so take it out, or take the text of `virsh dumpxml`"
    )]
    DocumentType,
    /// Not well-formed.
    #[error("the description is no XML: {why}; the text of `virsh dumpxml` is")]
    Malformed {
        /// What the parser said, with line and column.
        why: String,
    },
    /// XML, and something else.
    #[error("this is a <{found}>, not a <{wanted}>")]
    Other {
        /// The outermost element.
        found: String,
        /// What it should have been.
        wanted: &'static str,
    },
    /// A part without which nothing can be said.
    #[error("the description has no {place}; libvirt always writes one")]
    Missing {
        /// Which part.
        place: String,
    },
    /// A value that libvirt would refuse.
    #[error("{place} is '{text}', which libvirt would refuse: {why}")]
    Value {
        /// Where it stands.
        place: String,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A description with its text.
#[derive(Debug)]
pub(super) struct Document<'a> {
    text: &'a str,
    tree: Tree<'a>,
}

impl<'a> Document<'a> {
    /// Opens `text`, whose outermost element must be `root`.
    pub(super) fn open(text: &'a str, root: &'static str) -> Result<Document<'a>, BadXml> {
        if text.len() > LARGEST {
            return Err(BadXml::TooLarge { bytes: text.len() });
        }
        if is_intricate(text) {
            return Err(BadXml::TooIntricate);
        }
        let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the parser's errors, not ours; all others read the same"
        )]
        let tree = Tree::parse_with_options(text, options).map_err(|error| match error {
            Error::DtdDetected => BadXml::DocumentType,
            Error::NodesLimitReached | Error::AttributesLimitReached | Error::NamespacesLimitReached => {
                BadXml::TooIntricate
            }
            other => BadXml::Malformed { why: other.to_string() },
        })?;
        let document = Document { text, tree };
        if document.root().has_tag_name(root) && document.root().tag_name().namespace().is_none() {
            return Ok(document);
        }
        Err(BadXml::Other { found: document.root().tag_name().name().to_owned(), wanted: root })
    }

    /// The whole text.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The outermost element.
    pub(super) fn root(&self) -> Node<'_, 'a> {
        self.tree.root_element()
    }
}

/// True for a text on which the parser would spend more than it is worth. It may take a comment full of `=` for a tag.
fn is_intricate(text: &str) -> bool {
    text.matches("xmlns").count() > ATTRIBUTES
        || text.split('<').any(|tag| {
            !tag.starts_with(['!', '?', '/']) && tag.bytes().filter(|byte| *byte == b'=').count() > ATTRIBUTES
        })
}

/// The children of `node` with that name.
pub(super) fn children<'t, 'a>(node: Node<'t, 'a>, name: &'static str) -> impl Iterator<Item = Node<'t, 'a>> {
    node.children().filter(move |child| is(*child, name))
}

/// The first child with that name.
pub(super) fn child<'t, 'a>(node: Node<'t, 'a>, name: &'static str) -> Option<Node<'t, 'a>> {
    children(node, name).next()
}

/// The first child of the first child, and so on.
pub(super) fn at<'t, 'a>(node: Node<'t, 'a>, path: &[&'static str]) -> Option<Node<'t, 'a>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// True for an element of libvirt's with that name.
pub(super) fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

/// All text in `node`, without space around it.
pub(super) fn content(node: Node<'_, '_>) -> String {
    let text: String = node.descendants().filter(Node::is_text).filter_map(|piece| piece.text()).collect();
    text.trim().to_owned()
}

/// The content of a child, where there is one and it is not empty.
pub(super) fn content_of(node: Node<'_, '_>, name: &'static str) -> Option<String> {
    child(node, name).map(content).filter(|text| !text.is_empty())
}

/// An attribute of `node`.
pub(super) fn attribute(node: Node<'_, '_>, name: &str) -> Option<String> {
    node.attributes().find(|a| a.name() == name && a.namespace().is_none()).map(|a| a.value().to_owned())
}

/// True for an attribute that says `yes` or `on`.
pub(super) fn is_yes(node: Node<'_, '_>, name: &str) -> bool {
    attribute(node, name).is_some_and(|value| value == "yes" || value == "on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_element_of_another_namespace_is_not_libvirts() {
        let text = "<domain xmlns:x='u'><x:memory>1</x:memory><memory>2</memory></domain>";
        let document = Document::open(text, "domain").unwrap();
        assert_eq!(content_of(document.root(), "memory"), Some("2".to_owned()));
        assert!(matches!(Document::open("<domain xmlns='u'/>", "domain"), Err(BadXml::Other { .. })));
    }

    #[test]
    fn a_document_type_is_refused() {
        let text = "<!DOCTYPE domain [<!ENTITY m '1'>]><domain><memory>&m;</memory></domain>";
        assert_eq!(Document::open(text, "domain").unwrap_err(), BadXml::DocumentType);
    }

    #[test]
    fn text_is_read_around_comments_and_in_cdata() {
        let text = "<domain><memory> 10<!-- ten -->2<![CDATA[4]]>\n</memory></domain>";
        let document = Document::open(text, "domain").unwrap();
        assert_eq!(content_of(document.root(), "memory"), Some("1024".to_owned()));
    }

    #[test]
    fn what_no_machine_needs_is_refused_at_once() {
        let wide = format!("<domain{}/>", (0..2000).map(|n| format!(" a{n}='1'")).collect::<String>());
        assert_eq!(Document::open(&wide, "domain").unwrap_err(), BadXml::TooIntricate);
        let many = format!("<domain>{}</domain>", "<a/>".repeat(300_000));
        assert_eq!(Document::open(&many, "domain").unwrap_err(), BadXml::TooIntricate);
        let deep = format!("<domain>{}", "<a>".repeat(200_000));
        assert!(matches!(Document::open(&deep, "domain"), Err(BadXml::Malformed { .. })));
        let long = " ".repeat(LARGEST + 1);
        assert_eq!(Document::open(&long, "domain").unwrap_err(), BadXml::TooLarge { bytes: LARGEST + 1 });
    }

    #[test]
    fn a_deep_description_is_read_without_recursion() {
        let deep = format!("<domain>{}{}</domain>", "<a>".repeat(100_000), "</a>".repeat(100_000));
        assert!(Document::open(&deep, "domain").is_ok());
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = Document::open(&text, "domain");
        }
    }
}
