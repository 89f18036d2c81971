//! What commands a server has, and how each may be written: read from its own COMMAND DOCS and COMMAND INFO.

use redis::Value;
use std::collections::BTreeMap;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Key,
    Text,
    Integer,
    Double,
    Pattern,
    UnixTime,
    /// Its token alone.
    Token,
    /// One of those within.
    OneOf,
    /// All of those within.
    Block,
}

/// One argument of a command's grammar.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) token: Option<String>,
    pub(crate) optional: bool,
    pub(crate) multiple: bool,
    /// Whether the token is repeated with each.
    pub(crate) multiple_token: bool,
    pub(crate) inner: Vec<Argument>,
}

/// One command, or subcommand.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// `config|get`.
    pub(crate) name: String,
    pub(crate) group: String,
    /// Whether the server may keep its client waiting.
    pub(crate) blocking: bool,
    /// Whether it has subcommands, and is nothing without one.
    pub(crate) container: bool,
    pub(crate) arguments: Vec<Argument>,
}

/// All commands of the server, by name.
pub(crate) fn read(docs: &Value, info: &Value) -> Vec<Command> {
    let mut flags = BTreeMap::new();
    for entry in items(info) {
        read_flags(entry, &mut flags);
    }
    let mut commands = Vec::new();
    for (name, doc) in pairs(docs) {
        command(&name, doc, &flags, &mut commands);
    }
    commands.sort_by(|a, b| a.name.cmp(&b.name));
    commands
}

fn read_flags(entry: &Value, flags: &mut BTreeMap<String, Vec<String>>) {
    let entry = items(entry);
    if let (Some(name), Some(of)) = (entry.first(), entry.get(2)) {
        flags.insert(text(name), items(of).iter().map(text).collect());
    }
    for subcommand in entry.get(9).map(items).unwrap_or_default() {
        read_flags(subcommand, flags);
    }
}

fn command(name: &str, doc: &Value, flags: &BTreeMap<String, Vec<String>>, to: &mut Vec<Command>) {
    let fields: BTreeMap<String, &Value> = pairs(doc).into_iter().collect();
    let subcommands = fields.get("subcommands").map(|v| pairs(v)).unwrap_or_default();
    to.push(Command {
        name: name.to_owned(),
        group: fields.get("group").map(|v| text(v)).unwrap_or_default(),
        blocking: flags
            .get(name)
            .is_some_and(|of| of.iter().any(|f| f == "blocking")),
        container: !subcommands.is_empty(),
        arguments: fields.get("arguments").map(|v| arguments(v)).unwrap_or_default(),
    });
    for (name, doc) in subcommands {
        command(&name, doc, flags, to);
    }
}

fn arguments(value: &Value) -> Vec<Argument> {
    items(value).iter().map(argument).collect()
}

fn argument(value: &Value) -> Argument {
    let fields: BTreeMap<String, &Value> = pairs(value).into_iter().collect();
    let kind = text(fields["type"]);
    let flags: Vec<String> = fields
        .get("flags")
        .map(|v| items(v).iter().map(text).collect())
        .unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    Argument {
        name: text(fields["name"]),
        kind: match kind.as_str() {
            "key" => Kind::Key,
            "string" => Kind::Text,
            "integer" => Kind::Integer,
            "double" => Kind::Double,
            "pattern" => Kind::Pattern,
            "unix-time" => Kind::UnixTime,
            "pure-token" => Kind::Token,
            "oneof" => Kind::OneOf,
            "block" => Kind::Block,
            other => panic!("COMMAND DOCS knows a type of argument that this test does not: {other}"),
        },
        token: fields.get("token").map(|v| text(v)),
        optional: has("optional"),
        multiple: has("multiple"),
        multiple_token: has("multiple_token"),
        inner: fields.get("arguments").map(|v| arguments(v)).unwrap_or_default(),
    }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => &[],
    }
}

fn pairs(value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Map(pairs) => pairs.iter().map(|(k, v)| (text(k), v)).collect(),
        Value::Array(items) => items.chunks(2).map(|pair| (text(&pair[0]), &pair[1])).collect(),
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> String {
    redis::from_redis_value(value).unwrap_or_else(|e| panic!("{value:?} is no text: {e}"))
}
