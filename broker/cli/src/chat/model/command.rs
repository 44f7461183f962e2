//! What a line that was entered asks for. Pure.

use std::path::PathBuf;

/// A line that was entered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::chat) enum Command {
    /// Not a command: something to say.
    Say(String),
    Help,
    /// A room on a subject; encrypted and kept unless `plain`.
    Create {
        subject: String,
        plain: bool,
    },
    /// Somebody, by a name that is known here or by contact.
    Invite(String),
    Join,
    Leave,
    /// Somebody, by name or endpoint.
    Remove(String),
    Rekey,
    Members,
    React(String),
    /// Without a text, what is written next is the reply.
    Reply(String),
    Thread,
    File(PathBuf),
    /// Where to; without, under the file's own name.
    Save(Option<PathBuf>),
    /// Gives somebody (a contact, or an endpoint's first digits) a name.
    Name {
        who: String,
        name: String,
    },
    Whoami,
    Go(String),
    Quit,
}

/// Name, what follows it, and what it does: the help, and what `parse` knows.
pub(in crate::chat) const COMMANDS: [(&str, &str, &str); 18] = [
    (
        "/create",
        "SUBJECT [plain]",
        "make a room; plain = neither encrypted nor kept",
    ),
    (
        "/invite",
        "WHO",
        "let somebody into this room: a contact, or a name with one",
    ),
    ("/join", "", "accept the invitation to this room"),
    ("/leave", "", "leave this room, or decline its invitation"),
    (
        "/members",
        "",
        "who belongs to this room, and when they last spoke",
    ),
    (
        "/react",
        "EMOJI",
        "react to the selected message, or the last one",
    ),
    (
        "/reply",
        "[TEXT]",
        "reply to the selected message, or the last one",
    ),
    (
        "/thread",
        "",
        "open the thread of the selected message, or begin one",
    ),
    ("/file", "PATH", "encrypt and share a file"),
    (
        "/save",
        "[PATH]",
        "fetch the selected file, or the last one",
    ),
    (
        "/name",
        "WHO NAME",
        "call somebody by a name of yours, kept on this host",
    ),
    (
        "/whoami",
        "",
        "your contact: what others need to invite you",
    ),
    ("/go", "ROOM", "go to a room by the beginning of its name"),
    (
        "/remove",
        "WHO",
        "remove a member, and make a new key (owner)",
    ),
    ("/rekey", "", "make a new key (owner)"),
    ("/help", "", "this page"),
    ("/quit", "", "end the program; Ctrl-C does too"),
    ("//", "TEXT", "say something that begins with a slash"),
];

/// Reads a line.
///
/// # Errors
/// What is wrong with it, for the person who wrote it.
pub(in crate::chat) fn parse(line: &str) -> Result<Command, String> {
    let Some(rest) = line.strip_prefix('/') else {
        return Ok(Command::Say(line.to_owned()));
    };
    if rest.starts_with('/') {
        return Ok(Command::Say(rest.to_owned()));
    }
    let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    let needed = || match rest {
        "" => Err(usage(word)),
        rest => Ok(rest.to_owned()),
    };
    let alone = |command: Command| match rest {
        "" => Ok(command),
        _ => Err(usage(word)),
    };
    match word {
        "create" => create(&needed()?),
        "invite" => Ok(Command::Invite(needed()?)),
        "join" => alone(Command::Join),
        "leave" => alone(Command::Leave),
        "members" | "who" => alone(Command::Members),
        "react" => Ok(Command::React(needed()?)),
        "reply" => Ok(Command::Reply(rest.to_owned())),
        "thread" => alone(Command::Thread),
        "file" => Ok(Command::File(needed()?.into())),
        "save" => Ok(Command::Save((!rest.is_empty()).then(|| rest.into()))),
        "name" => name(&needed()?),
        "whoami" => alone(Command::Whoami),
        "go" => Ok(Command::Go(needed()?)),
        "remove" => Ok(Command::Remove(needed()?)),
        "rekey" => alone(Command::Rekey),
        "help" => alone(Command::Help),
        "quit" | "exit" => alone(Command::Quit),
        _ => Err(format!("there is no /{word}; /help lists what there is")),
    }
}

fn create(rest: &str) -> Result<Command, String> {
    let (subject, how) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match how.trim() {
        how @ ("" | "plain") => Ok(Command::Create {
            subject: subject.to_owned(),
            plain: how == "plain",
        }),
        _ => Err(usage("create")),
    }
}

fn name(rest: &str) -> Result<Command, String> {
    match rest.split_whitespace().collect::<Vec<_>>()[..] {
        [who, name] => Ok(Command::Name {
            who: who.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err(usage("name")),
    }
}

fn usage(word: &str) -> String {
    let known = COMMANDS
        .iter()
        .find(|(name, ..)| name.strip_prefix('/') == Some(word));
    match known {
        Some((name, "", _)) => format!("{name} stands alone"),
        Some((name, rest, _)) => format!("wanted: {name} {rest}"),
        None => format!("/{word} stands alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::{COMMANDS, Command, parse};

    #[test]
    fn lines_are_said_and_commands_read() {
        let say = |text: &str| Ok(Command::Say(text.into()));
        assert_eq!(parse("hello /there"), say("hello /there"));
        assert_eq!(parse("//etc/passwd"), say("/etc/passwd"));
        assert_eq!(parse("/react  🫖 "), Ok(Command::React("🫖".into())));
        assert_eq!(
            parse("/file my photo.png"),
            Ok(Command::File("my photo.png".into()))
        );
        assert_eq!(
            parse("/create team.kitchen plain"),
            Ok(Command::Create {
                subject: "team.kitchen".into(),
                plain: true
            })
        );
        assert_eq!(parse("/save"), Ok(Command::Save(None)));
    }

    #[test]
    fn mistakes_say_what_is_wanted() {
        for (line, words) in [
            ("/dance", "there is no /dance"),
            ("/invite", "wanted: /invite WHO"),
            ("/join now", "/join stands alone"),
            ("/create a b c", "wanted: /create SUBJECT [plain]"),
            ("/name ann", "wanted: /name WHO NAME"),
            ("/", "there is no /"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_and_the_reader_know_the_same_commands() {
        for (name, rest, _) in COMMANDS {
            let word = rest.split(' ').next().unwrap_or_default();
            let line = match name {
                "/name" => "/name who what".to_owned(),
                _ if rest.is_empty() || rest.starts_with('[') => name.to_owned(),
                _ => format!("{name} {word}"),
            };
            assert!(parse(&line).is_ok(), "{line}");
        }
    }
}
