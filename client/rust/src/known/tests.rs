//! What a client remembers.

use super::*;

const RUNTIME: &str = "rt:1";

fn input(id: u128, state_json: &str) -> InputState {
    InputState { input_id: Uuid::from_u128(id), state_json: state_json.to_owned() }
}

fn changed(known: &KnownRuntimes, inputs: &[InputState]) -> Option<(u64, Vec<usize>)> {
    known.changed_inputs(RUNTIME, inputs).map(|some| (some.revision, some.changed))
}

#[test]
fn inputs_are_known_from_one_write_to_the_next_but_not_over_anothers() {
    let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
    let (one, two) = (input(1, "a"), input(2, "b"));
    known.committed(RUNTIME, 1, 0, None, std::slice::from_ref(&one));
    known.committed(RUNTIME, 2, 1, None, std::slice::from_ref(&two));
    assert_eq!(changed(&known, &[one.clone(), input(2, "c"), two.clone()]), Some((2, vec![])));
    assert_eq!(changed(&known, &[one.clone(), input(2, "c")]), Some((2, vec![1])));
    known.committed(RUNTIME, 4, 2, None, std::slice::from_ref(&two));
    assert_eq!(changed(&known, &[one, two]), Some((4, vec![0])));
}

#[test]
fn of_a_store_that_was_restored_nothing_is_known_any_more() {
    let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
    let (one, two) = (input(1, "a"), input(2, "b"));
    let session = known.described(&Bytes::from_static(b"{}"), None);
    known.committed(RUNTIME, 7, 0, session, std::slice::from_ref(&one));
    known.committed(RUNTIME, 4, 7, None, std::slice::from_ref(&two));
    assert!(known.session(RUNTIME).is_none());
    assert_eq!(changed(&known, &[one, two]), Some((4, vec![0])));
    known.went_back(RUNTIME, 4, 3);
    assert_eq!(known.revision(RUNTIME), 0);
}

fn session(known: &KnownRuntimes, bytes: usize) -> Option<KnownSession> {
    known.described(&Bytes::from(vec![b'x'; bytes]), None)
}

#[test]
fn what_was_used_longest_ago_is_forgotten_first() {
    let known = KnownRuntimes::new(100_000);
    for runtime_id in ["rt:1", "rt:2", "rt:3"] {
        known.committed(runtime_id, 1, 0, session(&known, 40_000), &[]);
        known.committed("rt:1", 2, 1, None, &[]);
    }
    let kept = ["rt:1", "rt:2", "rt:3"].map(|runtime_id| known.session(runtime_id).is_some());
    assert_eq!(kept, [true, false, true]);
    known.committed("rt:4", 1, 0, session(&known, 200_000), &[]);
    assert!(known.session("rt:4").is_none());
}

#[test]
fn runtimes_without_documents_are_bounded_too() {
    let known = KnownRuntimes::new(100_000);
    for number in 0..10_000 {
        known.loaded_inputs(&format!("rt:{number}"), 0, &[]);
        known.committed(&format!("rt:{number}"), 1, 0, None, &[]);
    }
    let state = known.lock();
    assert!((1..1000).contains(&state.runtimes.len()), "{} are remembered", state.runtimes.len());
    assert_eq!(state.by_use.len(), state.runtimes.len());
}

#[test]
fn what_is_counted_is_what_is_remembered_whatever_was_done() {
    let known = KnownRuntimes::new(20_000);
    for _ in 0..2000 {
        let runtime_id = format!("rt:{}", rand::random_range(0..8));
        let some = |_| input(rand::random_range(0..5), &"x".repeat(rand::random_range(0..500)));
        let inputs: Vec<InputState> = (0..rand::random_range(0..5)).map(some).collect();
        let session = rand::random_bool(0.5).then(|| session(&known, rand::random_range(0..6000))).flatten();
        let since = known.revision(&runtime_id);
        match rand::random_range(0..10) {
            0 => known.forget(&runtime_id),
            1 => known.loaded_inputs(&runtime_id, rand::random_range(0..20), &inputs),
            2 => known.committed(&runtime_id, since + 2, since, session, &inputs),
            _ => known.committed(&runtime_id, since + 1, since, session, &inputs),
        }
        let state = known.lock();
        let mut size_bytes = 0;
        for (runtime_id, runtime) in &state.runtimes {
            let inputs = runtime.inputs.values().map(|input| input.state_json.len() + INPUT_BYTES).sum::<usize>();
            let session = runtime.session.as_ref().map_or(0, |session| session.body.len());
            size_bytes += RUNTIME_BYTES + runtime_id.len() + session + inputs;
            assert_eq!(state.by_use[&runtime.used], *runtime_id);
        }
        assert_eq!((state.size_bytes, state.by_use.len()), (size_bytes, state.runtimes.len()));
        assert!(size_bytes <= 20_000);
    }
}

#[test]
fn a_session_that_goes_on_from_the_one_before_it_has_the_digest_of_all_of_it() {
    let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
    let mut before: Option<KnownSession> = None;
    let mut text = Vec::new();
    for _ in 0..500 {
        text.truncate(text.len() - rand::random_range(0..=text.len().min(30)));
        text.extend((0..rand::random_range(0..40)).map(|_| rand::random_range(b'a'..b'c')));
        if let Some(letter) = rand::random_bool(0.1).then(|| text.first_mut()).flatten() {
            *letter = b'z';
        }
        let session = known.described(&Bytes::from(text.clone()), before.as_ref()).unwrap();
        assert_eq!(session.sha256, sha256(&text));
        before = Some(session);
    }
}

#[test]
fn a_client_that_is_shown_shows_no_document() {
    let known = KnownRuntimes::new(DEFAULT_KNOWN_BYTES);
    known.committed(RUNTIME, 1, 0, known.described(&Bytes::from("a secret"), None), &[input(1, "a secret")]);
    let shown = format!("{known:?}");
    assert!(shown.contains("KnownRuntimes") && !shown.contains("secret"), "{shown}");
}
