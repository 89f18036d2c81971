use super::*;
use proptest::prelude::*;
use redoubt_resp::request::RequestHead;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

fn at(ms: u64) -> BootTime {
    BootTime::new(Duration::from_millis(ms))
}

fn off(n: u64) -> Offset {
    Offset::new(n)
}

fn slot(n: usize) -> Slot {
    Slot { key: n, id: n as u64 }
}

/// What a server sends for a fence.
static FENCE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let id = "0".repeat(39) + "1";
    let text = format!(
        "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
         master_replid:{id}\r\nmaster_replid2:{}\r\nmaster_repl_offset:7\r\nsecond_repl_offset:-1\r\n\
         repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\n\
         repl_backlog_histlen:7\r\n",
        "0".repeat(40)
    );
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
});

fn seal(flights: &mut Flights) -> FlightId {
    flights.seal(Mark::default(), &mut BytesMut::new())
}

/// What a server sends at the end of flight `n`.
fn fence(n: u64) -> Vec<u8> {
    let number = format!("{n} redoubt");
    [format!("${}\r\n{number}\r\n", number.len()).as_bytes(), &FENCE].concat()
}

/// A client's key, the number of a flight, and bytes.
type Got = (usize, u64, Vec<u8>);

/// Feeds `bytes` in pieces of `cut`; returns what each client got, with the flight, and the fences.
fn feed(flights: &mut Flights, bytes: &[u8], cut: usize) -> (Vec<Got>, Vec<FlightId>) {
    let (mut replies, mut fences) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        flights
            .received(piece, at(1), |arrived| match arrived {
                Arrived::Reply(piece) => replies.push((piece.slot.key, piece.flight.0, piece.bytes.to_vec())),
                Arrived::Fence(id, value, _) => {
                    assert!(value.as_error().is_some() || fence_of(&value) != FenceAnswer::Malformed);
                    fences.push(id);
                }
            })
            .unwrap();
    }
    (replies, fences)
}

#[test]
fn a_flight_leaves_when_its_fence_point_is_committed_and_not_before() {
    let mut flights = Flights::default();
    flights.send(slot(7), None);
    let id = seal(&mut flights);
    assert_eq!(flights.in_the_air(), 1);
    let (replies, fences) = feed(&mut flights, &[b"+OK\r\n", &fence(0)[..]].concat(), 100);
    assert_eq!(replies, [(7, 0, b"+OK\r\n".to_vec())]);
    assert_eq!((fences, flights.in_the_air()), (vec![id], 0));
    let mut horizon = Horizon::new(off(9), at(100));
    assert_eq!(
        flights.release(horizon, Offset::ZERO),
        [],
        "it has no fence point"
    );
    assert!(flights.wants_fence());
    flights.fenced(id, off(10), at(1)).unwrap();
    assert!(!flights.wants_fence());
    assert_eq!(flights.release(horizon, Offset::ZERO), [], "it is not committed");
    horizon.commit(off(10));
    assert_eq!(flights.release(horizon, Offset::ZERO), [slot(7)]);
    assert!(id < flights.released().end);
    assert_eq!(flights.held_since(), None);
}

#[test]
fn h14_a_flight_whose_fence_came_after_the_lease_is_held() {
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    let id = seal(&mut flights);
    feed(&mut flights, &[b"+OK\r\n", &fence(0)[..]].concat(), 100);
    flights.fenced(id, off(10), at(100)).unwrap();
    let mut horizon = Horizon::new(off(10), at(100));
    assert_eq!(flights.release(horizon, Offset::ZERO), []);
    horizon.extend(at(101));
    assert_eq!(flights.release(horizon, Offset::ZERO), [slot(1)]);
}

#[test]
fn h25_a_fence_that_is_refused_for_now_is_covered_by_a_later_one() {
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    let busy = seal(&mut flights);
    feed(&mut flights, &[b"+OK\r\n", &fence(0)[..]].concat(), 100);
    flights.send(slot(2), None);
    let later = seal(&mut flights);
    let horizon = Horizon::new(off(10), at(100));
    assert!(busy < later && flights.wants_fence());
    feed(&mut flights, &[b"+OK\r\n", &fence(1)[..]].concat(), 100);
    flights.fenced(later, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon, Offset::ZERO), [slot(1), slot(2)]);
}

#[test]
fn a_fence_that_goes_back_is_told() {
    let mut flights = Flights::default();
    for point in [10, 9] {
        flights.send(slot(1), None);
        let id = seal(&mut flights);
        feed(&mut flights, &[b"+OK\r\n", &fence(10 - point)[..]].concat(), 100);
        assert_eq!(flights.fenced(id, off(point), at(1)).is_ok(), point == 10);
    }
}

#[test]
fn an_answer_too_many_is_noticed_at_the_next_fence_and_what_came_since_the_last_one_is_nobodys() {
    let mut flights = Flights::default();
    let mut ids = Vec::new();
    for n in 1..=3 {
        flights.send(slot(n), None);
        ids.push(seal(&mut flights));
    }
    let horizon = Horizon::new(off(10), at(100));
    feed(&mut flights, &[b"+OK\r\n", &fence(0)[..]].concat(), 100);
    flights.fenced(ids[0], off(10), at(1)).unwrap();
    // The second client's command is answered twice.
    let shifted = [b"+one\r\n+two\r\n", &fence(1)[..], b"+three\r\n", &fence(2)].concat();
    let fell = flights.received(&shifted, at(1), |arrived| {
        assert!(matches!(arrived, Arrived::Reply(piece) if piece.slot == slot(2)));
    });
    assert!(matches!(fell, Err(OutOfStep::NoFence)), "{fell:?}");
    assert_eq!(flights.distrust(), [slot(2)]);
    flights.cut();
    let again = seal(&mut flights);
    feed(&mut flights, &fence(3), 100);
    flights.fenced(again, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon, Offset::ZERO), [slot(1)]);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_answers_that_are_another_clients() {
    redoubt_env::planted::assert_catches(
        "an_answer_too_many_is_noticed_at_the_next_fence_and_what_came_since_the_last_one_is_nobodys",
        "out_of_step_goes_on",
    );
}

#[test]
fn an_error_in_a_fences_place_releases_nothing_and_hides_no_shift_from_the_next() {
    let mut flights = Flights::default();
    for n in 1..=2 {
        flights.send(slot(n), None);
        seal(&mut flights);
    }
    // The first client's command is answered twice, the second time with an error.
    let shifted = [b"+one\r\n-BUSY\r\n", &fence(0)[..], b"+two\r\n", &fence(1)].concat();
    let fell = flights.received(&shifted, at(1), |_| {});
    assert!(matches!(fell, Err(OutOfStep::NoFence)), "{fell:?}");
    assert_eq!(flights.distrust(), [slot(1)]);
    assert_eq!(flights.release(Horizon::new(off(10), at(100)), Offset::ZERO), []);
}

#[test]
fn a_shift_that_errors_hide_from_one_fence_does_not_pass_the_next() {
    let mut flights = Flights::default();
    (1..=2).for_each(|n| flights.send(slot(n), None));
    seal(&mut flights);
    // The first client's command is answered three times, twice with errors, which stand where the second's answer and
    // the flight's number should. What is left over looks like a fence.
    let shifted = [b"+one\r\n+two\r\n-BUSY\r\n-BUSY\r\n", &fence(0)[..]].concat();
    let (_, fences) = feed(&mut flights, &shifted[..shifted.len() - fence(0).len()], 100);
    assert_eq!(fences.len(), 1, "it was refused");
    seal(&mut flights);
    let fell = flights.received(&fence(0), at(1), |_| {});
    assert!(matches!(fell, Err(OutOfStep::NoFence)), "{fell:?}");
    assert_eq!(flights.distrust(), [slot(1), slot(2)]);
}

#[test]
fn who_is_answered_late_in_a_flight_is_held_since_then() {
    let mut flights = Flights::default();
    (1..=2).for_each(|n| flights.send(slot(n), None));
    seal(&mut flights);
    flights.received(b"+OK\r\n", at(1), |_| {}).unwrap();
    flights.received(b"+OK\r\n", at(50), |_| {}).unwrap();
    assert_eq!(flights.held_since(), Some(at(1)));
    let before = |time| move |since: BootTime| since < at(time);
    let held: Vec<Slot> = flights.held_if(before(50)).map(|(slot, _)| slot).collect();
    assert_eq!(held, [slot(1)]);
    assert_eq!(flights.held_if(before(51)).count(), 2);
}

#[test]
fn what_nobody_asked_for_is_an_error() {
    let mut flights = Flights::default();
    assert!(flights.received(b"+OK\r\n", at(1), |_| {}).is_err());
}

#[test]
fn after_a_cut_what_was_received_waits_for_a_fence_of_another_connection() {
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    seal(&mut flights);
    feed(&mut flights, b"+OK\r\n$4\r\nin", 100);
    flights.cut();
    assert!(flights.wants_fence());
    assert_eq!(flights.in_the_air(), 0);
    let horizon = Horizon::new(off(10), at(100));
    assert_eq!(flights.release(horizon, Offset::ZERO), []);
    let id = seal(&mut flights);
    let (replies, fences) = feed(&mut flights, &fence(1), 100);
    assert_eq!((replies.len(), &fences), (0, &vec![id]));
    flights.fenced(id, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon, Offset::ZERO), [slot(1)]);
}

#[test]
fn h21_reads_wait_until_their_fence_point_is_indexed() {
    let keys = || {
        let args = vec![Bytes::from_static(b"GET"), Bytes::from_static(b"k")];
        ReadKeys::of(&RequestHead { args, arg_count: 2 }).unwrap()
    };
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    flights.send_read(slot(2), keys());
    let first = seal(&mut flights);
    flights.send(slot(3), None);
    let second = seal(&mut flights);
    let horizon = Horizon::new(off(5), at(100));
    feed(&mut flights, &[b"+OK\r\n+B\r\n", &fence(0)[..]].concat(), 100);
    assert_eq!(flights.release(horizon, off(1000)), [], "it has no fence point");
    flights.fenced(first, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon, off(9)), []);
    assert!(flights.wants_index());
    assert_eq!(
        flights.release(horizon, off(10)),
        [slot(1), slot(2)],
        "they are to be looked at"
    );
    assert!(!flights.wants_index());
    let released = flights.released();
    assert!(released.end == first && released.reads_end == second);
    feed(&mut flights, &[b"+OK\r\n", &fence(1)[..]].concat(), 100);
    flights.fenced(second, off(20), at(1)).unwrap();
    assert!(!flights.wants_index(), "no read waits for it");
    assert_eq!(flights.release(horizon, off(20)), [], "nobody there reads");
    let mut later = horizon;
    later.commit(off(20));
    assert_eq!(flights.release(later, off(20)).len(), 3);
    assert_eq!(flights.released().end, flights.released().reads_end);
}

#[test]
fn h14_reads_are_of_the_present() {
    let args = vec![Bytes::from_static(b"GET"), Bytes::from_static(b"k")];
    let keys = ReadKeys::of(&RequestHead { args, arg_count: 2 }).unwrap();
    let mut flights = Flights::default();
    flights.send_read(slot(2), keys);
    let id = seal(&mut flights);
    feed(&mut flights, &[b"+B\r\n", &fence(0)[..]].concat(), 100);
    flights.fenced(id, off(10), at(100)).unwrap();
    let mut horizon = Horizon::new(off(5), at(100));
    assert_eq!(flights.release(horizon, off(10)), []);
    horizon.extend(at(101));
    assert_eq!(flights.release(horizon, off(10)), [slot(2)]);
}

proptest! {
    /// Whatever the answers are and however they are cut, each client gets its own, whole and in order, and in the flight
    /// in which it was asked for.
    #[test]
    fn each_client_gets_its_own_answers(
        flown in prop::collection::vec(prop::collection::vec((0usize..5, 0usize..40, any::<bool>()), 0..8), 1..8),
        cut in 1usize..70,
    ) {
        let mut flights = Flights::default();
        let (mut wire, mut want) = (Vec::new(), BTreeMap::<usize, Vec<u8>>::new());
        let mut flight_of = BTreeMap::<usize, Vec<u64>>::new();
        for (flight, commands) in flown.iter().enumerate() {
            for (n, (who, len, replaced)) in commands.iter().enumerate() {
                let answer = format!("*2\r\n${len}\r\n{}\r\n:{flight}{n}\r\n", "x".repeat(*len));
                wire.extend_from_slice(answer.as_bytes());
                let instead = replaced.then(|| Bytes::from(format!("+instead {flight} {n}\r\n")));
                want.entry(*who).or_default().extend_from_slice(instead.as_deref().unwrap_or(answer.as_bytes()));
                flight_of.entry(*who).or_default().push(flight as u64);
                flights.send(slot(*who), instead);
            }
            seal(&mut flights);
            wire.extend_from_slice(&fence(flight as u64));
        }
        let (replies, fences) = feed(&mut flights, &wire, cut);
        prop_assert_eq!(fences.len(), flown.len());
        let (mut got, mut got_in) = (BTreeMap::<usize, Vec<u8>>::new(), BTreeMap::<usize, Vec<u64>>::new());
        for (who, flight, bytes) in replies {
            got.entry(who).or_default().extend(bytes);
            let flights = got_in.entry(who).or_default();
            if flights.last() != Some(&flight) {
                flights.push(flight);
            }
        }
        flight_of.values_mut().for_each(Vec::dedup);
        prop_assert_eq!(got, want);
        prop_assert_eq!(got_in, flight_of);
    }
}
