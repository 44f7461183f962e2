//! Commands that answer: run by `sh` with something on stdin, bounded in time and in what they may print.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::error::{Attempt, Result};
use crate::text;

/// A command and its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    pub(crate) command: String,
    /// How long it may run; it is killed then, with everything that it started.
    pub(crate) limit: Duration,
    /// Most bytes of its output that are read; whatever it prints beyond them is not waited for.
    pub(crate) output_max: u64,
}

/// What a command printed, and what went wrong with it.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) output: Bytes,
    pub(crate) problem: Option<String>,
}

impl Shell {
    /// Runs the command. Dropping the future kills it.
    pub(crate) async fn run(&self, env: &[(&str, String)], stdin: Bytes) -> Printed {
        let (output, problem) =
            match tokio::time::timeout(self.limit, self.output(env, stdin)).await {
                Ok(Ok((output, status))) if !status.success() => {
                    (output, Some(format!("ended with {status}")))
                }
                Ok(Ok((output, _))) => {
                    let more = output.len() as u64 > self.output_max;
                    let words = || {
                        let most = text::size_shown(self.output_max);
                        format!("printed more than {most}; the rest is left out")
                    };
                    (output, more.then(words))
                }
                Ok(Err(error)) => (Bytes::new(), Some(error.to_string())),
                Err(_) => {
                    let limit = text::duration_shown(self.limit);
                    (Bytes::new(), Some(format!("took longer than {limit}")))
                }
            };
        let most = usize::try_from(self.output_max).unwrap_or(usize::MAX);
        Printed {
            output: output.slice(..output.len().min(most)),
            problem,
        }
    }

    async fn output(
        &self,
        env: &[(&str, String)],
        given: Bytes,
    ) -> Result<(Bytes, std::process::ExitStatus)> {
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .envs(env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .or_failed(|| "can't start sh".to_owned())?;
        // Declared after the child, so dropped before it: its number still names its group then.
        let mut group = Group::of(&child);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let write = async move {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is given.
                let _unread = stdin.write_all(&given).await;
            }
        };
        let mut output = Vec::new();
        let read = async {
            match stdout {
                // One byte beyond the most tells that there is more.
                Some(stdout) => {
                    let mut stdout = stdout.take(self.output_max.saturating_add(1));
                    stdout.read_to_end(&mut output).await
                }
                None => Ok(0),
            }
        };
        let ((), read) = tokio::join!(write, read);
        read.or_failed(|| "can't read what it prints".to_owned())?;
        let status = child.wait().await;
        group.disarm();
        let status = status.or_failed(|| "it has no status".to_owned())?;
        Ok((Bytes::from(output), status))
    }
}

/// A command with everything that it started, killed on drop unless it has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let number = child.id().and_then(|id| i32::try_from(id).ok());
        Self(number.map(Pid::from_raw))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Where it has ended by itself there is nobody to kill.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Printed, Shell};

    async fn run(command: &str, stdin: &str) -> Printed {
        let shell = Shell {
            command: command.into(),
            limit: Duration::from_secs(20),
            output_max: 8,
        };
        shell
            .run(&[("WHO", "me".into())], stdin.to_owned().into())
            .await
    }

    #[tokio::test]
    async fn it_gets_stdin_and_environment_and_its_failure_is_told() {
        let printed = run("cat; printf $WHO", "tea ").await;
        assert_eq!(
            (&printed.output[..], printed.problem),
            (&b"tea me"[..], None)
        );
        let printed = run("echo no; exit 3", "").await;
        assert_eq!(&printed.output[..], b"no\n");
        assert!(printed.problem.unwrap().contains('3'));
    }

    #[tokio::test]
    async fn what_it_prints_is_bounded() {
        let printed = run("printf 12345678", "").await;
        assert_eq!(
            (&printed.output[..], printed.problem),
            (&b"12345678"[..], None)
        );
        // It would never end by itself.
        let printed = run("yes", "").await;
        assert_eq!(printed.output.len(), 8);
        assert!(printed.problem.is_some());
    }

    #[tokio::test]
    async fn it_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let shell = Shell {
            command: format!("sleep 1000 & echo $! > {}/pid; wait", dir.path().display()),
            limit: Duration::from_millis(300),
            output_max: 8,
        };
        let printed = shell.run(&[], "".into()).await;
        assert!(printed.problem.unwrap().contains("took longer"));
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Killed: gone, or a zombie until whoever inherited it has looked.
        while let Ok(stat) = std::fs::read_to_string(&stat) {
            if stat.contains(") Z ") || stat.contains(") X ") {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}
