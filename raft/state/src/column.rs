//! Numbers by position that do not change, in the smallest of a few forms.

/// Numbers by position.
#[derive(Debug)]
pub(crate) enum Column {
    /// `first`, `first + step`, …
    Line {
        first: u64,
        step: u64,
    },
    /// Equal ones in a row: where each run starts, and its value.
    Runs {
        starts: Box<[u32]>,
        values: Box<[u64]>,
    },
    /// What is to be added to `base`.
    Near8 {
        base: u64,
        offsets: Box<[u8]>,
    },
    Near16 {
        base: u64,
        offsets: Box<[u16]>,
    },
    Near32 {
        base: u64,
        offsets: Box<[u32]>,
    },
    /// As they are.
    Plain(Box<[u64]>),
}

/// Bytes that one run takes.
const RUN_BYTES: usize = 12;

impl Column {
    pub(crate) fn of(values: impl Iterator<Item = u64> + Clone) -> Self {
        let Some(first) = values.clone().next() else {
            return Self::Line { first: 0, step: 0 };
        };
        let second = values.clone().nth(1);
        let step = second.map_or(0, |second| second.wrapping_sub(first));
        let mut line = first;
        let mut is_line = true;
        let (mut runs, mut len, mut low, mut high, mut last) =
            (0_usize, 0_usize, first, first, None);
        for value in values.clone() {
            is_line &= value == line;
            line = line.wrapping_add(step);
            runs += usize::from(last != Some(value));
            len += 1;
            low = low.min(value);
            high = high.max(value);
            last = Some(value);
        }
        if is_line {
            return Self::Line { first, step };
        }
        let width = match high - low {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        if runs * RUN_BYTES < len * width {
            return Self::runs(values, runs);
        }
        match width {
            1 => Self::Near8 {
                base: low,
                offsets: values.map(|value| (value - low) as u8).collect(),
            },
            2 => Self::Near16 {
                base: low,
                offsets: values.map(|value| (value - low) as u16).collect(),
            },
            4 => Self::Near32 {
                base: low,
                offsets: values.map(|value| (value - low) as u32).collect(),
            },
            _ => Self::Plain(values.collect()),
        }
    }

    fn runs(values: impl Iterator<Item = u64>, count: usize) -> Self {
        let (mut starts, mut found) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (at, value) in (0_u32..).zip(values) {
            if found.last() != Some(&value) {
                starts.push(at);
                found.push(value);
            }
        }
        Self::Runs {
            starts: starts.into(),
            values: found.into(),
        }
    }

    /// The number at a position; 0 past the end, unless they lie on a line.
    pub(crate) fn get(&self, at: usize) -> u64 {
        fn near<T: Copy + Into<u64>>(base: u64, offsets: &[T], at: usize) -> u64 {
            offsets.get(at).map_or(0, |offset| base + (*offset).into())
        }
        match self {
            Self::Line { first, step } => first.wrapping_add(step.wrapping_mul(at as u64)),
            Self::Runs { starts, values } => {
                let after = starts.partition_point(|start| *start as usize <= at);
                let run = after.checked_sub(1).and_then(|run| values.get(run));
                run.copied().unwrap_or(0)
            }
            Self::Near8 { base, offsets } => near(*base, offsets, at),
            Self::Near16 { base, offsets } => near(*base, offsets, at),
            Self::Near32 { base, offsets } => near(*base, offsets, at),
            Self::Plain(values) => values.get(at).copied().unwrap_or(0),
        }
    }

    /// Bytes that it takes beside itself.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Line { .. } => 0,
            Self::Runs { starts, .. } => starts.len() * RUN_BYTES,
            Self::Near8 { offsets, .. } => offsets.len(),
            Self::Near16 { offsets, .. } => offsets.len() * 2,
            Self::Near32 { offsets, .. } => offsets.len() * 4,
            Self::Plain(values) => values.len() * 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[u64]) -> Column {
        let column = Column::of(values.iter().copied());
        for (at, value) in values.iter().enumerate() {
            assert_eq!(column.get(at), *value, "{at} of {column:?}");
        }
        column
    }

    #[test]
    fn every_form_gives_back_what_was_put_in() {
        assert!(matches!(check(&[]), Column::Line { .. }));
        assert!(matches!(check(&[7]), Column::Line { .. }));
        assert!(matches!(check(&[5, 5, 5]), Column::Line { step: 0, .. }));
        assert!(matches!(check(&[9, 6, 3, 0]), Column::Line { .. }));
        assert!(matches!(check(&[u64::MAX, 1]), Column::Line { .. }));
        let mut runs = vec![u64::MAX; 50];
        runs.extend([3; 50]);
        runs.push(4);
        assert!(matches!(check(&runs), Column::Runs { .. }));
        let wild = |limit: u64| -> Vec<u64> {
            let mixed = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
            (1..100).map(|at| 1_000_000 + mixed(at) % limit).collect()
        };
        assert!(matches!(check(&wild(200)), Column::Near8 { .. }));
        assert!(matches!(check(&wild(60_000)), Column::Near16 { .. }));
        assert!(matches!(check(&wild(1 << 32)), Column::Near32 { .. }));
        assert!(matches!(check(&wild(u64::MAX >> 3)), Column::Plain(_)));
    }
}
