//! A command of the user's: read into words, and run with an end.
//!
//! There is no shell. A command is cut at blanks, and then `$NAME` and `${NAME}` of each word are put in, so that whatever a variable
//! holds stays within its word: nothing that another node says can become a second argument, let alone a second command.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What a command may write, to each of its outputs.
pub const MOST_OUTPUT: usize = 64 * 1024;
/// So much of what a failed command wrote is told.
const TOLD: usize = 2048;
/// What only a shell understands.
const SHELL: [&str; 10] = ["\"", "'", "`", "$(", ";", "&&", "|", ">", "<", "*"];

/// A command as it stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Its program could not be started.
    #[error("cannot start {0}: {1}")]
    Start(String, std::io::Error),
    /// It ended badly.
    #[error("{0} ended with {1}: {2}")]
    Ended(String, ExitStatus, String),
    /// It did not end.
    #[error("{0} did not end within {1:?} and was killed")]
    Hung(String, Duration),
    /// It wrote too much.
    #[error("{0} wrote more than {MOST_OUTPUT} bytes and was killed")]
    Talked(String),
    /// Its output could not be read.
    #[error("cannot read what {0} writes: {1}")]
    Output(String, std::io::Error),
    /// Its output is no text.
    #[error("what {0} wrote is no UTF-8")]
    Text(String),
}

impl CommandLine {
    /// None if there is not one word in it.
    pub fn parse(text: &str) -> Option<CommandLine> {
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        (!words.is_empty()).then_some(CommandLine { words })
    }

    /// What of it looks as if it were meant for a shell.
    pub fn for_a_shell(&self) -> Option<&'static str> {
        SHELL.into_iter().find(|sign| self.words.iter().any(|word| word.contains(sign)))
    }

    /// The program, for people.
    fn name(&self) -> String {
        format!("the command {}", self.words[0])
    }

    /// Runs it and waits for its end; what it wrote to its standard output, without the blanks around it.
    pub async fn run(
        &self,
        variables: &[(&str, String)],
        stdin: &str,
        limit: Duration,
    ) -> Result<String, Failed> {
        let value = |name: &str| {
            let given = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            given.or_else(|| std::env::var(name).ok()).unwrap_or_default()
        };
        let words: Vec<_> = self.words.iter().map(|word| expand(word, value)).collect();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| Failed::Start(words[0].clone(), error))?;
        let (status, out, err) = match timeout(limit, talk(&mut child, stdin)).await {
            Err(_) => {
                kill(&child);
                return Err(Failed::Hung(self.name(), limit));
            }
            Ok(Err(error)) => return Err(Failed::Output(self.name(), error)),
            Ok(Ok(None)) => {
                kill(&child);
                return Err(Failed::Talked(self.name()));
            }
            Ok(Ok(Some(ended))) => ended,
        };
        if !status.success() {
            return Err(Failed::Ended(self.name(), status, told(&err, &out)));
        }
        let text = String::from_utf8(out).map_err(|_| Failed::Text(self.name()))?;
        Ok(text.trim().to_owned())
    }
}

/// Kills a process and what it started. It has not been waited for yet, so that its number is still its own.
fn kill(child: &Child) {
    if let Some(leader) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended in this moment.
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// Gives a process its input and takes its outputs until it ends; none if it wrote too much.
async fn talk(child: &mut Child, stdin: &str) -> std::io::Result<Option<(ExitStatus, Vec<u8>, Vec<u8>)>> {
    let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // One that does not read it ends earlier, which is its own matter.
            let _ = input.write_all(stdin.as_bytes()).await;
            let _ = input.write_all(b"\n").await;
        }
    };
    let (out, err, ()) = tokio::join!(read(out), read(err), write);
    let (out, err) = (out?, err?);
    if out.len() > MOST_OUTPUT || err.len() > MOST_OUTPUT {
        return Ok(None);
    }
    Ok(Some((child.wait().await?, out, err)))
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(MOST_OUTPUT as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The end of what a failed command wrote: to standard error, or else to standard output.
fn told(err: &[u8], out: &[u8]) -> String {
    let bytes = if err.trim_ascii().is_empty() { out } else { err };
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return "it wrote nothing".to_owned();
    }
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TOLD)..]).into_owned()
}

/// Puts in variables, as Go's `os.Expand` does: `$NAME` and `${NAME}`; unknown ones are empty.
fn expand(word: &str, value: impl Fn(&str) -> String) -> String {
    let (mut text, mut rest) = (String::new(), word);
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, behind) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        if name.is_empty() {
            text.push('$');
        } else {
            text.push_str(&value(name));
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn command(text: &str) -> CommandLine {
        CommandLine::parse(text).unwrap()
    }

    #[test]
    fn variables_are_put_in_word_by_word() {
        let value = |name: &str| match name {
            "SUBNET" => "10.5.1.0/24".to_owned(),
            "EVIL" => "a b; reboot $(reboot) $SUBNET".to_owned(),
            _ => String::new(),
        };
        for (word, expected) in [
            ("plain", "plain"),
            ("$SUBNET", "10.5.1.0/24"),
            ("to=${SUBNET}!", "to=10.5.1.0/24!"),
            ("$SUBNET,$SUBNET", "10.5.1.0/24,10.5.1.0/24"),
            ("$EVIL", "a b; reboot $(reboot) $SUBNET"),
            ("[$NONE]", "[]"),
            ("5$", "5$"),
            ("$$", "$$"),
            // Nothing closes it.
            ("${SUBNET", "${SUBNET"),
        ] {
            assert_eq!(expand(word, value), expected, "{word}");
        }
    }

    #[test]
    fn commands_for_a_shell_are_told_apart() {
        assert_eq!(CommandLine::parse("  \t"), None);
        assert_eq!(command("ip route add $SUBNET via $PUBLIC_IP").for_a_shell(), None);
        for text in ["echo \"a b\"", "a; b", "a && b", "a | b", "echo $(b)", "a > b", "rm x*"] {
            assert!(command(text).for_a_shell().is_some(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_variable_stays_one_argument() {
        let variables = [("DATA", "a b  $HOME; c".to_owned())];
        let wrote = command("printf [%s] $DATA x").run(&variables, "", SOON).await.unwrap();
        assert_eq!(wrote, "[a b  $HOME; c][x]");
    }

    #[tokio::test]
    async fn it_has_its_input_and_environment() {
        assert_eq!(command("cat").run(&[], "from another node", SOON).await.unwrap(), "from another node");
        let variables = [("SUBNET", "10.5.1.0/24".to_owned())];
        let environment = command("env").run(&variables, "", SOON).await.unwrap();
        assert!(environment.lines().any(|line| line == "SUBNET=10.5.1.0/24"), "{environment}");
        assert_eq!(command("true").run(&[], &"x".repeat(1 << 20), SOON).await.unwrap(), "", "unread input");
    }

    #[tokio::test]
    async fn what_fails_is_told_with_its_own_words() {
        let told = async |text: &str, limit| command(text).run(&[], "", limit).await.unwrap_err().to_string();
        assert!(told("/no/such/program", SOON).await.contains("/no/such/program: No such file"));
        let listing = told("ls /no/such/folder", SOON).await;
        assert!(listing.contains("exit status: 2") && listing.contains("/no/such/folder"), "{listing}");
        assert!(told("false", SOON).await.contains("it wrote nothing"));
        assert!(told("sleep 1000", Duration::from_millis(50)).await.contains("did not end within 50ms"));
        assert!(told("yes", SOON).await.contains("more than 65536 bytes"));
        assert!(told("printf \\377", SOON).await.contains("no UTF-8"));
    }
}
