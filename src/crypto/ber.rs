//! The encoding of key files: reads BER, writes DER.
//!
//! Most programs write DER, but smart cards, Java and hand-written encoders also produce long or indefinite
//! lengths, padded numbers and trailing bytes. OpenSSL reads such files, so they are accepted here too: an
//! [`Element`] is a tag and its content bytes, and nested elements are parsed on demand. Nothing is allocated
//! from a length in the input.

use zeroize::Zeroizing;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const CONSTRUCTED: u8 = 0x20;

/// Maximum nesting of elements of indefinite length: each level is scanned again by the one above it.
const MAX_DEPTH: usize = 12;

#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub tag: u8,
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// The first element of the input, whatever follows it.
    pub(crate) fn first(input: &'a [u8]) -> Option<Element<'a>> {
        Some(read(input, 0)?.0)
    }

    /// The elements of a sequence. None if this is not a sequence, or if one of them is malformed.
    pub(crate) fn sequence(self) -> Option<Vec<Element<'a>>> {
        (self.tag == SEQUENCE).then_some(())?;
        self.nested()
    }

    fn nested(self) -> Option<Vec<Element<'a>>> {
        let mut rest = self.content;
        let mut elements = Vec::new();
        while !rest.is_empty() {
            let (element, after) = read(rest, 0)?;
            elements.push(element);
            rest = after;
        }
        Some(elements)
    }

    /// A number without sign and leading zeros: some writers omit the zero byte that makes it positive.
    pub(crate) fn unsigned(self) -> Option<&'a [u8]> {
        if self.tag != INTEGER || self.content.is_empty() {
            return None;
        }
        let zeros = self.content.iter().take_while(|byte| **byte == 0).count();
        Some(&self.content[zeros..])
    }

    /// A small number. None if it is larger.
    pub(crate) fn small(self) -> Option<u64> {
        let bytes = self.unsigned()?;
        (bytes.len() <= 8).then(|| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// An object identifier's content.
    pub(crate) fn identifier(self) -> Option<&'a [u8]> {
        (self.tag == OBJECT_IDENTIFIER && !self.content.is_empty()).then_some(self.content)
    }

    /// An octet string, joined if it comes in pieces.
    pub(crate) fn octets(self) -> Option<Zeroizing<Vec<u8>>> {
        self.string(OCTET_STRING, Some)
    }

    /// A bit string of whole bytes.
    pub(crate) fn bits(self) -> Option<Zeroizing<Vec<u8>>> {
        self.string(BIT_STRING, |piece| piece.strip_prefix(&[0]))
    }

    fn string(
        self,
        tag: u8,
        bytes: impl Fn(&'a [u8]) -> Option<&'a [u8]>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut whole = Zeroizing::new(Vec::with_capacity(self.content.len()));
        if self.tag == tag {
            whole.extend_from_slice(bytes(self.content)?);
        } else if self.tag == tag | CONSTRUCTED {
            for piece in self.nested()? {
                (piece.tag == tag).then_some(())?;
                whole.extend_from_slice(bytes(piece.content)?);
            }
        } else {
            return None;
        }
        Some(whole)
    }
}

/// The first element, and the rest of the input.
fn read(input: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    // Tags of several bytes do not occur in key files.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    match first {
        0..0x80 => split(tag, rest, first.into()),
        0x80 => indefinite(tag, rest, depth),
        _ => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().try_fold(0usize, |length, byte| {
                length.checked_mul(256)?.checked_add(usize::from(*byte))
            })?;
            split(tag, rest, length)
        }
    }
}

fn split(tag: u8, rest: &[u8], length: usize) -> Option<(Element<'_>, &[u8])> {
    let (content, rest) = rest.split_at_checked(length)?;
    Some((Element { tag, content }, rest))
}

/// Up to the two zero bytes that end it, which are not an element of it.
fn indefinite(tag: u8, content: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    if depth == MAX_DEPTH || tag & CONSTRUCTED == 0 {
        return None;
    }
    let mut rest = content;
    loop {
        if let Some(after) = rest.strip_prefix(&[0, 0]) {
            let content = &content[..content.len() - rest.len()];
            return Some((Element { tag, content }, after));
        }
        rest = read(rest, depth + 1)?.1;
    }
}

/// A sequence of numbers, each big-endian with or without leading zeros, encoded in DER.
pub(crate) fn sequence_of_numbers(numbers: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let room = numbers.iter().map(|number| number.len() + 6).sum();
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    for number in numbers {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        // Zero has one byte, and a leading one bit would be a sign.
        let padded = number.first().is_none_or(|byte| *byte >= 0x80);
        content.push(INTEGER);
        push_length(&mut content, number.len() + usize::from(padded));
        if padded {
            content.push(0);
        }
        content.extend_from_slice(number);
    }
    let mut sequence = Zeroizing::new(Vec::with_capacity(content.len() + 6));
    sequence.push(SEQUENCE);
    push_length(&mut sequence, content.len());
    sequence.extend_from_slice(&content);
    sequence
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    if length < 0x80 {
        out.push(length as u8);
        return;
    }
    let bytes = length.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    out.push(0x80 | (bytes.len() - zeros) as u8);
    out.extend_from_slice(&bytes[zeros..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short_long_or_indefinite() {
        for input in [
            &[0x30, 3, 2, 1, 7][..],
            &[0x30, 0x81, 3, 2, 1, 7],
            &[0x30, 0x84, 0, 0, 0, 3, 2, 1, 7],
            &[0x30, 0x80, 2, 1, 7, 0, 0],
            &[0x30, 5, 2, 0x82, 0, 1, 7],
            &[0x30, 3, 2, 1, 7, 10],
            &[0x30, 0x80, 2, 1, 7, 0, 0, 0, 0, 0],
        ] {
            let elements = Element::first(input).unwrap().sequence().unwrap();
            assert_eq!(elements.len(), 1, "{input:x?}");
            assert_eq!(elements[0].small(), Some(7), "{input:x?}");
        }
        for input in [
            &[][..],
            &[0x30],
            &[0x30, 3, 2, 1],
            &[0x30, 0x80, 2, 1, 7],
            &[0x30, 0x80, 2, 1, 7, 0],
            &[
                0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[0x30, 0xff, 1],
            &[0x02, 0x80, 0, 0],
            &[0x1f, 1, 1],
            &[0x30, 0x80].repeat(100),
        ] {
            assert!(Element::first(input).is_none(), "{input:x?}");
        }
    }

    #[test]
    fn numbers_have_no_sign_and_strings_may_come_in_pieces() {
        let number = |input: &[u8]| {
            Element::first(input)
                .unwrap()
                .unsigned()
                .map(<[u8]>::to_vec)
        };
        assert_eq!(number(&[2, 2, 0, 0x80]), Some(vec![0x80]));
        assert_eq!(number(&[2, 1, 0x80]), Some(vec![0x80]));
        assert_eq!(number(&[2, 4, 0, 0, 0, 5]), Some(vec![5]));
        assert_eq!(number(&[2, 1, 0]), Some(vec![]));
        assert_eq!(number(&[2, 0]), None);
        assert_eq!(number(&[4, 1, 0]), None);
        let pieces = [0x24, 0x80, 4, 1, b'a', 4, 2, b'b', b'c', 0, 0];
        let octets = Element::first(&pieces).unwrap().octets().unwrap();
        assert_eq!(octets.as_slice(), b"abc");
        let bits = Element::first(&[3, 2, 0, 9]).unwrap().bits().unwrap();
        assert_eq!(bits.as_slice(), [9]);
        assert!(Element::first(&[3, 2, 1, 9]).unwrap().bits().is_none());
    }

    #[test]
    fn written_values_can_be_read() {
        let long = vec![0x9a; 300];
        let der = sequence_of_numbers(&[&[], &[0, 0, 1], &long, &[0x7f]]);
        let elements = Element::first(&der).unwrap().sequence().unwrap();
        let numbers: Vec<_> = elements.iter().map(|e| e.unsigned().unwrap()).collect();
        assert_eq!(numbers, [&[][..], &[1], &long, &[0x7f]]);
        assert_eq!(der[..4], [0x30, 0x82, 1, 0x3a]);
    }
}
