//! Which client somebody who has just started a node can type next.

use std::path::Path;

/// `unibus` as it may be typed here where it lies beside this program, as every build puts it; else `nats`,
/// which takes the same words.
pub(super) fn command() -> String {
    let beside = std::env::current_exe().map(|own| own.with_file_name("unibus"));
    match beside {
        Ok(unibus) if unibus.is_file() => typed(
            &unibus,
            std::env::var_os("PATH").as_deref(),
            std::env::current_dir().ok().as_deref(),
        ),
        _ => "nats".to_owned(),
    }
}

/// The shortest that a shell takes for the program.
fn typed(program: &Path, search: Option<&std::ffi::OsStr>, here: Option<&Path>) -> String {
    let mut searched = search.into_iter().flat_map(std::env::split_paths);
    if searched.any(|folder| program.parent() == Some(&folder)) {
        return program
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
    }
    let below = here.and_then(|here| program.strip_prefix(here).ok());
    match below {
        // A name alone is looked for elsewhere.
        Some(name) if name.components().count() == 1 => format!("./{}", name.display()),
        Some(path) => path.display().to_string(),
        None => program.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_as_short_as_the_shell_lets_it_be() {
        let of = |search: &str, here| {
            let program = Path::new("/a/target/release/unibus");
            typed(program, Some(search.as_ref()), Some(Path::new(here)))
        };
        assert_eq!(of("/bin:/a/target/release", "/"), "unibus");
        assert_eq!(of("/bin", "/a"), "target/release/unibus");
        assert_eq!(of("/bin", "/a/target/release"), "./unibus");
        assert_eq!(of("/bin", "/b"), "/a/target/release/unibus");
    }
}
