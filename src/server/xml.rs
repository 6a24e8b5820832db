//! XML as the service writes it, and as much of it as clients send. Pure.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::base::encoding::percent_encoded;

/// A document under construction.
pub struct Xml {
    text: String,
    open: Vec<&'static str>,
}

impl Xml {
    pub fn document(root: &'static str) -> Xml {
        let mut xml = Xml {
            text: String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"),
            open: Vec::new(),
        };
        xml.begin(root);
        xml
    }

    pub fn begin(&mut self, name: &'static str) {
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
        self.open.push(name);
    }

    pub fn end(&mut self) {
        if let Some(name) = self.open.pop() {
            self.text.push_str("</");
            self.text.push_str(name);
            self.text.push('>');
        }
    }

    pub fn text(&mut self, name: &str, text: &str) {
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
        for c in text.chars() {
            match c {
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '&' => self.text.push_str("&amp;"),
                '"' => self.text.push_str("&quot;"),
                '\'' => self.text.push_str("&apos;"),
                // A bare one would be read as a newline.
                '\r' => self.text.push_str("&#13;"),
                c => self.text.push(c),
            }
        }
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    pub fn number(&mut self, name: &str, number: impl std::fmt::Display) {
        self.text(name, &number.to_string());
    }

    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.text
    }
}

/// A key or prefix in an answer, as `encoding-type` asks for it. Space is `%20`, plus is `%2B`: some readers
/// turn a bare plus into a space.
pub fn encoded(text: &str, url: bool) -> Cow<'_, str> {
    if url {
        Cow::Owned(percent_encoded(text, true))
    } else {
        Cow::Borrowed(text)
    }
}

/// An element of a document somebody sent.
#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

/// Deeper than any request of the service.
const MAX_DEPTH: usize = 8;

/// More than in any request: one that completes an upload of 10,000 parts has three for each.
const MAX_ELEMENTS: usize = 50_000;

impl Element {
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// The root element; none of what is not well-formed.
pub fn parse(document: &[u8]) -> Option<Element> {
    let document = std::str::from_utf8(document).ok()?;
    let mut reader = Reader::from_str(document);
    let mut open = vec![Element::default()];
    let mut elements = 0;
    loop {
        let event = reader.read_event().ok()?;
        if matches!(event, Event::Start(_) | Event::Empty(_)) {
            elements += 1;
            if elements > MAX_ELEMENTS {
                return None;
            }
        }
        match event {
            Event::Start(start) => {
                let name = start.local_name().into_inner().to_string();
                open.push(Element {
                    name,
                    ..Element::default()
                });
                if open.len() > MAX_DEPTH {
                    return None;
                }
            }
            Event::Empty(start) => {
                let name = start.local_name().into_inner().to_string();
                open.last_mut()?.children.push(Element {
                    name,
                    ..Element::default()
                });
            }
            Event::End(_) => {
                let done = open.pop()?;
                open.last_mut()?.children.push(done);
            }
            Event::Text(text) => {
                open.last_mut()?.text.push_str(&text);
            }
            Event::CData(text) => {
                open.last_mut()?.text.push_str(&text);
            }
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => match &*reference {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                open.last_mut()?.text.push(c);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let [root] = <[Element; 1]>::try_from(open).ok()?;
    root.children.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "",
            "a",
            " a b ",
            "<&>\"'",
            "ü\u{1f600}",
            "]]>",
            "a\r\nb",
            "&amp;",
        ] {
            let mut xml = Xml::document("Delete");
            xml.begin("Object");
            xml.text("Key", text);
            xml.end();
            let root = parse(xml.finish().as_bytes()).unwrap();
            assert_eq!(root.name, "Delete");
            assert_eq!(root.child("Object").unwrap().child_text("Key"), Some(text));
        }
    }

    #[test]
    fn refuses_what_is_no_document() {
        let deep = "<a>".repeat(100);
        let wide = format!("<a>{}</a>", "<b/>".repeat(60_000));
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a>&nbsp;</a>",
            "\u{0}",
            &deep,
            &wide,
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
