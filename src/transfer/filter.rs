//! Which files a transfer is about: rules in the order in which they are given, of which the first that matches counts.
//!
//! What no rule matches is included. A directory that is excluded is not entered, so that nothing below it is included
//! either. On the receiving side, what is excluded is neither compared nor deleted.

use super::pattern::Pattern;

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidRule(&'static str);

#[derive(Clone, Debug)]
struct Rule {
    includes: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    rules: Vec<Rule>,
}

impl Filter {
    /// A rule of `--filter`: `+ PATTERN`, `- PATTERN`, `include PATTERN`, `exclude PATTERN`; `!` forgets the rules before.
    ///
    /// # Errors
    /// It is none of these.
    pub(crate) fn add_rule(&mut self, rule: &str) -> Result<(), InvalidRule> {
        const EXPECTED: InvalidRule = InvalidRule(
            "expected \"+ PATTERN\" or \"- PATTERN\" (rsync's other rules are not supported)",
        );
        if matches!(rule, "!" | "clear") {
            self.rules.clear();
            return Ok(());
        }
        let (word, pattern) = rule.split_once([' ', '_']).ok_or(EXPECTED)?;
        match word {
            "+" | "include" => self.add(true, pattern),
            "-" | "exclude" => self.add(false, pattern),
            _ => Err(EXPECTED),
        }
    }

    /// The value of `--include` or `--exclude`. As in rsync, it may begin with `+ ` or `- `, and `!` forgets the rules
    /// before.
    ///
    /// # Errors
    /// It is empty.
    pub(crate) fn add_pattern(&mut self, includes: bool, pattern: &str) -> Result<(), InvalidRule> {
        match pattern {
            "!" => {
                self.rules.clear();
                Ok(())
            }
            pattern => match (pattern.strip_prefix("+ "), pattern.strip_prefix("- ")) {
                (Some(pattern), _) => self.add(true, pattern),
                (_, Some(pattern)) => self.add(false, pattern),
                _ => self.add(includes, pattern),
            },
        }
    }

    /// The lines of a file of patterns; empty ones, and those that begin with `#` or `;`, are comments.
    ///
    /// # Errors
    /// As [`add_pattern`](Self::add_pattern).
    pub(crate) fn add_lines(&mut self, includes: bool, text: &str) -> Result<(), InvalidRule> {
        for line in text.lines() {
            if !line.is_empty() && !line.starts_with(['#', ';']) {
                self.add_pattern(includes, line)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, includes: bool, pattern: &str) -> Result<(), InvalidRule> {
        let pattern = Pattern::new(pattern).ok_or(InvalidRule("the pattern is empty"))?;
        self.rules.push(Rule { includes, pattern });
        Ok(())
    }

    /// Whether the file or directory itself is included; the caller does not ask for what is below an excluded one.
    pub(crate) fn includes(&self, path: &str, is_directory: bool) -> bool {
        let mut rules = self.rules.iter();
        let first = rules.find(|rule| rule.pattern.matches(path, is_directory));
        first.is_none_or(|rule| rule.includes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let mut filter = Filter::default();
        filter.add_rule("+ *.c").unwrap();
        filter.add_rule("- secret/").unwrap();
        filter.add_pattern(true, "*/").unwrap();
        filter
            .add_lines(false, "# a comment\n\n; another\n*\n")
            .unwrap();
        for (path, is_directory, included) in [
            ("a.c", false, true),
            ("a.o", false, false),
            ("src", true, true),
            ("secret", true, false),
            ("secret", false, false),
        ] {
            assert_eq!(filter.includes(path, is_directory), included, "{path}");
        }
        filter.add_pattern(false, "!").unwrap();
        assert!(filter.includes("a.o", false));
    }

    #[test]
    fn a_rule_that_is_none_is_refused() {
        let mut filter = Filter::default();
        for rule in ["", "a", ". file", ": .rsync-filter", "P x", "+ ", "-"] {
            assert!(filter.add_rule(rule).is_err(), "{rule:?}");
        }
        for rule in ["- a b", "exclude a", "-_a", "include_a"] {
            filter.add_rule(rule).unwrap();
        }
        assert!(filter.add_pattern(true, "").is_err());
    }
}
