//! Replies as trees that keep every byte of what they mean: a reader of its own, not the product's.

/// One reply or push.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frame {
    /// The type byte and the content: a line, or a string. Nulls are `_`, or `$` and `*` without content.
    Leaf(u8, Option<Vec<u8>>),
    /// The type byte and the elements; a map's keys and values alternate.
    All(u8, Vec<Frame>),
}

impl Frame {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Frame::Leaf(kind, _) | Frame::All(kind, _) => *kind,
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self.kind(), b'-' | b'!')
    }

    /// Whether it is a line of this very text.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.bytes() == text.as_bytes()
    }

    /// A leaf's content; empty for a null and for what has elements.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Frame::Leaf(_, Some(bytes)) => bytes,
            _ => &[],
        }
    }

    pub(crate) fn int(&self) -> Option<i64> {
        std::str::from_utf8(self.bytes()).ok()?.parse().ok()
    }

    pub(crate) fn items(&self) -> &[Frame] {
        match self {
            Frame::All(_, items) => items,
            Frame::Leaf(..) => &[],
        }
    }

    /// For people, cut short.
    pub(crate) fn show(&self) -> String {
        let whole = self.describe();
        match whole.char_indices().nth(1500) {
            Some((at, _)) => format!("{}…", &whole[..at]),
            None => whole,
        }
    }

    fn describe(&self) -> String {
        match self {
            Frame::Leaf(kind, None) => format!("{}null", *kind as char),
            Frame::Leaf(kind, Some(bytes)) => format!("{}{}", *kind as char, bytes.escape_ascii()),
            Frame::All(kind, items) => {
                let items: Vec<String> = items.iter().map(Frame::describe).collect();
                format!("{}[{}]", *kind as char, items.join(", "))
            }
        }
    }
}

/// The first frame of `bytes` and its length; `None` while it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let end = bytes.windows(2).position(|w| w == b"\r\n")?;
    let (kind, line) = (bytes[0], &bytes[1..end]);
    let number = || {
        let text = std::str::from_utf8(line).expect("a length is ASCII");
        text.parse::<i64>()
            .unwrap_or_else(|_| panic!("no length: {:?}", bytes.escape_ascii().to_string()))
    };
    match kind {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
            Some((Frame::Leaf(kind, Some(line.to_vec())), end + 2))
        }
        b'$' | b'=' | b'!' => {
            let Ok(len) = usize::try_from(number()) else {
                return Some((Frame::Leaf(kind, None), end + 2));
            };
            let start = end + 2;
            let content = bytes.get(start..start + len + 2)?;
            assert!(content.ends_with(b"\r\n"), "a string does not end where it says");
            Some((Frame::Leaf(kind, Some(content[..len].to_vec())), start + len + 2))
        }
        b'*' | b'~' | b'>' | b'%' => {
            let Ok(count) = usize::try_from(number()) else {
                return Some((Frame::Leaf(kind, None), end + 2));
            };
            let count = if kind == b'%' { count * 2 } else { count };
            let (mut items, mut at) = (Vec::new(), end + 2);
            for _ in 0..count {
                let (item, len) = parse(&bytes[at..])?;
                items.push(item);
                at += len;
            }
            Some((Frame::All(kind, items), at))
        }
        other => panic!("a reply can't begin with {:?}", other as char),
    }
}
