//! What a client without a connection of its own has said about itself, to be said again on one.

use bytes::Bytes;
use redoubt_resp::request::RequestHead;

/// `CLIENT SETNAME` and `SETINFO` commands, the last of each kind.
#[derive(Clone, Debug, Default)]
pub(in crate::client) struct Names {
    commands: Vec<Vec<Bytes>>,
}

impl Names {
    /// Remembers such a command, all of which its head shows.
    pub(in crate::client) fn remember(&mut self, head: &RequestHead) {
        let kind = |args: &[Bytes]| {
            let words = if args.len() == 4 { 1..3 } else { 1..2 };
            args[words]
                .iter()
                .map(|w| w.to_ascii_lowercase())
                .collect::<Vec<_>>()
        };
        let new = kind(&head.args);
        self.commands.retain(|args| kind(args) != new);
        // Apart from the buffer that they were read into, which is much larger.
        let args = head.args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
        self.commands.push(args);
    }

    /// Remembers a name that was given otherwise.
    pub(in crate::client) fn remember_name(&mut self, name: &[u8]) {
        let args = [&b"CLIENT"[..], b"SETNAME", name].map(Bytes::copy_from_slice);
        self.remember(&RequestHead {
            arg_count: args.len(),
            args: args.into(),
        });
    }

    /// The commands that say it all again.
    pub(in crate::client) fn commands(&self) -> Vec<Vec<&[u8]>> {
        self.commands
            .iter()
            .map(|c| c.iter().map(|arg| &arg[..]).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(words: &str) -> RequestHead {
        let args: Vec<Bytes> = words
            .split(' ')
            .map(|w| Bytes::copy_from_slice(w.as_bytes()))
            .collect();
        let arg_count = args.len();
        RequestHead { args, arg_count }
    }

    #[test]
    fn the_last_of_each_kind_is_said_again() {
        let mut names = Names::default();
        for words in [
            "CLIENT SETNAME a",
            "CLIENT SETINFO LIB-NAME x",
            "CLIENT SETINFO lib-ver 1",
            "client setname b",
            "CLIENT setinfo lib-name y",
        ] {
            names.remember(&head(words));
        }
        let said: Vec<String> = names
            .commands()
            .iter()
            .map(|args| String::from_utf8(args.join(&b' ')).unwrap())
            .collect();
        assert_eq!(
            said,
            [
                "CLIENT SETINFO lib-ver 1",
                "client setname b",
                "CLIENT setinfo lib-name y"
            ]
        );
    }
}
