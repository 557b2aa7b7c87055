//! A problem that stays the same is told once.

use std::fmt::Display;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Told(String);

impl Told {
    /// Tells it, unless it is what was told last.
    pub(super) fn once(&mut self, problem: &impl Display, tell: impl FnOnce(&str)) {
        let problem = problem.to_string();
        if problem != self.0 {
            tell(&problem);
            self.0 = problem;
        }
    }

    /// It is over: if it comes back it is told again.
    pub(super) fn over(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_again_only_when_it_is_new() {
        let (mut told, mut lines) = (Told::default(), Vec::new());
        for problem in ["a", "a", "b", "b", "a"] {
            told.once(&problem, |line| lines.push(line.to_owned()));
        }
        told.over();
        told.once(&"a", |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["a", "b", "a", "a"]);
    }
}
