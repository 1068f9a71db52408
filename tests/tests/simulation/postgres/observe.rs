//! What a server can ask a Postgres for, beside rows: which transactions are running, what there is in the
//! catalog, and which transactions may be committed and unseen.

use rowtide_plan::catalog::{Catalog as Read, Unstreamed};
use rowtide_postgres::unseen::Unseen;
use rowtide_postgres::watch::{
    Observed, ObservedColumn, ObservedMembership, ObservedPublication, ObservedRights,
    ObservedTable,
};
use rowtide_replicator::drift::unfit;

use super::Postgres;
use super::catalog::{CLIENT, Catalog, Column, Identity, Oid, Relation, SETUP_XID};
use crate::data::TABLES;

impl Postgres {
    /// `pg_current_snapshot()`.
    pub fn running(&self) -> (u64, Vec<u64>) {
        let hidden = self.log.iter().filter(|commit| !commit.visible).map(|commit| commit.xid);
        (self.next_xid, self.open.iter().copied().chain(hidden).collect())
    }

    /// What the server relies on, as it can be seen.
    pub fn observe(&self) -> Observed {
        let catalog = &self.visible.catalog;
        let publication = catalog.publication.as_ref().map(|publication| ObservedPublication {
            oid: publication.oid,
            version: publication.version as u32,
            insert: publication.operations.insert,
            update: publication.operations.update,
            delete: publication.operations.delete,
            truncate: publication.operations.truncate,
            via_root: false,
            generated: None,
        });
        let there = TABLES.iter().filter_map(|name| catalog.named(name));
        let mut tables: Vec<_> = there.map(|relation| observed(catalog, relation)).collect();
        let client = Relation { columns: Vec::new(), ..Relation::new(CLIENT, "client", SETUP_XID) };
        tables.push(ObservedTable {
            schema: "rowtide".to_owned(),
            identity: "d".to_owned(),
            ..observed(catalog, &client)
        });
        tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Observed { publication, tables, types: Vec::new() }
    }

    /// The tables of the definition, without those of which the stream or loads would not bring all.
    pub fn read_catalog(&self, observed: &Observed) -> Read {
        let mut read = self.visible.catalog.read();
        let unfit = |name: &str| {
            let table = observed.table("public", name)?;
            let kind = unfit(observed, table)?;
            Some(Unstreamed { schema: "public".to_owned(), name: name.to_owned(), kind })
        };
        let not_served: Vec<Unstreamed> =
            read.tables.iter().filter_map(|table| unfit(&table.name)).collect();
        read.tables.retain(|table| !not_served.iter().any(|other| other.name == table.name));
        read.unstreamed.extend(not_served);
        read
    }

    /// Which of some transactions, or of all, may be committed and unseen.
    pub fn unseen(&self, of: Option<&[u32]>) -> Vec<Unseen> {
        let hidden = self.log.iter().filter(|commit| !commit.visible).map(|commit| commit.xid);
        let of_hidden =
            hidden.map(|xid| Unseen { xid: xid as u32, waits: true, who: format!("{xid}") });
        // Every third is at work at any moment; the others wait for their clients.
        let at_work = self.open.iter().filter(|xid| *xid % 3 == 0);
        let at_work =
            at_work.map(|xid| Unseen { xid: *xid as u32, waits: false, who: format!("{xid}") });
        let asked = |unseen: &Unseen| of.is_none_or(|of| of.contains(&unseen.xid));
        of_hidden.chain(at_work).filter(asked).collect()
    }
}

fn observed(catalog: &Catalog, relation: &Relation) -> ObservedTable {
    let member = catalog.member(relation.oid);
    let Relation { version, name_version, filenode, granted, next_number, .. } = relation;
    let column = |column: &Column| ObservedColumn {
        number: column.number,
        name: column.name.clone(),
        type_oid: column.kind.oid(),
        modifier: -1,
        not_null: column.number == 1,
        generated: String::new(),
        numbered: String::new(),
        collation: 0,
        storage: "p".to_owned(),
        default: None,
        version: column.version as u32,
        incidental: String::new(),
    };
    ObservedTable {
        schema: "public".to_owned(),
        name: relation.name.clone(),
        oid: relation.oid as Oid,
        version: *version as u32,
        name_version: *name_version as u32,
        schema_version: 1,
        schema_incidental: String::new(),
        file: *filenode as u32,
        incidental: format!("{granted} {next_number}"),
        kind: "r".to_owned(),
        persistence: if relation.logged { "p" } else { "u" }.to_owned(),
        identity: match relation.identity {
            Identity::Full => "f",
            Identity::Key => "d",
            Identity::Nothing => "n",
        }
        .to_owned(),
        identity_columns: Vec::new(),
        key: vec![1],
        row_security: relation.row_security,
        row_security_forced: false,
        other_publications: Vec::new(),
        row_security_concerns: true,
        row_security_active: relation.row_security,
        readable: *granted,
        rights: ObservedRights { insert: true, update: true, delete: true },
        children: false,
        partitions: Vec::new(),
        membership: member.map(|member| ObservedMembership {
            oid: Some(member.oid),
            version: Some(member.version as u32),
            named: true,
            filtered: member.filtered,
            listed: false,
        }),
        columns: relation.columns.iter().map(column).collect(),
    }
}
