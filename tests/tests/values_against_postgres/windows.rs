//! The order of windows: the first rows that Postgres loads are the first ones by their ranks, for every type that rows can be
//! put in order by, in both directions, and wherever nulls are.

use std::sync::Arc;

use rowtide_plan::filter::Predicate;
use rowtide_plan::plan::{BranchId, Plan, QueryId, TableId, WindowId};
use rowtide_plan::sql::load_sql;
use rowtide_plan::window::{OrderColumn, Window, WindowLimit, has_order};

use crate::{ROWS, World};

/// A plan of which all rows with one value of `anchor` are one topic, in this order and then in that of the id.
fn plan(world: &World, anchor: Option<usize>, by: usize, down: bool, nulls_first: bool) -> Plan {
    let mut plan = world.plan(vec![(anchor, Predicate::Literal(Some(true)))]);
    let column = |column, descending, nulls_first| OrderColumn {
        column,
        kept: column,
        descending,
        nulls_first,
    };
    plan.windows.push(Arc::new(Window {
        query: QueryId(0),
        table: TableId(0),
        order: vec![column(by, down, nulls_first), column(0, down, down)],
        limit: WindowLimit::Rows(1),
    }));
    plan.branches[0].window = Some(WindowId(0));
    plan
}

#[tokio::test]
async fn the_first_rows_of_a_window_are_those_of_postgres() {
    let world = World::new().await;
    let mut types = 0;
    for (by, column) in world.table.columns.iter().enumerate() {
        if !has_order(&column.kind) {
            continue;
        }
        types += 1;
        for (down, nulls_first) in [(false, false), (false, true), (true, true), (true, false)] {
            let plan = plan(&world, None, by, down, nulls_first);
            let mut rows: Vec<_> = world.encode(&plan).into_iter().zip(&world.texts).collect();
            rows.sort_by_key(|(row, _)| plan.windows[0].rank(&row.image.kept));
            for most in [1, ROWS / 3, ROWS + 1] {
                let limits = vec![most as i64];
                let sql = load_sql(&plan, BranchId(0));
                let loaded = world.client.query(&sql, &[&limits]).await.unwrap();
                let loaded: Vec<&str> = loaded.iter().map(|row| row.get(1)).collect();
                let first = rows.iter().take(most);
                let first: Vec<&str> = first.filter_map(|(_, texts)| texts[0].as_deref()).collect();
                assert_eq!(loaded, first, "{} down: {down}, nulls: {nulls_first}", column.name);
            }
        }
    }
    assert!(types >= 15, "{types} types have an order");
}

#[tokio::test]
async fn each_topic_is_given_as_many_rows_as_are_wanted_of_it() {
    let world = World::new().await;
    for name in ["a_bool", "an_int2", "a_text", "a_mood", "a_char", "a_float4"] {
        let anchor = world.table.column(name).unwrap();
        let by = world.table.column("an_int4").unwrap();
        let plan = plan(&world, Some(anchor), by, true, true);
        let kind = &world.table.columns[anchor].kind;
        let mut rows: Vec<_> = world.encode(&plan).into_iter().zip(&world.texts).collect();
        rows.sort_by_key(|(row, _)| plan.windows[0].rank(&row.image.kept));
        let topics = rows.iter().flat_map(|(row, _)| row.image.topics.iter().cloned());
        let topics: std::collections::BTreeSet<_> = topics.collect();
        let topics: Vec<_> = topics.into_iter().take(5).collect();
        let text = |topic: &rowtide_plan::row::Topic| topic.anchor.as_ref()?.to_text(kind);
        let anchors: Vec<String> = topics.iter().filter_map(text).collect();
        let limits: Vec<i64> = (1..=anchors.len() as i64).collect();
        let loaded = world.client.query(&load_sql(&plan, BranchId(0)), &[&limits, &anchors]).await;
        let loaded = loaded.unwrap();
        for (place, topic) in topics.iter().enumerate() {
            let of_topic =
                |row: &&tokio_postgres::Row| row.get::<_, &str>(0) == (place + 1).to_string();
            let found: Vec<&str> = loaded.iter().filter(of_topic).map(|row| row.get(1)).collect();
            let wanted = rows.iter().filter(|(row, _)| row.image.topics.contains(topic));
            let wanted = wanted.take(place + 1).filter_map(|(_, texts)| texts[0].as_deref());
            assert_eq!(found, wanted.collect::<Vec<&str>>(), "{name} {topic:?}");
        }
    }
}
