//! The layers of the program, the imports between them, and a test that enforces both: imports are read from
//! the source text.
//!
//! - A layer is a module of the crate's root. It imports from the layers in its row of [`ROOMS`] and from no
//!   other.
//! - No two files import each other, however indirectly. A parent that defines what its children import, and
//!   imports them, is also a cycle.
//!
//! An import is a `use` or a path written out: `crate::…`, `self::…`, `super::…`, `ossvault_room::…`, or one that
//! begins with a child module. Method calls are not seen: a type whose methods are spread over many files is one big file.
//!
//! Unit tests (`#[cfg(test)]`) are excluded: they may use anything that demonstrates what their file does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each layer, and the layers it imports from: only rows above its own, and every import of a row is in use.
const ROOMS: &[(&str, &str)] = &[
    // The ground floor: no knowledge of buckets, keys or files.
    ("base", ""),
    ("text", ""),
    // SQLite databases: no knowledge of their contents.
    ("database", "base"),
    // Secrets, and the encoding of wrapped keys.
    ("crypto", "text"),
    ("envelope", "crypto"),
    // What every bucket speaks of: keys, headers, bodies, listings, errors.
    ("object", "base"),
    // The protocol, and buckets: the service, a folder.
    ("oss", "base object"),
    ("store", "base database object oss"),
    // A bucket whose objects are plaintext to those above.
    ("encrypted", "base crypto envelope store"),
    // An endpoint for tests and the demo.
    ("server", "base object oss store"),
    // How files are objects: attributes, names, the parts of uploads.
    ("files", "envelope store"),
    // The file system; the kernel.
    ("fs", "base crypto encrypted envelope files store"),
    ("fuse", "base files fs"),
    // Operations on whole buckets; the commands.
    ("tools", "base crypto encrypted envelope files store text"),
    // What keeps a mount from working.
    ("doctor", "base crypto encrypted oss store text"),
    // Files between this machine and buckets, without a mount.
    (
        "transfer",
        "base crypto encrypted envelope files store tools",
    ),
    (
        "cli",
        "base crypto doctor encrypted envelope files fs fuse oss server store text tools transfer",
    ),
    // Not of the program: what stands in for a bucket in tests; what fuzzing may reach, and the binary.
    ("testing", "base object store"),
    (
        "fuzzing",
        "base cli crypto encrypted envelope files fs fuse object oss server store text tools",
    ),
    ("main", "cli"),
    // The manuals of the packages.
    ("packaging", "cli"),
];

/// What one file imports from another, at a line.
struct Arrow {
    from: usize,
    to: usize,
    line: usize,
    path: String,
}

struct Source {
    /// Relative to the root of the crate, `src/oss/client.rs`.
    name: String,
    /// `["oss", "client"]`; empty for lib.rs.
    module: Vec<String>,
    /// Without comments, literals and unit tests; line numbers are unchanged.
    code: String,
    /// Modules that it declares in files of their own.
    children: BTreeSet<String>,
}

impl Source {
    fn room(&self) -> &str {
        self.module.first().map_or("the crate's root", |room| room)
    }
}

/// Blanks comments and literals, so that only code remains. Keeps newlines.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let mut blank = |range: std::ops::Range<usize>| {
        for byte in &mut out[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let find = |from: usize, what: &str| text[from..].find(what).map(|found| from + found);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            find(at, "\n").unwrap_or(bytes.len())
        } else if rest.starts_with(b"/*") {
            find(at, "*/").map_or(bytes.len(), |end| end + 2)
        } else if rest.starts_with(b"r\"") || rest.starts_with(b"r#") {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            // Not the last letter of a name, and not a raw identifier.
            let is_literal = rest.get(1 + hashes) == Some(&b'"')
                && !(at > 0 && (bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b'));
            if !is_literal {
                at += 1;
                continue;
            }
            let close = format!("\"{}", "#".repeat(hashes));
            find(at + hashes + 2, &close).map_or(bytes.len(), |end| end + close.len())
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest[0] == b'\'' {
            // A character, or a lifetime, which has no second quote right after.
            let char_len = text[at + 1..].chars().next().map_or(1, char::len_utf8);
            match rest.get(1) {
                Some(b'\\') => find(at + 3, "'").map_or(bytes.len(), |end| end + 1),
                _ if rest.get(1 + char_len) == Some(&b'\'') => at + char_len + 2,
                _ => at + 1,
            }
        } else {
            at += 1;
            continue;
        };
        let end = end.min(bytes.len());
        blank(at..end);
        at = end;
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// The end of the item that begins at `at`: after its `;` or its block.
fn end_of_item(code: &str, at: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 && byte == b'}' {
                    return offset + 1;
                }
            }
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks the items that are only for tests. Returns the test modules in files of their own.
fn without_tests(code: &mut String) -> BTreeSet<String> {
    const MARK: &str = "#[cfg(test)]";
    let mut files = BTreeSet::new();
    while let Some(at) = code.find(MARK) {
        let end = end_of_item(code, at + MARK.len());
        let item = &code[at + MARK.len()..end];
        if let Some(name) = item
            .trim()
            .strip_prefix("mod ")
            .and_then(|m| m.strip_suffix(';'))
        {
            files.insert(name.to_owned());
        }
        let blank: String = (code[at..end].chars())
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(at..end, &blank);
    }
    files
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn words(code: &str) -> Vec<&str> {
    let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).collect()
}

/// Modules declared in files of their own.
fn children_of(code: &str) -> BTreeSet<String> {
    let mut children = BTreeSet::new();
    for line in code.lines() {
        let Some(line) = line.trim().strip_suffix(';') else {
            continue;
        };
        if let [.., "mod", name] = words(line)[..] {
            children.insert(name.to_owned());
        }
    }
    children
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    let mut of_tests = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let stem = name
                .strip_prefix("src/")
                .unwrap()
                .strip_suffix(".rs")
                .unwrap();
            let stem = stem.strip_suffix("/mod").unwrap_or(stem);
            let module: Vec<String> = match stem {
                "lib" => Vec::new(),
                stem => stem.split('/').map(str::to_owned).collect(),
            };
            let mut code = code_of(&fs::read_to_string(&path).unwrap());
            for test in without_tests(&mut code) {
                let mut module = module.clone();
                module.push(test);
                of_tests.insert(module);
            }
            let children = children_of(&code);
            sources.push(Source {
                name,
                module,
                code,
                children,
            });
        }
    }
    // The library's root re-exports the rooms that are crates; the server's binary is above it.
    sources.retain(|source| {
        !of_tests.contains(&source.module)
            && !source.module.is_empty()
            && source.name != "src/server/bin/test_server.rs"
    });
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    sources
}

/// The paths of a `use`, with their offsets: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn spread(tree: &str, at: usize, before: &[String], out: &mut Vec<(usize, Vec<String>)>) {
    let mut depth = 0;
    let mut begin = 0;
    let mut parts = Vec::new();
    for (offset, byte) in tree.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push((begin, &tree[begin..offset]));
                begin = offset + 1;
            }
            _ => {}
        }
    }
    parts.push((begin, &tree[begin..]));
    for (offset, part) in parts {
        let at = at + offset + (part.len() - part.trim_start().len());
        let (head, group) = match part.split_once('{') {
            Some((head, group)) => (head, group.trim_end().strip_suffix('}')),
            None => (part.split(" as ").next().unwrap(), None),
        };
        let mut path = before.to_vec();
        path.extend(words(head).into_iter().map(str::to_owned));
        match group {
            Some(group) => {
                let offset = part.find('{').unwrap() + 1 - (part.len() - part.trim_start().len());
                spread(group, at + offset, &path, out);
            }
            None if path.len() > before.len() || part.contains('*') => out.push((at, path)),
            None => {}
        }
    }
}

/// Every path in a file, as words, with its offset.
fn paths_in(source: &Source) -> Vec<(usize, Vec<String>)> {
    let code = &source.code;
    let bytes = code.as_bytes();
    let mut paths = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        let end = at
            + bytes[at..]
                .iter()
                .take_while(|byte| is_word(**byte))
                .count();
        let word = &code[at..end];
        if word == "use" && bytes.get(end).is_some_and(u8::is_ascii_whitespace) {
            let close = code[end..]
                .find(';')
                .map_or(code.len(), |semicolon| end + semicolon);
            spread(&code[end..close], end, &[], &mut paths);
            at = close;
            continue;
        }
        // A path continues as long as `::` and a word follow.
        let mut path = vec![word.to_owned()];
        let mut end = end;
        while code[end..].starts_with("::") {
            let next = end + 2;
            let length = bytes[next..]
                .iter()
                .take_while(|byte| is_word(**byte))
                .count();
            if length == 0 {
                break;
            }
            path.push(code[next..next + length].to_owned());
            end = next + length;
        }
        if path.len() > 1 {
            paths.push((at, path));
        }
        at = end;
    }
    paths
}

fn arrows(sources: &[Source]) -> Vec<Arrow> {
    let files: BTreeMap<&[String], usize> = (sources.iter().enumerate())
        .map(|(n, source)| (&source.module[..], n))
        .collect();
    let mut arrows = Vec::new();
    for (from, source) in sources.iter().enumerate() {
        for (at, path) in paths_in(source) {
            let mut rest = &path[..];
            let mut module = source.module.clone();
            match rest[0].as_str() {
                // main.rs names the library.
                "crate" | "ossvault" if rest.len() > 1 => module.clear(),
                // A room that is a crate.
                name if name.starts_with("ossvault_") => {
                    module = vec![name["ossvault_".len()..].to_owned()];
                    rest = &rest[1..];
                }
                "self" | "super" => {}
                child if source.children.contains(child) => {}
                _ => continue,
            }
            if let Some("crate" | "ossvault" | "self") = rest.first().map(String::as_str) {
                rest = &rest[1..];
            }
            while rest.first().is_some_and(|word| word == "super") {
                module.pop();
                rest = &rest[1..];
            }
            for word in rest {
                module.push(word.clone());
                if !files.contains_key(&module[..]) {
                    module.pop();
                    break;
                }
            }
            let Some(&to) = files.get(&module[..]) else {
                continue;
            };
            if to != from {
                arrows.push(Arrow {
                    from,
                    to,
                    line: 1 + source.code[..at].matches('\n').count(),
                    path: path.join("::"),
                });
            }
        }
    }
    arrows
}

fn told(sources: &[Source], arrow: &Arrow) -> String {
    let (from, to) = (&sources[arrow.from], &sources[arrow.to]);
    format!("{}:{}: {} ({})", from.name, arrow.line, arrow.path, to.name)
}

/// The files that each file reaches.
fn reached(count: usize, arrows: &[Arrow]) -> Vec<BTreeSet<usize>> {
    let mut direct = vec![BTreeSet::new(); count];
    for arrow in arrows {
        direct[arrow.from].insert(arrow.to);
    }
    let mut all = Vec::with_capacity(count);
    for from in 0..count {
        let mut seen = BTreeSet::new();
        let mut next: Vec<usize> = direct[from].iter().copied().collect();
        while let Some(file) = next.pop() {
            if seen.insert(file) {
                next.extend(&direct[file]);
            }
        }
        all.push(seen);
    }
    all
}

#[test]
fn layers_import_only_from_the_layers_in_their_row() {
    for (n, (room, below)) in ROOMS.iter().enumerate() {
        for other in words(below) {
            let above = ROOMS[..n].iter().any(|(name, _)| *name == other);
            assert!(
                above,
                "{room} may import from {other}, which has no row above it"
            );
        }
    }
    let sources = sources();
    let rows: BTreeMap<&str, BTreeSet<&str>> = (ROOMS.iter())
        .map(|(room, below)| (*room, words(below).into_iter().collect()))
        .collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for arrow in arrows(&sources) {
        let (from, to) = (sources[arrow.from].room(), sources[arrow.to].room());
        if from == to {
            continue;
        }
        used.insert((from.to_owned(), to.to_owned()));
        if !rows.get(from).is_some_and(|row| row.contains(to)) {
            wrong.push(format!("{from} -> {to}: {}", told(&sources, &arrow)));
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that no row has:\n{}",
        wrong.join("\n")
    );
    // A row lists the actual imports, not the possible ones.
    for (room, below) in &rows {
        for other in below {
            let arrow = ((*room).to_owned(), (*other).to_owned());
            assert!(used.contains(&arrow), "{room} imports nothing from {other}");
        }
    }
}

#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    let arrows = arrows(&sources);
    let reached = reached(sources.len(), &arrows);
    let mut wrong = Vec::new();
    for arrow in &arrows {
        let circle = reached[arrow.to].contains(&arrow.from);
        if circle {
            wrong.push(told(&sources, arrow));
        }
    }
    assert!(wrong.is_empty(), "arrows of circles:\n{}", wrong.join("\n"));
}

#[test]
fn imports_are_read_from_code_alone() {
    let code = r##"
        //! crate::comment
        use crate::a::{self, b::C, d::{E as F, g}}; /* use crate::no; */
        use super::h;
        mod child;
        fn f<'a>(x: &'a str) -> char { let _ = "crate::text \" crate::text"; child::call(); crate::i::j(x); '"' }
        const R: &str = r#"crate::raw " crate::raw"#;
        #[cfg(test)]
        mod tests { use super::*; fn g() { crate::test::x(); } }
        fn k() { super::super::l() }
    "##;
    let mut code = code_of(code);
    assert!(without_tests(&mut code).is_empty());
    let children = children_of(&code);
    assert_eq!(children.iter().collect::<Vec<_>>(), ["child"]);
    let source = Source {
        name: String::new(),
        module: Vec::new(),
        code,
        children,
    };
    let paths: Vec<String> = paths_in(&source)
        .iter()
        .map(|(_, path)| path.join("::"))
        .collect();
    assert_eq!(
        paths,
        [
            "crate::a::self",
            "crate::a::b::C",
            "crate::a::d::E",
            "crate::a::d::g",
            "super::h",
            "child::call",
            "crate::i::j",
            "super::super::l",
        ]
    );
    let mut code = "#[cfg(test)]\nmod tests;\nmod b;".to_owned();
    assert_eq!(
        without_tests(&mut code),
        BTreeSet::from(["tests".to_owned()])
    );
}
