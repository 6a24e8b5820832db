//! The keys that a program prints, in JSON.
//!
//! There is no shell between: the words of the command line are the program and its arguments. The program and all its
//! children are killed at the deadline. Its output is never shown; what it says on stderr is, because that is where it
//! says what is wrong.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::access_key::AccessKey;
use super::error::{Error, Fault};
use super::json::{self, LARGEST};
use super::network::Network;
use super::source::Source;

/// How much of stderr is shown.
const SHOWN: usize = 500;

/// The words of a command line.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// Splits at blanks. Quotes keep words together: nothing is special between `'…'`, and between `"…"` a backslash
    /// takes the next character as it is, as it does outside of quotes.
    ///
    /// # Errors
    /// There is no word, or a quote is not closed.
    pub fn parse(text: &str) -> Result<CommandLine, &'static str> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match (character, quote) {
                ('\0', _) => return Err("a command line without the character NUL"),
                ('\'' | '"', Some(open)) if open == character => quote = None,
                ('\'' | '"', None) => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                ('\\', None | Some('"')) => match characters.next() {
                    Some(next) => word.get_or_insert_default().push(next),
                    None => return Err("a command line with something behind its last backslash"),
                },
                (blank, None) if blank.is_whitespace() => words.extend(word.take()),
                (character, _) => word.get_or_insert_default().push(character),
            }
        }
        if quote.is_some() {
            return Err("a command line whose quotes are closed");
        }
        words.extend(word);
        match words.first().is_some_and(|program| !program.is_empty()) {
            true => Ok(CommandLine(words)),
            false => Err("a program and its arguments"),
        }
    }

    /// With the program at an absolute path, if it is a path: a daemon changes its working directory.
    #[must_use]
    pub fn anchored(mut self) -> CommandLine {
        if let Some(program) = self.0.first_mut()
            && program.contains('/')
            && let Ok(path) = std::path::absolute(&*program)
            && let Ok(path) = path.into_os_string().into_string()
        {
            *program = path;
        }
        self
    }
}

/// Arguments may be secrets.
impl std::fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CommandLine({} words)", self.0.len())
    }
}

pub struct Program {
    name: String,
    line: CommandLine,
    network: Network,
}

impl Program {
    /// `name` for messages.
    pub fn new(name: impl Into<String>, line: CommandLine, network: Network) -> Program {
        Program {
            name: name.into(),
            line,
            network,
        }
    }

    async fn key(&self) -> Result<AccessKey, Fault> {
        let output = run(&self.line, self.network.patience()).await?;
        json::key(&output, SystemTime::now()).map_err(|fault| Fault {
            why: format!("its output: {}", fault.why),
            ..fault
        })
    }
}

#[async_trait]
impl Source for Program {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let key = self.key().await;
        key.map(Arc::new).map_err(|fault| fault.of(self.name()))
    }
}

/// What a program prints.
async fn run(line: &CommandLine, patience: Duration) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let [program, arguments @ ..] = &line.0[..] else {
        return Err(Fault::unusable("there is no program"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Fault::unusable(format!("the program cannot be run: {error}")))?;
    let mut group = Group(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    let mut said = Zeroizing::new(Vec::with_capacity(4 * SHOWN));
    let ended = async {
        let both = (beginning(stdout, &mut output), beginning(stderr, &mut said));
        tokio::join!(both.0, both.1);
        child.wait().await
    };
    let ended = tokio::time::timeout(patience, ended).await;
    if ended.is_ok() {
        // Its number may be another's by now.
        group.0 = None;
    }
    drop(group);
    let stderr = || {
        let text = String::from_utf8_lossy(&said);
        let text: String = text.trim().chars().take(SHOWN).collect();
        match text.is_empty() {
            true => "it says nothing on stderr".to_owned(),
            false => format!("it says on stderr: {}", text.escape_debug()),
        }
    };
    match ended {
        Err(_) => Err(Fault::unreachable(format!(
            "it did not end within {:.1} s and was killed; {}",
            patience.as_secs_f64(),
            stderr()
        ))),
        Ok(Err(error)) => Err(Fault::unusable(error.to_string())),
        Ok(Ok(status)) if !status.success() => {
            Err(Fault::unusable(format!("{status}; {}", stderr())))
        }
        Ok(Ok(_)) if output.len() > LARGEST => {
            Err(Fault::unusable("its output is larger than 64 KiB"))
        }
        Ok(Ok(_)) => Ok(output),
    }
}

/// Reads a pipe to its end, so that whoever writes ends, and keeps as much of it as there is room for.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let mut piece = Zeroizing::new([0u8; 4096]);
    let Some(mut pipe) = pipe else { return };
    while let Ok(count @ 1..) = pipe.read(&mut *piece).await {
        // Never moved, so that no unwiped copy is left behind.
        let room = kept.capacity() - kept.len();
        kept.extend_from_slice(&piece[..count.min(room)]);
    }
}

/// Kills a program that has not ended, and its children, also if whoever waits for it is gone.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It may end just now.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::error::Kind;
    use super::*;

    #[test]
    fn a_command_line_is_split_without_a_shell() {
        for (text, expected) in [
            ("prog", Ok(&["prog"][..])),
            ("  prog  -a\tb ", Ok(&["prog", "-a", "b"])),
            ("prog 'a b' \"c d\"e", Ok(&["prog", "a b", "c de"])),
            (
                r#"prog "a\"b" 'a\b' a\ b"#,
                Ok(&["prog", "a\"b", r"a\b", "a b"]),
            ),
            ("prog '' \"\"", Ok(&["prog", "", ""])),
            (
                "prog $HOME `id` $(id) ; rm *",
                Ok(&["prog", "$HOME", "`id`", "$(id)", ";", "rm", "*"]),
            ),
            ("", Err("a program")),
            ("  ", Err("a program")),
            ("'' a", Err("a program")),
            ("prog 'a", Err("quotes")),
            ("prog \"a'", Err("quotes")),
            ("prog a\\", Err("backslash")),
            ("prog \0", Err("NUL")),
        ] {
            match (CommandLine::parse(text), expected) {
                (Ok(line), Ok(words)) => assert_eq!(line.0, words, "{text}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{text}: {why}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
        let line = CommandLine::parse("./prog hunter2").unwrap().anchored();
        assert!(line.0[0].starts_with('/') && line.0[0].ends_with("/prog"));
        assert_eq!(format!("{line:?}"), "CommandLine(2 words)");
        let found_in_path = CommandLine::parse("prog").unwrap();
        assert_eq!(found_in_path.clone().anchored(), found_in_path);
    }

    async fn said(script: &str, patience: u64) -> Result<String, Fault> {
        let line = CommandLine(vec!["sh".into(), "-c".into(), script.to_owned()]);
        let output = run(&line, Duration::from_millis(patience)).await?;
        Ok(String::from_utf8(output.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_program_is_believed_if_it_ends_well() {
        assert_eq!(said("echo '{}'", 5000).await.ok().as_deref(), Some("{}\n"));
        for (script, kind, expected) in [
            (
                "echo hunter2; echo why >&2; exit 3",
                Kind::Unusable,
                "status: 3; it says on stderr: why",
            ),
            ("exit 3", Kind::Unusable, "nothing on stderr"),
            (
                "printf '\\033[31m\\n\\377x' >&2; exit 1",
                Kind::Unusable,
                "\\u{1b}[31m\\n\u{fffd}x",
            ),
            (
                "yes hunter2 | head -c 65537",
                Kind::Unusable,
                "larger than 64 KiB",
            ),
            (
                "head -c 1000000 /dev/zero >&2; exit 1",
                Kind::Unusable,
                "it says on stderr",
            ),
        ] {
            let fault = said(script, 5000).await.err().unwrap();
            assert_eq!(fault.kind, kind, "{script}");
            assert!(fault.why.contains(expected), "{script}: {}", fault.why);
            assert!(!fault.why.contains("hunter2"), "{}", fault.why);
            assert!(fault.why.len() < 10_000);
        }
        let absent = CommandLine(vec!["/nonexistent/hunter2".into()]);
        let fault = run(&absent, Duration::from_secs(5)).await.err().unwrap();
        assert!(
            fault.why.starts_with("the program cannot be run"),
            "{}",
            fault.why
        );
        assert!(!fault.why.contains("hunter2"), "{}", fault.why);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let began = Instant::now();
        let script = format!(
            "echo asking >&2; (sleep 1; touch {0}) & sleep 60; touch {0}",
            mark.display()
        );
        let fault = said(&script, 300).await.err().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(fault.kind, Kind::Unreachable);
        assert!(
            fault
                .why
                .ends_with("within 0.3 s and was killed; it says on stderr: asking"),
            "{}",
            fault.why
        );
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!mark.exists(), "a child went on");
    }
}
