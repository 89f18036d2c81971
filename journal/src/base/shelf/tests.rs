//! What the shelf promises, over the simulated disk.

use super::*;
use redoubt_env::sim_files::{Fault, SimFiles};
use redoubt_types::{Chain, Db, ReplId, WallTime};

const DATA: &str = "/node";

/// The manifest of `bytes` at an offset.
pub(in crate::base) fn base_of(at: u64, bytes: &[u8]) -> Base {
    Base {
        name: BaseName {
            at: Offset::new(at),
            checksum: BaseChecksum::default().extend(bytes).get(),
        },
        replid: ReplId::from_random([1; 20]),
        chain: Chain::from_u64(3),
        groups: 4,
        db: Db::new(2),
        captured: WallTime::from_ms(5),
        bytes: bytes.len() as u64,
        rdb_version: 11,
        server: "redis 7.2.4".into(),
        keys: 6,
        digest: 7,
    }
}

fn open(files: &SimFiles) -> io::Result<Shelf> {
    Shelf::open(Arc::new(files.clone()), Path::new(DATA))
}

/// Different in every chunk, and the last one short.
fn rdb(seed: u8) -> Vec<u8> {
    (0..2 * BASE_CHUNK_BYTES + 777)
        .map(|i| (i / 1000) as u8 ^ seed)
        .collect()
}

/// Gives `bytes` to the shelf as `base`, in pieces that are no chunks.
fn put(shelf: &mut Shelf, base: &Base, bytes: &[u8]) -> Result<(), PutError> {
    let Some(mut part) = shelf.begin(base)? else {
        return Ok(());
    };
    let came = part.came() as usize;
    for piece in bytes[came..].chunks(100_000) {
        part.write(piece)?;
    }
    assert!(part.is_whole());
    shelf.finish(part)
}

fn read_all(shelf: &Shelf, base: &Base) -> Result<Vec<u8>, ReadBaseError> {
    let mut all = Vec::new();
    loop {
        let chunk = shelf.read(base.name, all.len() as u64)?;
        if chunk.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&chunk);
    }
}

#[test]
fn what_was_given_is_read_again_also_after_a_power_cut() {
    let files = SimFiles::new(1);
    let (bytes, mut shelf) = (rdb(1), open(&files).unwrap());
    let base = base_of(9, &bytes);
    put(&mut shelf, &base, &bytes).unwrap();
    assert_eq!(shelf.held(), std::slice::from_ref(&base));
    drop(shelf);
    files.power_cut(5);
    let shelf = open(&files).unwrap();
    assert_eq!(shelf.held(), std::slice::from_ref(&base));
    assert_eq!(read_all(&shelf, &base).unwrap(), bytes);
    let tail = shelf.read(base.name, base.bytes - 3).unwrap();
    assert_eq!(&tail[..], &bytes[bytes.len() - 3..]);
    assert_eq!(shelf.bytes(), base.bytes);
}

#[test]
fn what_is_not_as_its_checksum_says_is_never_held() {
    let files = SimFiles::new(2);
    let mut shelf = open(&files).unwrap();
    let mut bytes = rdb(1);
    let base = base_of(9, &bytes);
    bytes[5] ^= 1;
    let error = put(&mut shelf, &base, &bytes).unwrap_err();
    assert!(matches!(error, PutError::Bad { .. }), "{error}");
    assert_eq!(shelf.held(), []);
    bytes[5] ^= 1;
    put(&mut shelf, &base, &bytes).unwrap();
    assert_eq!(read_all(&shelf, &base).unwrap(), bytes);
    let longer = [&bytes[..], b"x"].concat();
    let other = base_of(10, &bytes);
    let error = shelf.begin(&other).unwrap().unwrap().write(&longer).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn a_transfer_that_was_cut_goes_on_where_it_was() {
    let files = SimFiles::new(3);
    let bytes = rdb(2);
    let base = base_of(9, &bytes);
    let mut shelf = open(&files).unwrap();
    let mut part = shelf.begin(&base).unwrap().unwrap();
    part.write(&bytes[..BASE_CHUNK_BYTES + 5]).unwrap();
    assert!(
        matches!(shelf.begin(&base), Err(PutError::Busy(_))),
        "one at a time"
    );
    drop(part);
    drop(shelf);
    files.kill();
    let mut shelf = open(&files).unwrap();
    assert_eq!(shelf.held(), []);
    let part = shelf.begin(&base).unwrap().unwrap();
    assert_eq!(part.came(), BASE_CHUNK_BYTES as u64);
    drop(part);
    put(&mut shelf, &base, &bytes).unwrap();
    assert_eq!(read_all(&shelf, &base).unwrap(), bytes);
    assert!(shelf.begin(&base).unwrap().is_none(), "it is held");
}

#[test]
fn a_chunk_that_rotted_is_not_given_out_and_the_others_are() {
    let files = SimFiles::new(4);
    let bytes = rdb(3);
    let base = base_of(9, &bytes);
    let mut shelf = open(&files).unwrap();
    put(&mut shelf, &base, &bytes).unwrap();
    files.flip_bit(&shelf.path(base.name, "rdb"), BASE_CHUNK_BYTES as u64 + 9, 3);
    assert_eq!(shelf.read(base.name, 0).unwrap().len(), BASE_CHUNK_BYTES);
    let error = shelf.read(base.name, BASE_CHUNK_BYTES as u64).unwrap_err();
    assert!(matches!(error, ReadBaseError::Damaged { .. }), "{error}");
    assert!(shelf.read(base.name, 2 * BASE_CHUNK_BYTES as u64).is_ok());
}

#[test]
fn a_damaged_manifest_or_a_lost_rdb_leaves_nothing_held_and_is_fetched_again() {
    for what in ["sums", "rdb"] {
        let files = SimFiles::new(5);
        let bytes = rdb(4);
        let base = base_of(9, &bytes);
        let mut shelf = open(&files).unwrap();
        put(&mut shelf, &base, &bytes).unwrap();
        let path = shelf.path(base.name, what);
        drop(shelf);
        match what {
            "sums" => files.flip_bit(&path, 30, 1),
            _ => files.lose(&path),
        }
        let mut shelf = open(&files).unwrap();
        assert_eq!(shelf.held(), [], "{what}");
        put(&mut shelf, &base, &bytes).unwrap();
        assert_eq!(read_all(&shelf, &base).unwrap(), bytes, "{what}");
    }
}

#[test]
fn what_is_not_to_be_kept_goes_whole_or_not() {
    let files = SimFiles::new(6);
    let mut shelf = open(&files).unwrap();
    let all: Vec<_> = (1..5).map(|at| base_of(at, &rdb(at as u8))).collect();
    for base in &all[..2] {
        put(&mut shelf, base, &rdb(base.at().get() as u8)).unwrap();
    }
    for base in &all[2..] {
        drop(shelf.begin(base).unwrap());
    }
    let kept = all[1].name;
    let mut gone = shelf.retain(|name| name == kept).unwrap();
    gone.sort();
    assert_eq!(gone, [all[0].name, all[2].name, all[3].name]);
    assert_eq!(shelf.held(), [all[1].clone()]);
    assert_eq!(files.paths().len(), 2, "{:?}", files.paths());
}

#[test]
fn of_those_on_their_way_only_the_newest_stay() {
    let files = SimFiles::new(7);
    let mut shelf = open(&files).unwrap();
    for at in 1..6 {
        drop(shelf.begin(&base_of(at, &rdb(at as u8))).unwrap());
    }
    assert_eq!(files.paths().len(), STRANGERS_MAX, "{:?}", files.paths());
}

/// What happens to a base in a node's life.
fn live(files: &SimFiles) -> Result<(), PutError> {
    let (first, second) = (rdb(1), rdb(2));
    let (one, two) = (base_of(1, &first), base_of(2, &second));
    let io = |source| PutError::Io {
        name: one.name,
        source,
    };
    let mut shelf = open(files).map_err(io)?;
    put(&mut shelf, &one, &first)?;
    if let Some(mut part) = shelf.begin(&two)?
        && part.came() == 0
    {
        part.write(&second[..BASE_CHUNK_BYTES])?;
    }
    let mut shelf = open(files).map_err(io)?;
    put(&mut shelf, &two, &second)?;
    shelf.retain(|name| name == two.name).map_err(io)?;
    Ok(())
}

#[test]
fn h19_a_base_is_held_whole_or_not_at_all_whatever_call_fails() {
    let whole = SimFiles::new(8);
    live(&whole).unwrap();
    let (first, second) = (rdb(1), rdb(2));
    let bytes_of = |base: &Base| {
        if base.at() == Offset::new(1) {
            &first
        } else {
            &second
        }
    };
    for nth in 1..=whole.all_calls() {
        for (fault, cut) in [(Fault::Io, false), (Fault::Io, true), (Fault::NoSpace, true)] {
            let files = SimFiles::new(8);
            files.fail_nth_of_all(nth, fault);
            let result = live(&files);
            let failed = files.failed_calls();
            // A hint may fail without consequence; everything else is told.
            if cut {
                files.power_cut(nth);
            }
            let shelf = open(&files).unwrap_or_else(|e| panic!("call {nth} {failed:?}: {e}"));
            for base in shelf.held() {
                assert_eq!(
                    read_all(&shelf, &base).unwrap(),
                    *bytes_of(&base),
                    "call {nth} {failed:?}"
                );
            }
            if result.is_ok() {
                assert_eq!(shelf.held(), [base_of(2, &second)], "call {nth} {failed:?}");
            }
            drop(shelf);
            // For each of the two, an attempt may find out that what was not synced is not what it was.
            let mut attempts = (0..3).map(|_| live(&files));
            let again = attempts.find(|r| !matches!(r, Err(PutError::Again(_))));
            let again = again.expect("it comes to an end");
            again.unwrap_or_else(|e| panic!("call {nth} {failed:?}, then again: {e}"));
            assert_eq!(files.paths().len(), 2, "litter: {:?}", files.paths());
        }
    }
}
