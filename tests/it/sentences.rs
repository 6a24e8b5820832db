//! Keeps docs/semantics.md and the tests together: every sentence of the document is quoted, word for word, in the
//! doc comment of a test that proves it, and no test quotes a sentence that the document does not contain.

use std::fs;
use std::path::Path;

/// Sentences that no test can prove, by their first words, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("When a case is unclear", "the list that follows is tested"),
    (
        "Acknowledged data is in",
        "a principle: its cases are tested",
    ),
    (
        "No client sees a partial",
        "a principle: its cases are tested",
    ),
    (
        "Whatever cannot be done",
        "a principle: its cases are tested",
    ),
    (
        "Nothing is written in plaintext",
        "a principle: its cases are tested",
    ),
    (
        "Applications can leave",
        "about applications, not the mount",
    ),
    ("The kernel may swap", "advice"),
    (
        "There are three exceptions",
        "the list that follows is tested",
    ),
    (
        "If another client changes only",
        "what may go unnoticed may be noticed",
    ),
    ("This document describes", "about the document"),
];

/// The paragraphs and list items of the document, each joined into one line, without headings and without the bold
/// name at the start of an operation's paragraph.
fn paragraphs(document: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in document.lines().map(str::trim) {
        let item = line.strip_prefix("- ").or_else(|| {
            let (number, item) = line.split_once(". ")?;
            number.parse::<u8>().ok()?;
            Some(item)
        });
        if line.is_empty() || line.starts_with('#') || item.is_some() {
            paragraphs.push(String::new());
        }
        let text = match line
            .strip_prefix("**")
            .and_then(|line| line.split_once("**"))
        {
            Some((_, text)) => text.trim(),
            None => item.unwrap_or(line),
        };
        if !line.starts_with('#') {
            let paragraph = paragraphs.last_mut().unwrap();
            *paragraph = format!("{paragraph} {text}").trim().to_owned();
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

fn sentences(paragraph: &str) -> impl Iterator<Item = &str> {
    let sentences = paragraph.split_inclusive(". ");
    sentences.map(str::trim)
}

/// The doc comments of all tests, each joined into one line.
fn comments_of_tests() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("tests/it"), root.join("src")];
    let mut comments = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                collect_comments(&fs::read_to_string(path).unwrap(), &mut comments);
            }
        }
    }
    comments
}

fn collect_comments(source: &str, comments: &mut Vec<String>) {
    let mut comment = String::new();
    for line in source.lines().map(str::trim) {
        match line.strip_prefix("///") {
            Some(text) => comment = format!("{comment} {}", text.trim()),
            None => {
                let comment = std::mem::take(&mut comment);
                if line.ends_with("test]") || line.starts_with("#[ignore") {
                    comments.push(comment.trim().to_owned());
                }
            }
        }
    }
}

fn document() -> Vec<String> {
    paragraphs(include_str!("../../docs/semantics.md"))
}

#[test]
fn every_sentence_of_the_document_is_quoted_by_a_test() {
    let comments = comments_of_tests();
    let mut missing = Vec::new();
    let document = document();
    let mut not_shown = 0;
    for sentence in document.iter().flat_map(|paragraph| sentences(paragraph)) {
        let quoted = comments.iter().any(|comment| comment.contains(sentence));
        match NOT_SHOWN
            .iter()
            .any(|(begin, _)| sentence.starts_with(begin))
        {
            true => not_shown += 1,
            false if !quoted => missing.push(sentence),
            false => {}
        }
    }
    assert!(
        missing.is_empty(),
        "no test quotes these sentences:\n{}",
        missing.join("\n")
    );
    assert_eq!(
        not_shown,
        NOT_SHOWN.len(),
        "NOT_SHOWN names a sentence that the document does not contain"
    );
}

#[test]
fn every_quotation_in_a_test_is_in_the_document() {
    let document = document();
    // A quotation is one or more sentences at the start of a comment, in quotation marks: `"One. Another."`
    for comment in comments_of_tests() {
        let mut rest = comment.as_str();
        while let Some(quote) = rest.strip_prefix('"') {
            let (quote, after) = quote.split_once('"').expect("the quote ends");
            let found = document.iter().any(|paragraph| paragraph.contains(quote));
            assert!(found, "not in docs/semantics.md: {quote}");
            rest = after.trim_start();
        }
    }
}
