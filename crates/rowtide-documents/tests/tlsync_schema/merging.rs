//! Edits that are merged into a document that others have changed since.

use super::*;

#[test]
fn edits_of_another_release_are_not_merged_into_a_document() {
    let release = release(3);
    let drawn = |shape| {
        let mut world = World::new(&release, &[(3, 8)]);
        world.come(0);
        for step in [Step::Paint(0, shape, "red"), Step::Type(0, shape, "a")] {
            world.step(&step);
            world.step(&Step::Push(0));
        }
        (world.room.snapshot(), world.log)
    };
    let ((here, _), (_, edits)) = (drawn(1), drawn(2));
    assert!(edits.len() > 1);
    // As another release has left it there.
    let mut older: Value = serde_json::from_slice(&here).unwrap();
    older["schema"] = schema(2);
    let older = serde_json::to_vec(&older).unwrap();
    let mut room = TlsyncRoom::open(&older, TlsyncLimits::default()).unwrap();
    assert_eq!(room.merge(&edits, |_| false).unwrap().unmerged, edits);
    assert_eq!(records(&room.snapshot()), records(&here));
    // As the same release has.
    let mut room = TlsyncRoom::open(&here, TlsyncLimits::default()).unwrap();
    assert_eq!(room.merge(&edits, |_| false).unwrap().unmerged, Vec::<Bytes>::new());
    let merged = records(&room.snapshot());
    assert!(merged.contains_key("shape:1") && merged.contains_key("shape:2"));
    // Whoever leaves a record out has it as it was there, and the edits that it was left out of.
    let mut room = TlsyncRoom::open(&here, TlsyncLimits::default()).unwrap();
    let merged = room.merge(&edits, |id| id == "shape:2").unwrap();
    assert_eq!((merged.unmerged.len(), merged.changed.len()), (edits.len(), 0));
    assert_eq!(records(&room.snapshot()), records(&here));
}
