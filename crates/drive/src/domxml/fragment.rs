//! New elements, and how they are laid out in a text: with the line ends and the indentation of their neighbours.

/// An element that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fragment {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Empty,
    Text(String),
    Children(Vec<Fragment>),
}

/// Where line ends and indentation go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// All on one line.
    Compact,
    /// Each element on a line of its own.
    Lines {
        /// The line end: `\n`, `\r\n` or `\r`.
        newline: &'static str,
        /// What stands before the element on its line.
        indent: String,
        /// What its children have more.
        step: String,
    },
}

impl Layout {
    /// The layout of this layout's children.
    pub(super) fn within(&self) -> Layout {
        match self {
            Layout::Compact => Layout::Compact,
            Layout::Lines { newline, indent, step } => {
                Layout::Lines { newline, indent: format!("{indent}{step}"), step: step.clone() }
            }
        }
    }

    /// What starts a line of this layout.
    pub(super) fn line(&self) -> String {
        match self {
            Layout::Compact => String::new(),
            Layout::Lines { newline, indent, .. } => format!("{newline}{indent}"),
        }
    }
}

impl Fragment {
    /// An element without content.
    pub(super) fn empty(name: &'static str) -> Fragment {
        Fragment { name, attributes: Vec::new(), body: Body::Empty }
    }

    /// An element with a text.
    pub(super) fn text(name: &'static str, text: impl ToString) -> Fragment {
        Fragment { name, attributes: Vec::new(), body: Body::Text(text.to_string()) }
    }

    /// An element with elements in it.
    pub(super) fn holding(name: &'static str, children: Vec<Fragment>) -> Fragment {
        Fragment { name, attributes: Vec::new(), body: Body::Children(children) }
    }

    /// The same with one more attribute.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Fragment {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// The text of it, from `<` to `>`; its children on lines after it, if the layout has lines.
    pub(super) fn render(&self, layout: &Layout) -> String {
        let mut out = format!("<{}", self.name);
        for (name, value) in &self.attributes {
            out.push_str(&format!(" {name}='{}'", escape(value, '\'')));
        }
        match &self.body {
            Body::Empty => out.push_str("/>"),
            Body::Text(text) => out.push_str(&format!(">{}</{}>", escape(text, '>'), self.name)),
            Body::Children(children) => {
                out.push('>');
                let within = layout.within();
                for child in children {
                    out.push_str(&within.line());
                    out.push_str(&child.render(&within));
                }
                out.push_str(&layout.line());
                out.push_str(&format!("</{}>", self.name));
            }
        }
        out
    }
}

/// `text` as it stands in XML, where `delimiter` ends it.
pub(super) fn escape(text: &str, delimiter: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' if delimiter == '>' => out.push_str("&gt;"),
            '\'' if delimiter == '\'' => out.push_str("&apos;"),
            '"' if delimiter == '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Fragment {
        let size = Fragment::text("size", 2048).with("unit", "KiB");
        Fragment::holding("memory", vec![Fragment::holding("target", vec![size]), Fragment::empty("end")])
            .with("model", "a'b&c")
    }

    #[test]
    fn lines_are_indented_and_one_line_stays_one() {
        assert_eq!(
            device().render(&Layout::Compact),
            "<memory model='a&apos;b&amp;c'><target><size unit='KiB'>2048</size></target><end/></memory>"
        );
        let lines = Layout::Lines { newline: "\r\n", indent: "\t".to_owned(), step: "\t".to_owned() };
        assert_eq!(
            device().render(&lines),
            "<memory model='a&apos;b&amp;c'>\r\n\t\t<target>\r\n\t\t\t<size unit='KiB'>2048</size>\r\n\t\t</target>\
             \r\n\t\t<end/>\r\n\t</memory>"
        );
    }
}
