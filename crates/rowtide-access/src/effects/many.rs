//! What is done with many documents at once costs each of them as much as with few: counted in documents that were looked at,
//! whatever the machine.

use std::sync::atomic::Ordering;

use super::*;

/// Sees to so many documents of rows that are gone, half of them told and half of them missing, and says how many were looked
/// at for it.
fn looked_at_for(count: usize) -> usize {
    let mut effects = DocumentEffects::default();
    let now = Duration::ZERO;
    for number in 0..count {
        let document = DocumentId::new("file", &format!("d{number}")).expect("a name");
        let mark = if number % 2 == 0 { Mark::Deleted } else { Mark::Changed(None) };
        effects.mark(document, mark, now);
    }
    let snapshot = TransactionSnapshot::new(1, Vec::new());
    let (mut under_way, mut deleted) = (Vec::new(), 0);
    // As the shell does it: whatever ends, it is looked for what comes next.
    while effects.counts() != (0, 0) {
        let kept = effects.take_kept();
        assert!(kept.failed.is_empty());
        for step in effects.pass(now) {
            match step {
                EffectStep::Do(document, _) => under_way.push(document),
                EffectStep::Ask(asked) => {
                    let answers = asked.into_iter().map(|document| (document, Some(None)));
                    effects.answered(&snapshot, answers.collect(), |_| true, now);
                }
            }
        }
        assert_eq!(effects.deadline(now), None);
        if let Some(document) = under_way.pop() {
            effects.ended(&document, Ok(()), now);
            deleted += 1;
        }
    }
    assert_eq!(deleted, count);
    effects.documents.looked_at.load(Ordering::Relaxed)
}

#[test]
fn what_is_looked_at_for_a_deletion_does_not_depend_on_how_many_there_are() {
    // Those under way are looked at for each, twice.
    let most = 2 * EFFECTS_AT_ONCE + 8;
    for count in [100, 1_000, 10_000] {
        let looked_at = looked_at_for(count);
        assert!(looked_at <= most * count, "{looked_at} for {count}");
    }
}
