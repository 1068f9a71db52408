use rowtide_postgres::watch::{ObservedPartition, ObservedRights};

use super::*;

fn observed() -> Observed {
    let column = |number: i16, name: &str, type_oid: u32, modifier: i32| ObservedColumn {
        number,
        name: name.to_owned(),
        type_oid,
        modifier,
        not_null: false,
        generated: String::new(),
        numbered: String::new(),
        collation: 0,
        storage: "x".to_owned(),
        default: None,
        version: 700,
        incidental: String::new(),
    };
    let table = ObservedTable {
        schema: "public".to_owned(),
        name: "note".to_owned(),
        oid: 10,
        version: 700,
        name_version: 700,
        schema_version: 600,
        schema_incidental: String::new(),
        file: 10,
        incidental: "1 2".to_owned(),
        kind: "r".to_owned(),
        persistence: "p".to_owned(),
        identity: "f".to_owned(),
        identity_columns: Vec::new(),
        key: vec![1],
        row_security: false,
        row_security_forced: false,
        other_publications: Vec::new(),
        row_security_concerns: true,
        row_security_active: false,
        readable: true,
        rights: ObservedRights { insert: true, update: true, delete: true },
        children: false,
        partitions: Vec::new(),
        membership: Some(ObservedMembership {
            oid: Some(20),
            version: Some(701),
            named: true,
            filtered: false,
            listed: false,
        }),
        columns: vec![column(1, "id", 23, -1), column(2, "body", VARCHAR, 24)],
    };
    let mood = ObservedType {
        oid: 30,
        name: "public.mood".to_owned(),
        kind: "e".to_owned(),
        base: 0,
        element: 0,
        labels: vec![(31, "sad".to_owned(), 700), (32, "glad".to_owned(), 700)],
        attributes: Vec::new(),
    };
    Observed {
        publication: Some(ObservedPublication {
            oid: 40,
            version: 702,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            via_root: false,
            generated: None,
        }),
        tables: vec![table],
        types: vec![mood],
    }
}

/// What is different after `change`, and what follows from it.
fn after(change: impl FnOnce(&mut Observed)) -> (Vec<CatalogChange>, Follows) {
    let before = observed();
    let mut after = before.clone();
    change(&mut after);
    let drifts = compare(&before, &after);
    let follows = drifts.iter().map(Drift::follows).max().unwrap_or(Follows::Nothing);
    (drifts.into_iter().map(|drift| drift.change).collect(), follows)
}

const PUBLICATION: Follows = Follows::Epoch(Missed::Publication);
const TABLE: Follows = Follows::Epoch(Missed::Table);

fn publication_of(observed: &mut Observed) -> &mut ObservedPublication {
    observed.publication.as_mut().unwrap()
}

fn membership_of(observed: &mut Observed) -> &mut ObservedMembership {
    observed.tables[0].membership.as_mut().unwrap()
}

#[test]
fn what_is_the_same_is_no_drift_and_fits() {
    assert_eq!(after(|_| ()), (Vec::new(), Follows::Nothing));
    let observed = observed();
    assert_eq!(unfit(&observed, &observed.tables[0]), None);
}

#[test]
fn a_publication_that_may_have_left_out_changes_ends_the_epoch() {
    assert_eq!(after(|o| publication_of(o).oid = 41), (vec![CatalogChange::Replaced], PUBLICATION));
    assert_eq!(
        after(|o| publication_of(o).version = 9),
        (vec![CatalogChange::Rewritten], PUBLICATION)
    );
    let inserts_only = after(|o| {
        publication_of(o).version = 9;
        publication_of(o).update = false;
    });
    assert_eq!(inserts_only, (vec![CatalogChange::Operations], PUBLICATION));
    let put_back = |o: &mut Observed| {
        membership_of(o).oid = Some(21);
        membership_of(o).version = Some(9);
    };
    assert_eq!(after(put_back), (vec![CatalogChange::PublishedAgain], PUBLICATION));
    let filtered = after(|o| membership_of(o).filtered = true);
    assert_eq!(filtered, (vec![CatalogChange::PublishedOtherwise], PUBLICATION));
    // What is not published is not served, and whatever ends that begins an epoch.
    assert_eq!(after(|o| o.publication = None), (vec![CatalogChange::Gone], Follows::Reject));
    let out = |o: &mut Observed| o.tables[0].membership = None;
    assert_eq!(after(out), (vec![CatalogChange::Unpublished], Follows::Reject));
    let (mut before, now) = (observed(), observed());
    out(&mut before);
    assert_eq!(compare(&before, &now)[0].follows(), PUBLICATION);
}

#[test]
fn a_table_that_was_another_for_a_while_ends_the_epoch() {
    assert_eq!(after(|o| o.tables[0].oid = 11), (vec![CatalogChange::Replaced], TABLE));
    // Renamed and renamed back.
    let renamed = |o: &mut Observed| {
        o.tables[0].version = 9;
        o.tables[0].name_version = 9;
    };
    assert_eq!(after(renamed), (vec![CatalogChange::Rewritten], TABLE));
    // The schema was renamed and renamed back; rights on it may be given.
    let of_schema = after(|o| o.tables[0].schema_version = 9);
    assert_eq!(of_schema, (vec![CatalogChange::SchemaRewritten], TABLE));
    let granted = |o: &mut Observed| {
        o.tables[0].schema_version = 9;
        o.tables[0].schema_incidental = "10 {}".to_owned();
    };
    assert_eq!(after(granted), (Vec::new(), Follows::Nothing));
    // Row-level security was on, and is off again.
    assert_eq!(after(|o| o.tables[0].version = 9), (vec![CatalogChange::Rewritten], TABLE));
    let bypassed = |o: &mut Observed| o.tables[0].row_security_concerns = false;
    let (mut before, mut now) = (observed(), observed());
    bypassed(&mut before);
    bypassed(&mut now);
    now.tables[0].version = 9;
    assert_eq!(compare(&before, &now)[0].follows(), Follows::Nothing, "it was not hidden from us");
    let column = after(|o| o.tables[0].columns[1].version = 9);
    assert_eq!(column, (vec![CatalogChange::ColumnRewritten("body".to_owned())], TABLE));
}

#[test]
fn what_explains_a_new_version_and_does_not_matter_is_harmless() {
    let truncated = after(|o| {
        o.tables[0].version = 9;
        o.tables[0].file = 11;
    });
    assert_eq!(truncated, (vec![CatalogChange::Incidental], Follows::Nothing));
    let statistics = after(|o| {
        o.tables[0].columns[0].version = 9;
        o.tables[0].columns[0].incidental = "100".to_owned();
    });
    assert_eq!(statistics, (Vec::new(), Follows::Nothing));
}

#[test]
fn a_table_that_does_not_fit_is_rejected() {
    for (change, kind) in [
        (CatalogChange::Unpublished, UnstreamedKind::Unpublished),
        (CatalogChange::RowSecurity { hides: true }, UnstreamedKind::RowSecurity),
    ] {
        let mut now = observed();
        match change {
            CatalogChange::Unpublished => now.tables[0].membership = None,
            _ => now.tables[0].row_security_active = true,
        }
        let drifts = compare(&observed(), &now);
        assert_eq!(drifts[0].change, change);
        assert_eq!(drifts[0].follows(), Follows::Reject);
        assert_eq!(unfit(&now, &now.tables[0]), Some(kind));
    }
    for change in [
        |o: &mut Observed| publication_of(o).truncate = false,
        |o: &mut Observed| membership_of(o).filtered = true,
        |o: &mut Observed| membership_of(o).listed = true,
        // Of a publication that does not publish partitions as their root.
        |o: &mut Observed| o.tables[0].kind = "p".to_owned(),
    ] {
        let mut now = observed();
        change(&mut now);
        assert_eq!(unfit(&now, &now.tables[0]), Some(UnstreamedKind::PublishedInPart));
    }
    let mut now = observed();
    now.tables[0].readable = false;
    assert_eq!(compare(&observed(), &now)[0].follows(), Follows::LoadsWait);
}

#[test]
fn another_shape_is_compiled_again() {
    let shape = |change: fn(&mut Observed)| after(change).1;
    assert_eq!(shape(|o| o.tables[0].key = vec![2]), Follows::Recompile);
    assert_eq!(shape(|o| o.tables[0].identity = "d".to_owned()), Follows::Recompile);
    assert_eq!(shape(|o| o.tables[0].columns[1].name = "text".to_owned()), Follows::Recompile);
    assert_eq!(shape(|o| o.tables[0].columns[1].type_oid = 25), Follows::Recompile);
    assert_eq!(shape(|o| o.tables[0].columns[1].not_null = true), Follows::Recompile);
    assert_eq!(shape(|o| drop(o.tables[0].columns.pop())), Follows::Recompile);
    let widened = after(|o| o.tables[0].columns[1].modifier = 34);
    assert_eq!(widened.0, [CatalogChange::ColumnWidened("body".to_owned())]);
    let narrowed = after(|o| o.tables[0].columns[1].modifier = 14);
    assert_eq!(narrowed.0, [CatalogChange::ColumnRetyped("body".to_owned())]);
    assert_eq!(shape(|o| o.tables.clear()), Follows::Reject);
}

#[test]
fn rows_that_are_others_and_look_the_same_are_loaded_again() {
    let rewritten = after(|o| {
        o.tables[0].version = 9;
        o.tables[0].file = 11;
        o.tables[0].columns[1].version = 9;
        o.tables[0].columns[1].modifier = 34;
    });
    assert_eq!(rewritten.1, Follows::Reload);
    assert!(rewritten.0.contains(&CatalogChange::RowsRewritten));
    // It may have been unlogged for a while, which Postgres rejects of what a publication names.
    let (mut before, mut now) = (observed(), observed());
    membership_of(&mut before).named = false;
    membership_of(&mut now).named = false;
    (now.tables[0].version, now.tables[0].file) = (9, 11);
    assert!(compare(&before, &now).iter().any(|drift| drift.follows() == Follows::Reload));
    assert_ne!(
        continuity_digest(&before, |_| true, |_| 0),
        continuity_digest(&now, |_| true, |_| 0)
    );
    let again = after(|o| o.tables[0].columns[1].number = 3);
    assert_eq!(again.1, Follows::Reload);
    assert!(again.0.contains(&CatalogChange::ColumnReplaced("body".to_owned())));
}

#[test]
fn labels_that_are_added_change_no_row_and_those_that_are_renamed_do() {
    let added = after(|o| o.types[0].labels.insert(1, (33, "so so".to_owned(), 701)));
    assert_eq!(added, (vec![CatalogChange::LabelAdded("so so".to_owned())], Follows::Recompile));
    let renamed = after(|o| o.types[0].labels[0].1 = "blue".to_owned());
    assert_eq!(renamed, (vec![CatalogChange::Labels], Follows::Reload));
    let renamed_back = after(|o| o.types[0].labels[0].2 = 701);
    assert_eq!(renamed_back, (vec![CatalogChange::Labels], Follows::Reload));
    let attributes = after(|o| o.types[0].attributes.push(("x".to_owned(), 23, 1)));
    assert_eq!(attributes.1, Follows::Reload);
    let mut before = observed();
    before.types[0].attributes.push(("x".to_owned(), 23, 1));
    let mut now = before.clone();
    now.types[0].attributes[0].2 = 2;
    assert_eq!(compare(&before, &now)[0].follows(), Follows::Reload, "it was added anew");
}

#[test]
fn a_log_goes_on_over_what_is_not_streamed_and_not_over_another_column() {
    let before = observed();
    let told = |observed: &Observed| continuity_digest(observed, |_| true, |_| 0);
    let mut generated = before.clone();
    let mut column = generated.tables[0].columns[0].clone();
    (column.number, column.generated) = (9, "s".to_owned());
    generated.tables[0].columns.push(column);
    assert_eq!(told(&generated), told(&before));
    let mut again = before.clone();
    again.tables[0].columns[0].number = 9;
    assert_ne!(told(&again), told(&before));
    let untold = |observed: &Observed| continuity_digest(observed, |_| false, |_| 0);
    assert_eq!(untold(&again), untold(&before));
}

#[test]
fn what_comes_and_goes_with_a_partition_is_loaded_again_also_by_a_log() {
    let part = |oid: u32| ObservedPartition {
        oid,
        file: oid,
        kind: "rp".to_owned(),
        identity: "f".to_owned(),
        attached: "700".to_owned(),
        version: 700,
        incidental: String::new(),
    };
    let mut before = observed();
    before.tables[0].kind = "p".to_owned();
    before.tables[0].partitions = vec![part(50), part(51)];
    let changed = |change: &dyn Fn(&mut Vec<ObservedPartition>)| {
        let mut now = before.clone();
        change(&mut now.tables[0].partitions);
        let told = |observed: &Observed| continuity_digest(observed, |_| true, |_| 0);
        let drifts = compare(&before, &now);
        let changes: Vec<CatalogChange> = drifts.iter().map(|drift| drift.change.clone()).collect();
        let follows = drifts.iter().map(Drift::follows).max().unwrap_or(Follows::Nothing);
        (changes, follows, told(&now) == told(&before))
    };
    let others = (vec![CatalogChange::Partitions], Follows::Reload, false);
    assert_eq!(changed(&|parts| parts.push(part(52))), others);
    assert_eq!(changed(&|parts| drop(parts.pop())), others);
    // Emptied, or rewritten.
    assert_eq!(changed(&|parts| parts[1].file = 60), others);
    // Written while it was none.
    assert_eq!(changed(&|parts| parts[1].attached = "701".to_owned()), others);
    // Its identity was smaller for a while, and what was deleted then was not streamed whole.
    let undone = (vec![CatalogChange::Partitions], Follows::Reload, true);
    assert_eq!(changed(&|parts| parts[1].version = 701), undone);
    let smaller = (vec![CatalogChange::PartitionIdentity], Follows::Recompile, true);
    let identity = |parts: &mut Vec<ObservedPartition>| {
        (parts[0].identity, parts[0].version) = ("d".to_owned(), 701);
    };
    assert_eq!(changed(&identity), smaller);
    let analyzed = (Vec::new(), Follows::Nothing, true);
    let incidental = |parts: &mut Vec<ObservedPartition>| {
        (parts[0].incidental, parts[0].version) = ("more".to_owned(), 701);
    };
    assert_eq!(changed(&incidental), analyzed);
}

#[test]
fn a_table_that_others_begin_to_inherit_from_is_compiled_again() {
    let inherited = after(|o| o.tables[0].children = true);
    assert_eq!(inherited, (vec![CatalogChange::Children { inherit: true }], Follows::Recompile));
}

#[test]
fn a_table_whose_generated_columns_are_not_published_is_published_in_part() {
    let fits = |published: Option<&str>, generated: &str| {
        let mut now = observed();
        publication_of(&mut now).generated = published.map(str::to_owned);
        now.tables[0].columns[1].generated = generated.to_owned();
        unfit(&now, &now.tables[0])
    };
    assert_eq!(fits(Some("n"), "s"), Some(UnstreamedKind::PublishedInPart));
    assert_eq!(fits(Some("s"), "s"), None);
    // Of older versions none is expected, and one that is computed when it is read is never published.
    assert_eq!(fits(None, "s"), None);
    assert_eq!(fits(Some("n"), "v"), None);
    assert_eq!(fits(Some("n"), ""), None);
}
