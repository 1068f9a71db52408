//! The ids of a plan's parts: what rows, filters and topics say instead of a table, a branch or a claim. Each
//! is an index into one list of the plan, and means nothing without that plan.

/// Index into [`Plan::tables`](crate::plan::Plan::tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u16);

/// Index into [`Plan::branches`](crate::plan::Plan::branches).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(pub u16);

/// Index into [`Plan::claims`](crate::plan::Plan::claims).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId(pub u16);

/// Index into [`Plan::queries`](crate::plan::Plan::queries).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u16);

/// Index into [`Plan::windows`](crate::plan::Plan::windows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowId(pub u16);

/// One of the [`Plan::sets`](crate::plan::Plan::sets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub u16);
