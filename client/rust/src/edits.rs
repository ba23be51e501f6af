//! Finds what changed between two documents, as edits in coordinates of the older one.
//!
//! Documents are bytes; nothing here knows JSON. What is found is exact, and small where little changed; it is not the
//! smallest there is, which would take far longer to find.

use bytes::Bytes;
use memchr::memmem;

/// What is looked for to find the place where the documents agree again. Shorter, and phrases that every message has
/// are taken for the place; longer, and what stays between two changes close together is sent again.
const ANCHOR_BYTES: usize = 48;
/// Beyond, the rest is one edit: each costs a message of its own.
const MOST_EDITS: usize = 256;
/// How many times the size of the newer document may be searched for anchors in all. Then the rest is one edit.
const SCANNED_AT_MOST: usize = 32;
/// Where this little is replaced by this little it is sent as it is.
const LEAST_WORTH_BYTES: usize = 64;
/// What an edit costs on the wire beside its replacement, about.
const EDIT_BYTES: usize = 16;

/// The bytes of the base from `start` to before `end` give way to `replacement`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) replacement: Bytes,
}

/// Finds the edits that make `changed` of `base`, whose first `agreed` bytes are the same; `None` where sending them saves
/// little.
pub(crate) fn find_edits(base: &[u8], changed: &Bytes, agreed: usize) -> Option<Vec<Edit>> {
    let edits = edits_between(base, changed, agreed);
    let cost: usize = edits.iter().map(|edit| edit.replacement.len() + EDIT_BYTES).sum();
    (edits.is_empty() || cost < changed.len() / 2).then_some(edits)
}

/// Finds the edits that make `changed` of `base`, ascending and not overlapping.
fn edits_between(base: &[u8], changed: &Bytes, agreed: usize) -> Vec<Edit> {
    let start = agreed + common_prefix(&base[agreed..], &changed[agreed..]);
    let tail = common_suffix(&base[start..], &changed[start..]);
    between(&base[..base.len() - tail], &changed.slice(..changed.len() - tail), start)
}

/// Finds the edits behind a common head, by anchors: pieces of the base that are found again.
fn between(base: &[u8], changed: &Bytes, start: usize) -> Vec<Edit> {
    let mut edits = Vec::new();
    let (mut at, mut changed_at) = (start, start);
    let mut left_to_scan = SCANNED_AT_MOST * (changed.len() - start);
    let (mut probe, mut step) = (at, ANCHOR_BYTES);
    while probe + ANCHOR_BYTES <= base.len()
        && changed.len() - changed_at > LEAST_WORTH_BYTES
        && left_to_scan > 0
        && edits.len() < MOST_EDITS
    {
        let anchor = &base[probe..probe + ANCHOR_BYTES];
        let Some(distance) = memmem::find(&changed[changed_at..], anchor) else {
            left_to_scan = left_to_scan.saturating_sub(changed.len() - changed_at);
            probe += step;
            step *= 2; // what was cut out may be long, and each look costs the whole rest
            continue;
        };
        left_to_scan = left_to_scan.saturating_sub(distance);
        let found = changed_at + distance;
        let back = common_suffix(&base[at..probe], &changed[changed_at..found]);
        if probe - back > at || found - back > changed_at {
            edits.push(Edit { start: at, end: probe - back, replacement: changed.slice(changed_at..found - back) });
        }
        let same = common_prefix(&base[probe..], &changed[found..]);
        (at, changed_at) = (probe + same, found + same);
        (probe, step) = (at, ANCHOR_BYTES);
    }
    if at < base.len() || changed_at < changed.len() {
        edits.push(Edit { start: at, end: base.len(), replacement: changed.slice(changed_at..) });
    }
    edits
}

/// How much is compared at once: the machine compares pieces far faster than single bytes.
const COMPARED_BYTES: usize = 4096;

/// Counts the bytes that agree from the beginning.
pub(crate) fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let most = one.len().min(other.len());
    let mut agreed = 0;
    while agreed < most {
        let end = (agreed + COMPARED_BYTES).min(most);
        if one[agreed..end] != other[agreed..end] {
            return agreed
                + one[agreed..end].iter().zip(&other[agreed..end]).take_while(|(here, there)| here == there).count();
        }
        agreed = end;
    }
    most
}

/// Counts the bytes that agree before the end.
fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    let most = one.len().min(other.len());
    let (one, other) = (&one[one.len() - most..], &other[other.len() - most..]);
    let mut start = most;
    while start > 0 {
        let from = start.saturating_sub(COMPARED_BYTES);
        if one[from..start] != other[from..start] {
            let same = one[from..start].iter().rev().zip(other[from..start].iter().rev());
            return most - start + same.take_while(|(here, there)| here == there).count();
        }
        start = from;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(base: &[u8], edits: &[Edit]) -> Vec<u8> {
        let (mut made, mut at) = (Vec::new(), 0);
        for edit in edits {
            assert!(at <= edit.start && edit.start <= edit.end && edit.end <= base.len(), "{edit:?} after {at}");
            made.extend_from_slice(&base[at..edit.start]);
            made.extend_from_slice(&edit.replacement);
            at = edit.end;
        }
        made.extend_from_slice(&base[at..]);
        made
    }

    fn random_bytes(letters: u8, length: usize) -> Vec<u8> {
        (0..length).map(|_| b'a' + rand::random_range(0..letters)).collect()
    }

    #[test]
    fn edits_make_the_newer_document_of_the_older_one_whatever_changed() {
        for letters in [1, 2, 26] {
            for _ in 0..200 {
                let base = random_bytes(letters, rand::random_range(0..2000));
                let mut changed = base.clone();
                for _ in 0..rand::random_range(0..6) {
                    let start = rand::random_range(0..=changed.len());
                    let end = rand::random_range(start..=changed.len());
                    let inserted = random_bytes(letters, rand::random_range(0..300));
                    changed.splice(start..end, inserted);
                }
                let changed = Bytes::from(changed);
                let agreed = rand::random_range(0..=common_prefix(&base, &changed));
                assert_eq!(apply(&base, &edits_between(&base, &changed, agreed)), changed);
            }
        }
    }

    #[test]
    fn two_changes_far_apart_cost_what_they_are() {
        let base = random_bytes(26, 100_000);
        let mut changed = base.clone();
        changed.splice(1000..1010, *b"first");
        changed.splice(90_000..90_000, *b"second");
        let changed = Bytes::from(changed);
        let edits = find_edits(&base, &changed, 0).expect("little changed");
        assert_eq!(apply(&base, &edits), changed);
        assert!(edits.iter().map(|edit| edit.replacement.len()).sum::<usize>() < 200, "{edits:?}");
    }

    #[test]
    fn what_is_all_new_is_not_sent_as_edits() {
        let changed = Bytes::from(random_bytes(26, 5000));
        assert_eq!(find_edits(&random_bytes(26, 5000), &changed, 0), None);
        assert_eq!(find_edits(&changed.clone(), &changed, 5000), Some(Vec::new()));
    }
}
