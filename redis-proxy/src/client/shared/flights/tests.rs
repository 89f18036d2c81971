use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
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

/// What a server sends for a fence, as far as it matters here.
const FENCE: &[u8] = b"$4\r\ninfo\r\n";

/// A client's key, the number of a flight, and bytes.
type Got = (usize, u64, Vec<u8>);

/// Feeds `bytes` in pieces of `cut`; returns what each client got, with the flight, and the fences.
fn feed(flights: &mut Flights, bytes: &[u8], cut: usize) -> (Vec<Got>, Vec<FlightId>) {
    let (mut replies, mut fences) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        flights
            .received(piece, at(1), |arrived| match arrived {
                Arrived::Reply(slot, flight, bytes, _) => replies.push((slot.key, flight.0, bytes.to_vec())),
                Arrived::Fence(id, value) => {
                    assert_eq!(value.as_bytes(), Some(&b"info"[..]));
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
    let id = flights.seal();
    assert_eq!(flights.in_the_air(), 1);
    let (replies, fences) = feed(&mut flights, &[b"+OK\r\n", FENCE].concat(), 100);
    assert_eq!(replies, [(7, 0, b"+OK\r\n".to_vec())]);
    assert_eq!((fences, flights.in_the_air()), (vec![id], 0));
    let mut horizon = Horizon::new(off(9), at(100));
    assert_eq!(flights.release(horizon).1, [], "it has no fence point");
    assert!(flights.wants_fence());
    flights.fenced(id, off(10), at(1)).unwrap();
    assert!(!flights.wants_fence());
    assert_eq!(flights.release(horizon).1, [], "it is not committed");
    horizon.commit(off(10));
    let (end, slots) = flights.release(horizon);
    assert_eq!(slots, [slot(7)]);
    assert!(id < end);
    assert_eq!(flights.held_since(), None);
}

#[test]
fn h14_a_flight_whose_fence_came_after_the_lease_is_held() {
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    let id = flights.seal();
    feed(&mut flights, &[b"+OK\r\n", FENCE].concat(), 100);
    flights.fenced(id, off(10), at(100)).unwrap();
    let mut horizon = Horizon::new(off(10), at(100));
    assert_eq!(flights.release(horizon).1, []);
    horizon.extend(at(101));
    assert_eq!(flights.release(horizon).1, [slot(1)]);
}

#[test]
fn h25_a_fence_that_is_refused_for_now_is_covered_by_a_later_one() {
    let mut flights = Flights::default();
    flights.send(slot(1), None);
    let busy = flights.seal();
    feed(&mut flights, &[b"+OK\r\n", FENCE].concat(), 100);
    flights.send(slot(2), None);
    let later = flights.seal();
    let horizon = Horizon::new(off(10), at(100));
    assert!(busy < later && flights.wants_fence());
    feed(&mut flights, &[b"+OK\r\n", FENCE].concat(), 100);
    flights.fenced(later, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon).1, [slot(1), slot(2)]);
}

#[test]
fn a_fence_that_goes_back_is_told() {
    let mut flights = Flights::default();
    for point in [10, 9] {
        flights.send(slot(1), None);
        let id = flights.seal();
        feed(&mut flights, &[b"+OK\r\n", FENCE].concat(), 100);
        assert_eq!(flights.fenced(id, off(point), at(1)).is_ok(), point == 10);
    }
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
    flights.seal();
    feed(&mut flights, b"+OK\r\n$4\r\nin", 100);
    flights.cut();
    assert!(flights.wants_fence());
    assert_eq!(flights.in_the_air(), 0);
    let horizon = Horizon::new(off(10), at(100));
    assert_eq!(flights.release(horizon).1, []);
    let id = flights.seal();
    let (replies, fences) = feed(&mut flights, FENCE, 100);
    assert_eq!((replies.len(), &fences), (0, &vec![id]));
    flights.fenced(id, off(10), at(1)).unwrap();
    assert_eq!(flights.release(horizon).1, [slot(1)]);
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
            flights.seal();
            wire.extend_from_slice(FENCE);
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
