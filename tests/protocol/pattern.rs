//! Expected bytes: literals, and `…` for any bytes of one line up to the next literal.

/// How far received bytes meet a pattern.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Met {
    /// The first so many bytes meet all of it.
    Whole(usize),
    /// They meet the start of it.
    Partly,
    /// No further bytes can help.
    Not,
}

/// A text as the bytes it stands for: `⏎` CRLF, `␊` LF, `␍` CR, `␉` TAB, and `⟨x×9⟩` nine times
/// `x`.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('⟨') {
        let (run, tail) = after.split_once('⟩').ok_or("⟨ without ⟩")?;
        let (unit, count) = run.rsplit_once('×').ok_or("⟨⟩ without ×")?;
        let count: usize = count.parse().map_err(|_| format!("no number: {count}"))?;
        out.push_str(before);
        out.push_str(&unit.repeat(count));
        rest = tail;
    }
    out.push_str(rest);
    let plain = out
        .replace('⏎', "\r\n")
        .replace('␊', "\n")
        .replace('␍', "\r")
        .replace('␉', "\t");
    Ok(plain.into_bytes())
}

/// Compares the start of `received` with `pattern`.
pub(crate) fn meet(pattern: &str, received: &[u8]) -> Result<Met, String> {
    let mut at = 0;
    for (i, part) in pattern.split('…').enumerate() {
        let literal = bytes(part)?;
        let rest = &received[at..];
        if i == 0 {
            let common = rest
                .iter()
                .zip(&literal)
                .take_while(|(a, b)| a == b)
                .count();
            if common < literal.len() {
                return Ok(if common == rest.len() {
                    Met::Partly
                } else {
                    Met::Not
                });
            }
            at += literal.len();
            continue;
        }
        let line_end = rest.iter().position(|&byte| byte == b'\n');
        let found = rest
            .windows(literal.len().max(1))
            .position(|window| window == literal);
        match (found, line_end) {
            (Some(found), Some(end)) if found > end => return Ok(Met::Not),
            (Some(found), _) => at += found + literal.len(),
            (None, Some(_)) => return Ok(Met::Not),
            (None, None) => return Ok(Met::Partly),
        }
    }
    Ok(Met::Whole(at))
}

#[test]
fn patterns_are_met_byte_for_byte_but_for_the_gaps() {
    let met = |pattern, received: &str| meet(pattern, received.as_bytes()).unwrap();
    assert_eq!(met("PONG⏎", "PONG\r\nrest"), Met::Whole(6));
    assert_eq!(met("PONG⏎", "PON"), Met::Partly);
    assert_eq!(met("PONG⏎", "PONG\n"), Met::Not);
    assert_eq!(
        met("{…\"a\":1…} ⏎", "{\"b\":2,\"a\":1,\"c\":3} \r\n!"),
        Met::Whole(22)
    );
    assert_eq!(met("{…\"a\":1…} ⏎", "{\"b\":2"), Met::Partly);
    assert_eq!(
        met("{…\"a\":1…} ⏎", "{\"b\":2} \r\n\"a\":1} \r\n"),
        Met::Not
    );
    assert_eq!(bytes("a⟨xy×3⟩⏎␉␊␍").unwrap(), b"axyxyxy\r\n\t\n\r");
    assert!(bytes("⟨x").is_err() && bytes("⟨x⟩").is_err() && bytes("⟨x×y⟩").is_err());
}
