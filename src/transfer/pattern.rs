//! A pattern of rsync's: which paths it matches. Pure.
//!
//! The rules are those of rsync(1), "INCLUDE/EXCLUDE PATTERN RULES", and so is what they say of each case:
//!
//! - a pattern that begins with `/` is anchored at the root of the transfer; one that ends with `/` matches directories
//!   only; one with neither another `/` nor `**` is compared with the last name of a path alone;
//! - `*` and `?` stop at slashes, `**` does not, `[...]` is a class, which never matches a slash, and `dir/***` is the
//!   directory with everything in it;
//! - any other pattern is compared with as many names at the end of the path as it has itself.
//!
//! Matching takes time linear in the text for each token: no pattern makes it explode.

/// One element of a pattern with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**`, or more of them.
    StarStar,
    /// The bytes of a class, by bit.
    Class(Box<[u64; 4]>),
    /// What never matches: a class without its end.
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// Without the slashes at its start and end that have a meaning of their own.
    text: Vec<u8>,
    /// None: no wildcards, and backslashes are themselves.
    tokens: Option<Vec<Token>>,
    anchored: bool,
    directories_only: bool,
    /// In the pattern without the one at its end.
    slashes: usize,
    has_double_star: bool,
    begins_with_double_star: bool,
    ends_with_triple_star: bool,
}

impl Pattern {
    /// None for an empty pattern.
    pub(crate) fn new(text: &str) -> Option<Pattern> {
        let (text, directories_only) = match text.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => (rest, true),
            _ => (text, false),
        };
        if text.is_empty() {
            return None;
        }
        let slashes = text.bytes().filter(|byte| *byte == b'/').count();
        let wild = text.contains(['*', '[', '?']);
        let has_double_star = wild && text.contains("**");
        let begins_with_double_star = has_double_star && text.starts_with("**");
        let ends_with_triple_star = has_double_star && text.ends_with("***");
        let (bare, anchored) = match text.strip_prefix('/') {
            Some(bare) => (bare, true),
            None => (text, false),
        };
        Some(Pattern {
            text: bare.as_bytes().to_vec(),
            tokens: wild.then(|| tokens(bare.as_bytes())),
            anchored,
            directories_only,
            slashes,
            has_double_star,
            begins_with_double_star,
            ends_with_triple_star,
        })
    }

    /// `path` is below the root of the transfer, without slashes at its ends.
    pub(crate) fn matches(&self, path: &str, is_directory: bool) -> bool {
        if self.directories_only && !is_directory && !self.ends_with_triple_star {
            return false;
        }
        let mut text = Vec::with_capacity(path.len() + 2);
        if self.slashes == 0 && !self.has_double_star {
            let name = path.rsplit('/').next().unwrap_or(path);
            text.extend_from_slice(name.as_bytes());
        } else {
            if self.begins_with_double_star {
                // `**/` may match at the start of the path.
                text.push(b'/');
            }
            text.extend_from_slice(path.as_bytes());
        }
        if is_directory && self.ends_with_triple_star {
            text.push(b'/');
        } else if self.directories_only && !is_directory {
            return false;
        }
        let Some(tokens) = &self.tokens else {
            return self.matches_literally(&text);
        };
        if !self.anchored && self.slashes > 0 && !self.has_double_star {
            return last_names(&text, self.slashes + 1).is_some_and(|end| wild(tokens, end));
        }
        if !self.anchored && self.has_double_star && !self.begins_with_double_star {
            let starts = text
                .iter()
                .enumerate()
                .filter_map(|(at, byte)| (*byte == b'/').then_some(at + 1));
            return std::iter::once(0)
                .chain(starts)
                .any(|start| wild(tokens, &text[start..]));
        }
        wild(tokens, &text)
    }

    fn matches_literally(&self, text: &[u8]) -> bool {
        if self.anchored {
            return text == self.text;
        }
        text.strip_suffix(self.text.as_slice())
            .is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
    }
}

/// The last `count` names of a path; None if it has fewer.
fn last_names(path: &[u8], count: usize) -> Option<&[u8]> {
    let mut left = count;
    for (at, byte) in path.iter().enumerate().rev() {
        if *byte == b'/' {
            left -= 1;
            if left == 0 {
                return Some(&path[at + 1..]);
            }
        }
    }
    (left == 1).then_some(path)
}

fn tokens(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'?' => tokens.push(Token::Any),
            b'*' => {
                let stars = pattern[at..].iter().take_while(|b| **b == b'*').count();
                tokens.push(match stars {
                    1 => Token::Star,
                    _ => Token::StarStar,
                });
                at += stars;
                continue;
            }
            b'\\' => {
                at += 1;
                tokens.push(pattern.get(at).map_or(Token::Never, |b| Token::Byte(*b)));
            }
            b'[' => match class(&pattern[at + 1..]) {
                Some((class, len)) => {
                    tokens.push(Token::Class(Box::new(class)));
                    at += len;
                }
                None => {
                    tokens.push(Token::Never);
                    return tokens;
                }
            },
            byte => tokens.push(Token::Byte(byte)),
        }
        at += 1;
    }
    tokens
}

/// The class that begins after its `[`, and its length with its `]`. None without an end.
fn class(text: &[u8]) -> Option<([u64; 4], usize)> {
    let mut set = [0u64; 4];
    let mut add = |byte: u8| set[usize::from(byte >> 6)] |= 1 << (byte & 63);
    let mut at = 0;
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    at += usize::from(negated);
    let mut previous: Option<u8> = None;
    let mut first = true;
    loop {
        let byte = *text.get(at)?;
        if byte == b']' && !first {
            break;
        }
        first = false;
        match byte {
            b'\\' => {
                at += 1;
                let byte = *text.get(at)?;
                add(byte);
                previous = Some(byte);
            }
            b'-' if previous.is_some() && text.get(at + 1).is_some_and(|next| *next != b']') => {
                at += 1;
                let mut last = *text.get(at)?;
                if last == b'\\' {
                    at += 1;
                    last = *text.get(at)?;
                }
                if let Some(from) = previous {
                    (from..=last).for_each(&mut add);
                }
                previous = None;
            }
            b'[' if text.get(at + 1) == Some(&b':') => {
                let name = &text[at + 2..];
                let end = name.windows(2).position(|pair| pair == b":]");
                match end {
                    Some(end) => {
                        let of_class = named(&name[..end])?;
                        (0..=127u8).filter(of_class).for_each(&mut add);
                        at += end + 3;
                    }
                    None => add(b'['),
                }
                previous = None;
            }
            byte => {
                add(byte);
                previous = Some(byte);
            }
        }
        at += 1;
    }
    if negated {
        set = set.map(|bits| !bits);
    }
    Some((set, at + 1))
}

/// `[:alpha:]` and the others; None for a name that is none.
fn named(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Whether the tokens match the whole text: all places in the pattern that the text so far may lead to are followed at
/// the same time.
fn wild(tokens: &[Token], text: &[u8]) -> bool {
    let mut states = vec![false; tokens.len() + 1];
    enter(tokens, &mut states, 0);
    for byte in text {
        let mut next = vec![false; tokens.len() + 1];
        for (at, token) in tokens.iter().enumerate() {
            if !states[at] {
                continue;
            }
            let slash = *byte == b'/';
            match token {
                Token::Star if !slash => enter(tokens, &mut next, at),
                Token::StarStar => enter(tokens, &mut next, at),
                Token::Any if !slash => enter(tokens, &mut next, at + 1),
                Token::Byte(wanted) if wanted == byte => enter(tokens, &mut next, at + 1),
                Token::Class(set)
                    if !slash && set[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1 =>
                {
                    enter(tokens, &mut next, at + 1);
                }
                _ => {}
            }
        }
        states = next;
    }
    states[tokens.len()]
}

/// Stars match nothing as well.
fn enter(tokens: &[Token], states: &mut [bool], mut at: usize) {
    while !states[at] {
        states[at] = true;
        if !matches!(tokens.get(at), Some(Token::Star | Token::StarStar)) {
            return;
        }
        at += 1;
    }
}

/// Whether a shell pattern matches a whole name: `*` and `?` match anything, as in find(1).
pub(crate) fn name_matches(pattern: &str, name: &str, ignore_case: bool) -> bool {
    let (pattern, name) = match ignore_case {
        true => (pattern.to_lowercase(), name.to_lowercase()),
        false => (pattern.to_owned(), name.to_owned()),
    };
    wild(&tokens(pattern.as_bytes()), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of rsync's own documentation, and where it treats the ends of a path in a way of its own. The
    /// integration tests compare more of them with rsync itself.
    #[test]
    fn patterns_match_what_rsync_matches() {
        for (pattern, path, is_directory, matches) in [
            ("*.o", "a.o", false, true),
            ("*.o", "x/a.o", false, true),
            ("*.o", "a.o/x", false, false),
            ("/foo", "foo", false, true),
            ("/foo", "x/foo", false, false),
            ("foo/", "x/foo", true, true),
            ("foo/", "foo", false, false),
            ("foo/*/bar", "foo/x/bar", false, true),
            ("foo/*/bar", "a/foo/x/bar", false, true),
            ("foo/*/bar", "foo/x/y/bar", false, false),
            ("/foo/*/bar", "a/foo/x/bar", false, false),
            ("/foo/**/bar", "foo/x/y/bar", false, true),
            ("/foo/**/bar", "foo/bar", false, false),
            ("foo/bar", "x/foo/bar", false, true),
            ("foo/bar", "xfoo/bar", false, false),
            ("**/bar", "bar", false, true),
            ("**/bar", "x/y/bar", false, true),
            ("**bar", "x/ybar", false, true),
            ("b**", "a/b/c", false, true),
            ("dir/***", "dir", true, true),
            ("dir/***", "dir/a/b", false, true),
            ("dir/***", "dir", false, false),
            ("dir/**", "dir", true, false),
            ("?", "é", false, false),
            ("a?c", "abc", false, true),
            ("a?c", "a/c", false, false),
            ("[a-c]x", "bx", false, true),
            ("[!a-c]x", "bx", false, false),
            ("[^a-c]x", "dx", false, true),
            ("[]x]", "]", false, true),
            ("[[:digit:]]*", "7up", false, true),
            ("[[:nonsense:]]", "a", false, false),
            ("[a", "[a", false, false),
            ("a\\*", "a*", false, true),
            ("a\\*", "ab", false, false),
            // Without wildcards a backslash is itself.
            ("a\\b", "a\\b", false, true),
            ("*", "anything", true, true),
            ("*/", "anything", false, false),
        ] {
            let found = Pattern::new(pattern).unwrap().matches(path, is_directory);
            assert_eq!(found, matches, "{pattern} {path} {is_directory}");
        }
        assert!(Pattern::new("").is_none());
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_another() {
        let pattern = "*a".repeat(60) + "b";
        let text = "a".repeat(1000);
        assert!(!Pattern::new(&pattern).unwrap().matches(&text, false));
        let pattern = "**a".repeat(60) + "b";
        assert!(!Pattern::new(&pattern).unwrap().matches(&text, false));
    }

    #[test]
    fn names_are_matched_as_find_does() {
        for (pattern, name, ignore_case, matches) in [
            ("*.TXT", "a.txt", true, true),
            ("*.TXT", "a.txt", false, false),
            ("a*", ".a", false, false),
            ("*", ".a", false, true),
        ] {
            assert_eq!(
                name_matches(pattern, name, ignore_case),
                matches,
                "{pattern}"
            );
        }
    }
}
