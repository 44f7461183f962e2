//! Who a client's certificate says it is (nats-surface §1.12, `verify_and_map`).
//!
//! Owns reading the names out of a certificate that TLS has verified already. Whether one of them is a
//! user is the authenticator's to say.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Most alternative names that are looked at.
const NAMES_MAX: usize = 64;

/// The names in a client's certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CertificateIdentity {
    names: Vec<String>,
    subject: Vec<Attribute>,
}

/// A certificate can't be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the client's certificate can't be decoded")]
pub struct CertificateError;

/// One part of a distinguished name: type in upper case (or dotted numbers), and value.
type Attribute = (String, String);

impl CertificateIdentity {
    /// Reads the end entity's certificate.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        let subject = certificate.subject();
        let mut names = alternatives(&certificate)?;
        let text = subject_text(subject);
        if !text.is_empty() {
            names.push(text);
        }
        Ok(Self {
            names,
            subject: attributes(subject),
        })
    }

    /// What a user may be called, in the order in which users are looked for: e-mail addresses, DNS
    /// names and URIs among the alternative names, then the subject as `CN=bob,OU=team`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether `name` is the certificate's subject, in whatever order and spacing its parts are
    /// written: `OU=team, CN=bob`.
    #[must_use]
    pub fn has_subject(&self, name: &str) -> bool {
        !self.subject.is_empty() && parse_name(name).is_some_and(|parts| parts == self.subject)
    }
}

fn alternatives(certificate: &X509Certificate<'_>) -> Result<Vec<String>, CertificateError> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError)?;
    let Some(extension) = extension else {
        return Ok(Vec::new());
    };
    let all = &extension.value.general_names;
    let of = |pick: fn(&GeneralName<'_>) -> Option<String>| all.iter().filter_map(pick);
    let names = of(|name| match name {
        GeneralName::RFC822Name(mail) => Some((*mail).to_owned()),
        _ => None,
    })
    .chain(of(|name| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        _ => None,
    }))
    .chain(of(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    }));
    Ok(names.take(NAMES_MAX).collect())
}

/// The types that have a name; others are written in numbers.
const TYPES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.17", "POSTALCODE"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

fn type_name(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let known = TYPES.iter().find(|(number, _)| *number == id);
    match known {
        Some((_, name)) => (*name).to_owned(),
        None => id,
    }
}

fn value(attribute: &AttributeTypeAndValue<'_>) -> String {
    attribute.as_str().map(str::to_owned).unwrap_or_default()
}

/// RFC 2253: the last part first, separated by commas.
fn subject_text(subject: &X509Name<'_>) -> String {
    let parts: Vec<String> = subject
        .iter_rdn()
        .map(|rdn| {
            let set: Vec<String> = rdn
                .iter()
                .map(|a| format!("{}={}", type_name(a), escaped(&value(a))))
                .collect();
            set.join("+")
        })
        .collect();
    let reversed: Vec<String> = parts.into_iter().rev().collect();
    reversed.join(",")
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let edge = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Sorted, so that the order in which a name is written does not matter.
fn attributes(subject: &X509Name<'_>) -> Vec<Attribute> {
    let mut all: Vec<Attribute> = subject
        .iter_attributes()
        .map(|a| (type_name(a), value(a)))
        .collect();
    all.sort();
    all
}

/// Reads `CN=bob, OU=team`; a backslash takes the next character as it is.
fn parse_name(text: &str) -> Option<Vec<Attribute>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    // Escaped characters are kept apart from separators, and from spaces at the edges.
    let mut kept: Vec<usize> = vec![0];
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                parts.last_mut()?.push(chars.next()?);
                *kept.last_mut()? = parts.last()?.len();
            }
            ',' | ';' | '+' => {
                parts.push(String::new());
                kept.push(0);
            }
            c => parts.last_mut()?.push(c),
        }
    }
    let mut all = Vec::with_capacity(parts.len());
    for (part, kept) in parts.iter().zip(kept) {
        let end = part.trim_end().len().max(kept);
        let (kind, value) = part[..end].trim_start().split_once('=')?;
        let kind = kind.trim().to_ascii_uppercase();
        let known = TYPES.iter().find(|(number, _)| *number == kind);
        let kind = known.map_or(kind, |(_, name)| (*name).to_owned());
        all.push((kind, value.trim_start().to_owned()));
    }
    all.sort();
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::CertificateIdentity;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn identity(change: impl FnOnce(&mut CertificateParams)) -> CertificateIdentity {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        CertificateIdentity::from_der(certificate.der()).unwrap()
    }

    #[test]
    fn names_come_in_the_order_in_which_users_are_looked_for() {
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        let found = identity(|params| {
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Unibus");
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, "bus, team");
            params.distinguished_name.push(DnType::CommonName, "bob");
            params.subject_alt_names = vec![
                SanType::URI(text("spiffe://bus/bob")),
                SanType::DnsName(text("bob.example")),
                SanType::Rfc822Name(text("bob@example.org")),
            ];
        });
        assert_eq!(
            found.names(),
            [
                "bob@example.org",
                "bob.example",
                "spiffe://bus/bob",
                "CN=bob,OU=bus\\, team,O=Unibus",
            ]
        );
    }

    #[test]
    fn a_subject_is_recognized_however_it_is_written() {
        let found = identity(|params| {
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, "bus, team");
            params.distinguished_name.push(DnType::CommonName, "bob");
        });
        for same in [
            "CN=bob,OU=bus\\, team",
            "OU=bus\\, team, CN=bob",
            "cn = bob ; ou=bus\\, team",
            "2.5.4.3=bob+OU=bus\\, team",
        ] {
            assert!(found.has_subject(same), "{same}");
        }
        for other in [
            "CN=bob",
            "CN=bob,OU=bus",
            "CN=bob,OU=bus, team",
            "CN=bob,CN=bob,OU=bus\\, team",
            "CN=Bob,OU=bus\\, team",
            "bob",
            "",
        ] {
            assert!(!found.has_subject(other), "{other}");
        }
        assert!(!identity(|_| {}).has_subject(""));
    }
}
