//! Streams that are not what was stored, or end too soon.

use super::*;
use crate::known::sha256;

fn info(of: &[u8]) -> v1::SessionSnapshotInfo {
    v1::SessionSnapshotInfo {
        session_id: "14b07000-0000-4000-8000-000000000003".to_owned(),
        size_bytes: of.len() as u64,
        sha256: Bytes::copy_from_slice(&sha256(of)),
        revision: 7,
        ..v1::SessionSnapshotInfo::default()
    }
}

fn known(body: &'static [u8]) -> KnownSession {
    KnownSession::of(Bytes::from_static(body), sha256(body))
}

fn alone(
    known: Option<KnownSession>,
    info: v1::SessionSnapshotInfo,
    chunks: &[&'static [u8]],
) -> Result<Option<Bytes>, Error> {
    use v1::load_session_snapshot_response::Part;
    let mut read = SessionChunks::new(known, None);
    let chunks = chunks.iter().map(|chunk| Part::Chunk(Bytes::from_static(chunk)));
    for part in std::iter::once(Part::Info(info)).chain(chunks) {
        read.add(v1::LoadSessionSnapshotResponse { part: Some(part) })?;
    }
    Ok(read.finish(&MetadataMap::new())?.value.map(|session| session.body))
}

fn with_the_runtime(
    known: Option<KnownSession>,
    info: v1::SessionSnapshotInfo,
    chunks: &[&'static [u8]],
) -> Result<Option<Bytes>, Error> {
    use v1::load_runtime_response::Part;
    let mut read = RuntimeParts::new(known);
    let chunks = chunks.iter().map(|chunk| Part::SessionChunk(Bytes::from_static(chunk)));
    let before = [Part::Runtime(v1::RuntimeDescription::default()), Part::Session(info)];
    for part in before.into_iter().chain(chunks) {
        read.add(v1::LoadRuntimeResponse { part: Some(part) })?;
    }
    Ok(read.finish(&MetadataMap::new())?.0.session_snapshot)
}

#[test]
fn a_session_is_what_was_written_or_damaged() {
    for read in [alone, with_the_runtime] {
        let whole = info(b"session");
        assert_eq!(read(None, whole.clone(), &[b"ses", b"", b"sion"]).unwrap().unwrap(), "session");
        assert_eq!(read(Some(known(b"older")), whole.clone(), &[b"session"]).unwrap().unwrap(), "session");
        for chunks in [&[&b"ses"[..]][..], &[], &[b"session", b"s"], &[b"SESSION"]] {
            let damaged = read(None, whole.clone(), chunks).unwrap_err();
            assert_eq!((damaged.reason(), damaged.code()), (Some(ErrorReason::StoredValueCorrupt), Code::DataLoss));
            assert_eq!(damaged.text("session_id"), Some(&whole.session_id[..]));
        }
    }
}

#[test]
fn a_session_that_is_remembered_keeps_nothing_else_in_memory() {
    use v1::load_session_snapshot_response::Part;
    let received = Bytes::from(vec![b'x'; 8192]);
    let mut read = SessionChunks::new(None, None);
    for part in [Part::Info(info(b"xxx")), Part::Chunk(received.slice(100..103))] {
        read.add(v1::LoadSessionSnapshotResponse { part: Some(part) }).unwrap();
    }
    let session = read.finish(&MetadataMap::new()).unwrap().value.unwrap();
    assert!(session.body == "xxx" && received.is_unique());
}

#[test]
fn a_session_is_unchanged_only_where_it_is_the_known_one() {
    for read in [alone, with_the_runtime] {
        let unchanged = v1::SessionSnapshotInfo { unchanged: true, ..info(b"session") };
        assert_eq!(read(Some(known(b"session")), unchanged.clone(), &[]).unwrap().unwrap(), "session");
        for (known, chunks) in
            [(None, &[][..]), (Some(known(b"other")), &[]), (Some(known(b"session")), &[&b"session"[..]])]
        {
            let refused = read(known, unchanged.clone(), chunks).unwrap_err();
            assert_eq!((refused.reason(), refused.code()), (None, Code::Internal));
        }
    }
}

#[test]
fn what_ends_without_its_first_message_is_not_taken_for_nothing() {
    assert_eq!(InputBatches::default().finish(&MetadataMap::new()).unwrap_err().code(), Code::Internal);
    assert_eq!(RuntimeParts::new(None).finish(&MetadataMap::new()).unwrap_err().code(), Code::Internal);
    // Of a session the absence is no message; the revision comes with the end.
    let mut told = MetadataMap::new();
    told.insert(REVISION_KEY, "9".parse().unwrap());
    let none = SessionChunks::new(None, None).finish(&told).unwrap();
    assert_eq!((none.value.is_none(), none.revision), (true, 9));
}

#[test]
fn a_part_out_of_place_is_refused() {
    use v1::load_session_snapshot_response::Part;
    let chunk = Part::Chunk(Bytes::from_static(b"chunk"));
    for parts in [vec![chunk.clone()], vec![Part::Info(info(b"")), Part::Info(info(b""))]] {
        let mut read = SessionChunks::new(None, None);
        let added =
            parts.into_iter().try_for_each(|part| read.add(v1::LoadSessionSnapshotResponse { part: Some(part) }));
        assert_eq!(added.unwrap_err().code(), Code::Internal);
    }
}

#[test]
fn an_older_server_that_answers_the_current_session_for_an_earlier_one_is_told() {
    use v1::load_session_snapshot_response::Part;
    let mut read = SessionChunks::new(None, Some(3));
    let answered = v1::LoadSessionSnapshotResponse { part: Some(Part::Info(info(b"session"))) };
    assert_eq!(read.add(answered).unwrap_err().code(), Code::Unimplemented);
}
