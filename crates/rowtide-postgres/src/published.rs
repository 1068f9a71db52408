//! How the publication and the replica identities have to be, so that the stream has every change of the definition's
//! tables with the old rows, and so that Postgres goes on taking what the application writes: as some of it is published
//! it rejects updates of a table whose replica identity does not go with that.

use rowtide_plan::catalog::{CatalogTable, ReplicaIdentity, TableName};
use rowtide_plan::sql::quote_table;
use tokio_postgres::Client;

use crate::catalog::{GENERATED_PUBLISHED, read_catalog, server_version};

/// How the changes of tables are published, beside which operations are: an option of a publication.
#[derive(Clone, Debug)]
pub(crate) struct PublicationOption {
    /// As it is set.
    pub(crate) set: &'static str,
    /// What is amiss without it.
    pub(crate) without: &'static str,
}

impl PublicationOption {
    /// Whether it is about partitions.
    pub(crate) fn is_via_root(&self) -> bool {
        self.set == VIA_ROOT.set
    }
}

/// Rows of a partition are published as rows of the table that it is a partition of.
const VIA_ROOT: PublicationOption = PublicationOption {
    set: "publish_via_partition_root = true",
    without: "streams rows of partitions as those of tables by themselves",
};
/// Generated columns are published.
const GENERATED: PublicationOption = PublicationOption {
    set: "publish_generated_columns = stored",
    without: "leaves generated columns out, with which Postgres takes no updates of their tables",
};

/// The options of a publication that is made anew.
pub(crate) async fn publication_options(
    client: &Client,
) -> Result<Vec<PublicationOption>, tokio_postgres::Error> {
    let knows_generated = server_version(client).await? >= GENERATED_PUBLISHED;
    Ok(if knows_generated { vec![VIA_ROOT, GENERATED] } else { vec![VIA_ROOT] })
}

/// The options that a publication that is there should have and has not. To have partitions published as their root
/// is asked of it only for a table with partitions.
pub(crate) async fn missing_options(
    client: &Client,
    publication: &str,
    partitioned: bool,
) -> Result<Vec<PublicationOption>, tokio_postgres::Error> {
    // Through `to_jsonb`, columns that only newer versions have are null in older ones.
    let sql = "SELECT pubviaroot, to_jsonb(p) ->> 'pubgencols' = 'n' FROM pg_publication p \
               WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&publication]).await? else { return Ok(Vec::new()) };
    let via_root = (partitioned && !row.get::<_, bool>(0)).then_some(VIA_ROOT);
    let generated = row.get::<_, Option<bool>>(1).unwrap_or(false).then_some(GENERATED);
    Ok(via_root.into_iter().chain(generated).collect())
}

/// What a publication is to have of the definition's tables.
pub(crate) struct Wanted {
    /// The tables and partitions that need the replica identity `FULL` and have another, quoted.
    pub(crate) identities: Vec<String>,
    /// Whether a table has partitions.
    pub(crate) partitioned: bool,
}

/// Looks at the definition's tables. Where `FULL` would make Postgres reject the application's updates, or a table
/// cannot be synced at all, the identity stays as it is.
pub(crate) async fn wanted(
    client: &Client,
    tables: &[TableName],
) -> Result<Wanted, tokio_postgres::Error> {
    let catalog = read_catalog(client, tables).await?;
    let needs = |table: &&CatalogTable| table.streaming.full_rejected.is_none();
    let own = |table: &CatalogTable| {
        (quote_table(&table.schema, &table.name), table.replica_identity.clone())
    };
    let all = catalog.tables.iter().filter(needs).flat_map(|table| {
        let parts = table.streaming.partitions.iter();
        let parts = parts.map(|part| (part.name.clone(), part.replica_identity.clone()));
        std::iter::once(own(table)).chain(parts)
    });
    let smaller = all.filter(|(_, identity)| *identity != ReplicaIdentity::Full);
    Ok(Wanted {
        identities: smaller.map(|(name, _)| name).collect(),
        partitioned: catalog.tables.iter().any(|table| table.streaming.partitioned),
    })
}
