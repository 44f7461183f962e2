//! Header blocks: reading agrees with a slow reader, and writing what was read keeps every field.

use unibus_proto::headers::{HeaderBuilder, HeaderMap};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// All bytes are one header block.
pub fn headers(data: &[u8]) {
    let read = HeaderMap::parse(data).ok();
    let fields = read.map(owned_fields);
    assert_eq!(fields, slow_fields(data));
    let (Some(map), Some(fields)) = (read, fields) else {
        return;
    };
    assert_eq!(map.is_empty(), fields.is_empty());
    if let Some((code, _)) = map.status() {
        assert!(code < 1000);
    }
    for (name, _) in &fields {
        let first = fields
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_slice());
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        assert_eq!(map.get_bytes(name), first);
        assert_eq!(
            map.get(name),
            first.and_then(|value| std::str::from_utf8(value).ok())
        );
    }

    let mut builder = HeaderBuilder::new();
    builder.extend(map, &[]);
    let block = builder.finish();
    let again = HeaderMap::parse(&block)
        .map(owned_fields)
        .unwrap_or_default();
    let one_line: Fields = fields
        .into_iter()
        .map(|(name, value)| (blanked(&name), trimmed(&blanked(&value))))
        .collect();
    assert_eq!(again, one_line);
}

fn owned_fields(map: HeaderMap<'_>) -> Fields {
    map.iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// Copies line by line; obviously right, and slow.
fn slow_fields(data: &[u8]) -> Option<Fields> {
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = data.iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte == b'\r' && bytes.peek() == Some(&&b'\n') {
            bytes.next();
            lines.push(Vec::new());
        } else if let Some(line) = lines.last_mut() {
            line.push(byte);
        }
    }
    let [first, fields @ .., end, after] = lines.as_slice() else {
        return None;
    };
    let status = first.strip_prefix(b"NATS/1.0")?;
    if !end.is_empty() || !after.is_empty() || !(status.is_empty() || status.starts_with(b" ")) {
        return None;
    }
    let split = |line: &Vec<u8>| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((line[..colon].to_vec(), trimmed(&line[colon + 1..])))
    };
    Some(fields.iter().filter_map(split).collect())
}

fn trimmed(value: &[u8]) -> Vec<u8> {
    value.trim_ascii().to_vec()
}

fn blanked(text: &[u8]) -> Vec<u8> {
    text.iter()
        .map(|&byte| {
            if matches!(byte, b'\r' | b'\n') {
                b' '
            } else {
                byte
            }
        })
        .collect()
}
