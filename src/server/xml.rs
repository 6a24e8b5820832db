//! XML as the service writes it, and as much of it as clients send. Pure.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::base::encoding::percent_encoded;
use crate::oss::xml::read;

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

/// No tag, with the text behind it, is longer in what clients send: its attributes are compared with each other.
const MAX_PIECE: usize = 16 << 10;

/// More than in any request: one that completes an upload names 10,000 parts.
const MAX_CHILDREN: usize = 10_000;

/// A document with this root; none of what is not well-formed, or of something else.
pub fn parse<T: DeserializeOwned>(document: &[u8], root: &str) -> Option<T> {
    let document = std::str::from_utf8(document).ok()?;
    if document.split('<').any(|piece| piece.len() > MAX_PIECE) {
        return None;
    }
    read(document, root).ok()
}

/// A child of an element: what it is depends on its name.
pub trait Child: Sized {
    /// Reads the child of this name; none is passed over.
    ///
    /// # Errors
    /// The child is not such a one.
    fn read<'de, A: MapAccess<'de>>(
        name: String,
        element: &mut A,
    ) -> std::result::Result<Option<Self>, A::Error>;
}

/// An element's children, in order. Attributes are passed over.
#[derive(Debug)]
pub struct Children<T>(pub Vec<T>);

impl<'de, T: Child> Deserialize<'de> for Children<T> {
    fn deserialize<D: Deserializer<'de>>(element: D) -> std::result::Result<Self, D::Error> {
        struct Reading<T>(PhantomData<T>);
        impl<'de, T: Child> Visitor<'de> for Reading<T> {
            type Value = Children<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_CHILDREN} elements")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut element: A,
            ) -> std::result::Result<Children<T>, A::Error> {
                let mut children = Vec::new();
                while let Some(name) = element.next_key::<String>()? {
                    if name.starts_with('@') {
                        element.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if children.len() == MAX_CHILDREN {
                        return Err(Error::invalid_length(MAX_CHILDREN + 1, &self));
                    }
                    children.extend(T::read(name, &mut element)?);
                }
                Ok(Children(children))
            }
        }
        element.deserialize_map(Reading(PhantomData))
    }
}

/// A child with nothing but text in it.
#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub text: String,
}

impl Child for Field {
    fn read<'de, A: MapAccess<'de>>(
        name: String,
        element: &mut A,
    ) -> std::result::Result<Option<Field>, A::Error> {
        let text = element.next_value()?;
        Ok(Some(Field { name, text }))
    }
}

impl Children<Field> {
    /// The text of the first of that name.
    pub fn text(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|field| field.name == name)?;
        Some(&field.text)
    }
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
            let mut xml = Xml::document("Object");
            xml.text("Key", text);
            let object: Children<Field> = parse(xml.finish().as_bytes(), "Object").unwrap();
            assert_eq!(object.text("Key"), Some(text));
        }
    }

    #[test]
    fn refuses_what_is_no_document() {
        let deep = "<a>".repeat(100);
        let wide = format!("<a>{}</a>", "<b/>".repeat(60_000));
        let attributes: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
        let many = format!("<a{attributes}/>");
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a><b>c</b>",
            "<a><b>c</a></b>",
            "<a><b>&nbsp;</b></a>",
            "<b>c</b>",
            "\u{0}",
            &deep,
            &wide,
            &many,
        ] {
            let read: Option<Children<Field>> = parse(text.as_bytes(), "a");
            assert!(read.is_none(), "{text:?}");
        }
    }

    #[test]
    fn reads_children_in_order_whatever_their_namespace() {
        let text = "<?xml version='1.0'?><!-- a --><o:Object xmlns:o='urn:x' at='1'>
            <o:Key>a<![CDATA[<b>]]>&#99;</o:Key><VersionId/><Key> d </Key></o:Object>";
        let object: Children<Field> = parse(text.as_bytes(), "Object").unwrap();
        let fields: Vec<_> = (object.0.iter())
            .map(|field| (&*field.name, &*field.text))
            .collect();
        assert_eq!(
            fields,
            [("Key", "a<b>c"), ("VersionId", ""), ("Key", " d ")]
        );
    }
}
