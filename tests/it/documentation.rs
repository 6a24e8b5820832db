//! README.md, CONTRIBUTING.md, SECURITY.md and docs/: links lead somewhere, the book contains every page, every command
//! line is one, messages are those of the program, and blocks of commands run as they are written.
//!
//! A block after the line `<!-- runs -->` is run. All such blocks of a document are one script, which starts in an empty
//! home directory; `<!-- runs with PROGRAM -->` leaves a block out if that program is not installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ::ossvault::store::local::{LocalStore, Settings};
use ::ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::fixture::{PROGRAM, Rig, can_mount, clean, find, ossvault};

struct Document {
    /// Below the root of the repository.
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Document {
    Document {
        path: path.into(),
        text: fs::read_to_string(root().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}")),
    }
}

/// The names of the pages in docs/.
fn pages() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md")).collect()
}

fn documents() -> Vec<Document> {
    let mut documents: Vec<_> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(read)
        .into();
    documents.extend(pages().iter().map(|name| read(&format!("docs/{name}"))));
    documents
}

/// A block between fences, or of lines that are indented.
struct Block {
    /// The first line of its content, from 1.
    line: usize,
    language: String,
    /// The comment before it.
    marker: Option<String>,
    lines: Vec<String>,
}

impl Document {
    /// The blocks of code, and the text without them, line by line.
    fn parts(&self) -> (Vec<Block>, Vec<&str>) {
        let mut blocks: Vec<Block> = Vec::new();
        let mut prose = Vec::new();
        let mut fence: Option<usize> = None;
        let mut last = "";
        for (number, line) in self.text.lines().enumerate() {
            let content = line.trim_start();
            let indent = line.len() - content.len();
            match (fence, content.strip_prefix("```")) {
                (None, Some(language)) => {
                    fence = Some(indent);
                    blocks.push(Block {
                        line: number + 2,
                        language: language.trim().to_owned(),
                        marker: marker(last),
                        lines: Vec::new(),
                    });
                    prose.push("");
                }
                (Some(_), Some(_)) => {
                    fence = None;
                    prose.push("");
                }
                (Some(indent), None) => {
                    let block = blocks.last_mut().expect("a fence has begun");
                    block
                        .lines
                        .push(line.get(indent..).unwrap_or_default().to_owned());
                    prose.push("");
                }
                (None, None) if indent >= 4 && !content.starts_with(['-', '*']) => {
                    blocks.push(Block {
                        line: number + 1,
                        language: String::new(),
                        marker: None,
                        lines: vec![content.to_owned()],
                    });
                    prose.push("");
                }
                (None, None) => prose.push(line),
            }
            last = content;
        }
        assert!(
            fence.is_none(),
            "{}: a block has no end",
            self.path.display()
        );
        (blocks, prose)
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let (_, prose) = self.parts();
        let mut anchors = BTreeSet::new();
        for heading in prose.iter().filter(|line| line.starts_with('#')) {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor: String = kept.collect::<String>().replace(' ', "-");
            let taken = (1..).map(|n| format!("{anchor}-{n}"));
            let free = std::iter::once(anchor.clone()).chain(taken);
            let anchor = free.into_iter().find(|anchor| !anchors.contains(anchor));
            anchors.extend(anchor);
        }
        anchors
    }

    /// The targets of its links and pictures, with the number of the line.
    fn links(&self) -> Vec<(usize, String)> {
        let (_, prose) = self.parts();
        let mut links = Vec::new();
        for (number, line) in prose.iter().enumerate() {
            let line = without_code(line);
            for part in line.split("](").skip(1) {
                let target = part.split(')').next().unwrap_or_default();
                links.push((number + 1, target.to_owned()));
            }
        }
        links
    }
}

fn marker(line: &str) -> Option<String> {
    let comment = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    Some(comment.to_owned())
}

/// The line without what is between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let folder = document.path.parent().unwrap();
        for (line, target) in document.links() {
            if ["https://", "http://", "mailto:"]
                .iter()
                .any(|scheme| target.starts_with(scheme))
            {
                continue;
            }
            let at = format!("{}:{line}: {target}", document.path.display());
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => document.path.clone(),
                file => folder.join(file),
            };
            if !root().join(&path).is_file() {
                broken.push(format!("{at}: no such file"));
            } else if folder == Path::new("docs") && file.contains("..") {
                // The book and the packages have nothing but this folder.
                broken.push(format!("{at}: leaves docs/"));
            } else if !anchor.is_empty() && !read(path.to_str().unwrap()).anchors().contains(anchor)
            {
                broken.push(format!("{at}: no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_book_and_in_its_introduction() {
    for index in ["docs/SUMMARY.md", "docs/introduction.md"] {
        let links = read(index).links();
        let linked: Vec<String> = links.into_iter().map(|(_, target)| target).collect();
        for page in pages() {
            if matches!(&*page, "SUMMARY.md" | "introduction.md") {
                continue;
            }
            let times = linked.iter().filter(|target| **target == page).count();
            assert_eq!(times, 1, "{index} links {page} {times} times");
        }
    }
    let readme = read("README.md").text;
    for page in pages() {
        let named = readme.contains(&format!("docs/{page}"));
        assert!(
            named || matches!(&*page, "SUMMARY.md" | "introduction.md"),
            "README.md does not name docs/{page}"
        );
    }
}

#[test]
fn every_page_that_the_program_names_exists() {
    let pages = pages();
    let mut folders = vec![root().join("src"), root().join("scripts")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            for part in text.split("docs/").skip(1) {
                let name = part
                    .split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
                    .next()
                    .unwrap();
                let Some((name, _)) = name.split_once(".md") else {
                    continue;
                };
                assert!(
                    pages.contains(&format!("{name}.md")),
                    "{}: docs/{name}.md",
                    path.display()
                );
            }
        }
    }
}

// ---- command lines ----

/// The words of the first command in a line of shell; what follows a pipe, a redirection or a comment is left out.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut depth = 0;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') if depth == 0 => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '$') if characters.peek() == Some(&'(') => {
                depth += 1;
                characters.next();
                word.get_or_insert_default().push_str("$(");
            }
            (None, ')') if depth > 0 => {
                depth -= 1;
                word.get_or_insert_default().push(c);
            }
            (None, c) if depth > 0 => word.get_or_insert_default().push(c),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The arguments of the program in each command line of the block, with the number of the line.
fn invocations(block: &Block) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut joined = String::new();
    for (number, line) in block.lines.iter().enumerate() {
        joined.push_str(line.trim());
        if let Some(rest) = joined.strip_suffix('\\') {
            joined = format!("{} ", rest.trim_end());
            continue;
        }
        let words = words(&std::mem::take(&mut joined));
        let program = words.iter().position(|word| {
            // The program itself, or its image, whose entry point it is.
            word == "ossvault" || word.starts_with("ossvault:")
        });
        let launched_by = |name: &String| matches!(&**name, "sudo" | "docker");
        if let Some(at) = program
            && (at == 0 || words.first().is_some_and(launched_by))
        {
            found.push((block.line + number, words[at + 1..].to_vec()));
        }
    }
    found
}

#[test]
fn words_are_those_of_the_shell() {
    for (line, expected) in [
        ("ossvault ls  -l a # b", &["ossvault", "ls", "-l", "a"][..]),
        ("ossvault cat 'a b' | wc -c", &["ossvault", "cat", "a b"]),
        (
            "x --c 'p \"$(b \"$F\")\"' > y",
            &["x", "--c", "p \"$(b \"$F\")\""],
        ),
        (
            "tar -f v-$(date +%F | tr a b).gz d",
            &["tar", "-f", "v-$(date +%F | tr a b).gz", "d"],
        ),
        ("ls '' a#b", &["ls", "", "a#b"]),
    ] {
        assert_eq!(words(line), expected);
    }
}

#[test]
fn every_command_line_is_one() {
    let mut wrong = Vec::new();
    let mut lines = 0;
    for document in documents() {
        let (blocks, _) = document.parts();
        for (line, arguments) in blocks.iter().flat_map(invocations) {
            lines += 1;
            // find(1) writes its long options with one dash.
            let finds = arguments.first().is_some_and(|first| first == "find");
            let spelled = |word: String| match word.strip_prefix('-') {
                Some(name) if finds && name.len() > 1 && !name.starts_with('-') => {
                    format!("--{name}")
                }
                _ => word,
            };
            let arguments = arguments.into_iter().map(spelled);
            let typed = std::iter::once("ossvault".to_owned()).chain(arguments);
            let Err(error) = ::ossvault::cli::command().try_get_matches_from(typed) else {
                continue;
            };
            if error.use_stderr() {
                wrong.push(format!("{}:{line}: {error}", document.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(lines > 50, "only {lines} command lines were found");
}

#[test]
fn every_configuration_file_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let mut files = 0;
    for document in documents() {
        let (blocks, _) = document.parts();
        for block in blocks.iter().filter(|block| block.language == "toml") {
            files += 1;
            fs::write(&file, block.lines.join("\n")).unwrap();
            let check = ossvault()
                .args(["config", "check", "--config"])
                .arg(&file)
                .output()
                .unwrap();
            let at = format!("{}:{}", document.path.display(), block.line);
            let message = String::from_utf8_lossy(&check.stderr);
            assert!(check.status.success(), "{at}: {message}");
        }
    }
    assert!(files >= 2, "{files}");
}

/// In the text: the commands and options of `ossvault COMMAND ... --option` exist.
#[test]
fn every_command_and_option_in_the_text_exists() {
    let program = ::ossvault::cli::command();
    let mut wrong = Vec::new();
    for document in documents() {
        // Its spans are the words that keys are derived from.
        if document.path.ends_with("format.md") {
            continue;
        }
        let (_, prose) = document.parts();
        // A span may be broken across lines.
        let text = prose.join("\n").replace("\n", " ");
        for span in text.split('`').skip(1).step_by(2) {
            let Some(line) = span.strip_prefix("ossvault ") else {
                continue;
            };
            let mut command = &program;
            for word in words(line) {
                if let Some(option) = word.strip_prefix("--") {
                    let name = option.split('=').next().unwrap();
                    let known = |command: &clap::Command| {
                        let mut arguments = command.get_arguments();
                        arguments.any(|argument| argument.get_long() == Some(name))
                    };
                    if !known(command)
                        && !known(&program)
                        && !matches!(name, "help" | "version" | "…" | "option")
                    {
                        wrong.push(format!("{}: `{span}`: no {word}", document.path.display()));
                    }
                } else if let Some(next) = command.find_subcommand(&word) {
                    command = next;
                } else if command.has_subcommands()
                    && word.starts_with(|c: char| c.is_ascii_lowercase())
                {
                    wrong.push(format!(
                        "{}: `{span}`: no command {word}",
                        document.path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ---- messages ----

/// docs/troubleshooting.md quotes messages, with `…` for what varies.
#[test]
fn every_message_in_troubleshooting_is_one_of_the_program() {
    let mut sources = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let page = read("docs/troubleshooting.md").text;
    let (_, by_message) = page.split_once("## By message").unwrap();
    let rows = by_message.lines().filter(|line| line.starts_with("| "));
    let mut messages = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        // The message of a command, or what the log says.
        for cell in &cells[1..cells.len().min(3)] {
            for message in cell.split('`').skip(1).step_by(2) {
                messages += 1;
                for piece in message
                    .split(['…', '"'])
                    .map(str::trim)
                    .filter(|piece| piece.len() > 3)
                {
                    assert!(
                        sources.contains(piece),
                        "no message has {piece:?}: {message}"
                    );
                }
            }
        }
    }
    assert!(messages > 40, "{messages}");
}

// ---- what runs ----

/// An empty home directory and two buckets behind a server. What is mounted below it is unmounted at the end.
struct Home {
    rig: Rig,
    path: PathBuf,
}

impl Home {
    fn new() -> Home {
        let rig = Rig::new();
        LocalStore::open(&rig.path("buckets/my-bucket"), Settings { sync: false }).unwrap();
        let path = rig.path("home");
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::create_dir(path.join("empty")).unwrap();
        std::os::unix::fs::symlink(PROGRAM, path.join("bin/ossvault")).unwrap();
        Home { rig, path }
    }

    /// With what the recipes take for granted.
    fn with_key() -> Home {
        let home = Home::new();
        home.run("ossvault keygen --bits 2048 ~/vault.key; mkdir ~/vault ~/data ~/old; echo x > ~/data/file");
        home
    }

    /// Runs a script in an empty directory. The passphrase stands for what would be typed.
    #[track_caller]
    fn run(&self, script: &str) {
        let passwords = self.rig.path("passwords");
        fs::write(&passwords, "password\n").unwrap();
        let mut command = Command::new("bash");
        clean(&mut command);
        let output = command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.path.join("empty"))
            .env("HOME", &self.path)
            .env(
                "PATH",
                format!(
                    "{}:{}",
                    self.path.join("bin").display(),
                    std::env::var("PATH").unwrap()
                ),
            )
            .env("LC_ALL", "C.UTF-8")
            .env("OSSVAULT_PASSPHRASE", "correct horse")
            .env("OSS_ENDPOINT", self.rig.endpoint())
            .env("OSS_ACCESS_KEY_ID", "test")
            .env("OSS_ACCESS_KEY_SECRET", "test")
            .env("RCLONE_CONFIG_SECRET_TYPE", "crypt")
            .env("RCLONE_CONFIG_SECRET_REMOTE", self.path.join("crypt"))
            // As `rclone obscure` writes it.
            .env(
                "RCLONE_CONFIG_SECRET_PASSWORD",
                "v8b8PxbOKwwyyXyXxS0GJIjGdg",
            )
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::from(fs::File::open(passwords).unwrap()))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{script}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs the marked blocks of a document, one after another.
    #[track_caller]
    fn run_document(&self, path: &str) {
        let document = read(path);
        let (blocks, _) = document.parts();
        let mut script = String::new();
        let mut count = 0;
        for block in blocks {
            let Some(marker) = &block.marker else {
                continue;
            };
            assert_eq!(block.language, "sh", "{path}:{}: {marker}", block.line);
            match marker.strip_prefix("runs with ") {
                Some(program) if find(program).is_none() => {
                    println!("skipped: {path}:{}: no {program}", block.line);
                    continue;
                }
                Some(_) => {}
                None => assert_eq!(marker, "runs", "{path}:{}", block.line),
            }
            count += 1;
            script.push_str(&format!(
                ": '{path}:{}'\n{}\n",
                block.line,
                block.lines.join("\n")
            ));
        }
        assert!(count >= 2, "{path}: {count} blocks run");
        self.run(&format!("set -x\n{script}"));
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(&self.path)) {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
}

#[test]
fn the_first_mounts_in_the_readme_run_as_they_are_written() {
    if can_mount() {
        Home::new().run_document("README.md");
    }
}

#[test]
fn the_quick_start_runs_as_it_is_written() {
    if can_mount() {
        Home::new().run_document("docs/quick-start.md");
    }
}

#[test]
fn the_recipes_run_as_they_are_written() {
    if !can_mount() {
        return;
    }
    let home = Home::with_key();
    // Written by another program.
    let store = LocalStore::open(
        &home.rig.path("buckets/my-bucket"),
        Settings { sync: false },
    )
    .unwrap();
    for name in ["old/report.txt", "old/2020/letter.txt"] {
        let key = ObjectKey::new(name).unwrap();
        let body = Body::from_bytes("plaintext");
        let headers = ObjectHeaders::default();
        home.rig
            .block_on(store.put(&key, &headers, body, Overwrite::Allowed))
            .unwrap();
    }
    if find("rclone").is_some() {
        home.run("rclone copy ~/data secret:");
    }
    if find("gocryptfs").is_some() {
        home.run(
            "mkdir ~/cipher; echo password > p; gocryptfs -q -init -passfile p ~/cipher
            gocryptfs -q -passfile p ~/cipher ~/old; echo text > ~/old/letter; fusermount3 -u ~/old",
        );
    }
    home.run_document("docs/recipes.md");
}
