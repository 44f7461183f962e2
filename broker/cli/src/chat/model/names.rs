//! What people are called here: names that this user gave, kept in a file of this host, and short endpoints
//! for everybody else. A server and other people have no say in it. Pure.
//!
//! The file has a line for each person: `NAME CONTACT` (what `unibus identity show` prints for them) or
//! `NAME ENDPOINT`, and comments after `#`. Of two lines about one person the later one holds.

use std::collections::BTreeMap;

use unibus_client::Identity;
use unibus_proto::control::{EndpointId, Party};

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 32;
/// People with names at most.
const NAMES_MAX: usize = 10_000;
/// Digits of an endpoint that are shown.
const SHORT: usize = 8;
/// Digits of an endpoint that are shown where the first few are the same for two people.
const LONGER: usize = 20;

/// Somebody who has a name here.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Known {
    name: String,
    /// Their keys, where the user has their contact.
    contact: Option<String>,
}

/// The names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::chat) struct Names {
    known: BTreeMap<EndpointId, Known>,
}

impl Names {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Which line is wrong, and why: nothing is guessed.
    pub(in crate::chat) fn parse(text: &str) -> Result<Self, String> {
        let mut names = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let added = match words[..] {
                [] => continue,
                [name, who] => names.add(name, who),
                _ => Err("wanted NAME CONTACT or NAME ENDPOINT".to_owned()),
            };
            added.map_err(|why| format!("line {}: {why}", at + 1))?;
        }
        Ok(names)
    }

    /// Gives a name to whoever a contact or an endpoint stands for.
    ///
    /// # Errors
    /// What can't be a name, and whom that does not name.
    pub(in crate::chat) fn add(&mut self, name: &str, who: &str) -> Result<(), String> {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(format!(
                "{name:?} can't be a name: letters, digits, '-', '_' and '.', at most {NAME_BYTES_MAX} bytes"
            ));
        }
        let (endpoint, contact) = match (Identity::parse_contact(who), who.parse()) {
            (Ok(party), _) => (party.endpoint, Some(who.trim().to_owned())),
            (_, Ok(endpoint)) => (endpoint, None),
            _ => return Err(format!("{who:?} is neither a contact nor an endpoint")),
        };
        if let Some((other, _)) = self.known.iter().find(|(_, known)| known.name == name)
            && *other != endpoint
        {
            return Err(format!("{name} is somebody else already"));
        }
        if self.known.len() >= NAMES_MAX && !self.known.contains_key(&endpoint) {
            return Err(format!("{NAMES_MAX} people have names already"));
        }
        let before = self.known.remove(&endpoint);
        let contact = contact.or_else(|| before.and_then(|known| known.contact));
        let name = name.to_owned();
        self.known.insert(endpoint, Known { name, contact });
        Ok(())
    }

    /// What somebody is called among `others`: the name, or as much of the endpoint as tells them apart.
    pub(in crate::chat) fn of<'a>(
        &self,
        endpoint: &EndpointId,
        others: impl IntoIterator<Item = &'a EndpointId>,
    ) -> String {
        if let Some(known) = self.known.get(endpoint) {
            return known.name.clone();
        }
        let short = &endpoint.as_str()[..SHORT];
        let alike = |other: &EndpointId| other != endpoint && other.as_str().starts_with(short);
        let digits = if others.into_iter().any(alike) {
            LONGER
        } else {
            SHORT
        };
        endpoint.as_str()[..digits].to_owned()
    }

    /// The keys of somebody: of a name, or of a contact.
    ///
    /// # Errors
    /// Why there are none.
    pub(in crate::chat) fn party(&self, who: &str) -> Result<Party, String> {
        if let Ok(party) = Identity::parse_contact(who) {
            return Ok(party);
        }
        let Some(known) = self.known.values().find(|known| known.name == who) else {
            return Err(format!(
                "{who:?} is neither a name nor a contact; they print theirs with: unibus identity show"
            ));
        };
        known
            .contact
            .as_deref()
            .and_then(|contact| Identity::parse_contact(contact).ok())
            .ok_or_else(|| {
                format!("of {who} there is no contact here: /name CONTACT {who} adds it")
            })
    }

    /// Whom a name, an endpoint or the first digits of one mean, among some people.
    ///
    /// # Errors
    /// Where it is nobody, or several.
    pub(in crate::chat) fn find<'a>(
        &self,
        who: &str,
        among: impl Iterator<Item = &'a EndpointId>,
    ) -> Result<EndpointId, String> {
        if let Ok(party) = Identity::parse_contact(who) {
            return Ok(party.endpoint);
        }
        let meant = |endpoint: &&EndpointId| {
            let named = self
                .known
                .get(*endpoint)
                .is_some_and(|known| known.name == who);
            named || (who.len() >= 4 && endpoint.as_str().starts_with(who))
        };
        let mut found = among.filter(meant);
        match (found.next(), found.next()) {
            (Some(endpoint), None) => Ok(endpoint.clone()),
            (Some(_), Some(_)) => Err(format!("{who:?} may be several people: more digits tell")),
            (None, _) => Err(format!(
                "nobody here is {who:?}: a name, or an endpoint's first digits"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(at: u8) -> Identity {
        Identity::from_secrets([at; 32], [at + 100; 32]).unwrap()
    }

    #[test]
    fn names_are_kept_and_come_back() {
        let (ann, bob) = (who(1), who(2));
        let mut names = Names::default();
        names.add("ann", &ann.contact()).unwrap();
        names.add("bob", bob.endpoint().as_str()).unwrap();
        let file = format!("# us\nann {}\nbob {}\n", ann.contact(), bob.endpoint());
        assert_eq!(Names::parse(&file), Ok(names.clone()));
        assert_eq!(names.of(ann.endpoint(), []), "ann");
        assert_eq!(names.party("ann"), Ok(ann.party().clone()));
        assert!(names.party("bob").unwrap_err().contains("no contact"));
        assert!(names.party("eve").unwrap_err().contains("neither"));
        // Another name keeps the contact.
        names.add("anna", ann.endpoint().as_str()).unwrap();
        assert_eq!(names.party("anna"), Ok(ann.party().clone()));
        assert!(names.add("anna", bob.endpoint().as_str()).is_err());
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, words) in [
            ("ann x\n", "line 1: \"x\" is neither"),
            ("# all\n\nann\n", "line 3: wanted"),
            (
                "a\u{1b}b 00112233445566778899aabbccddeeff",
                "can't be a name",
            ),
        ] {
            let error = Names::parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn endpoints_are_short_unless_two_look_alike() {
        let names = Names::default();
        let a: EndpointId = "00112233445566778899aabbccddeeff".parse().unwrap();
        let b: EndpointId = "00112233ff5566778899aabbccddeeff".parse().unwrap();
        assert_eq!(names.of(&a, [&a]), "00112233");
        assert_eq!(names.of(&a, [&a, &b]), "00112233445566778899");
        assert!(names.find("0011", [&a, &b].into_iter()).is_err());
        assert_eq!(names.find("0011", [&a].into_iter()), Ok(a));
    }
}
