//! How many keys a server says that it has.

use redoubt_resp::info::Info;
use redoubt_types::Db;

/// Keys by database, from INFO's keyspace section (`db0:keys=3,expires=0,avg_ttl=0`). What can't be read counts as a key, of
/// whichever database: emptiness must be certain.
pub(crate) fn keys_by_db<'a>(info: Info<'a>) -> impl Iterator<Item = (Db, u64)> + 'a {
    info.fields().filter_map(|(name, value)| {
        let db = name
            .strip_prefix(b"db")
            .filter(|n| n.iter().all(u8::is_ascii_digit))?;
        let db = std::str::from_utf8(db).ok().and_then(|n| n.parse().ok());
        let value = std::str::from_utf8(value).ok()?;
        let keys = value
            .strip_prefix("keys=")
            .and_then(|v| v.split(',').next()?.parse().ok());
        Some((Db::new(db.unwrap_or(u32::MAX)), keys.unwrap_or(1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_resp::info::parse_info;

    #[test]
    fn keys_are_counted_in_every_database() {
        let of = |text: &[u8]| {
            let keys = keys_by_db(parse_info(text));
            keys.map(|(db, keys)| (db.get(), keys)).collect::<Vec<_>>()
        };
        let text = b"# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb11:keys=4,expires=0,avg_ttl=0\r\n";
        assert_eq!(of(text), [(0, 3), (11, 4)]);
        assert_eq!(of(b"# Keyspace\r\n"), []);
        assert_eq!(of(b"db0:something else\r\n"), [(0, 1)]);
        assert_eq!(of(b"dbx:keys=1\r\n"), []);
    }
}
