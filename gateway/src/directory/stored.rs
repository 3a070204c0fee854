//! What both stores keep as text, parsed: a store may have been written to by others.

use super::{
    entry::{Key, Member, Name, Status},
    error::StoreError,
};
use jetway_config::Identity;

pub(super) fn key(tenant: &str, owner: &str, id: &str) -> Result<Key, StoreError> {
    let tenant = tenant.parse().map_err(|_| StoreError::Corrupt("tenant"))?;
    let user = owner.parse().map_err(|_| StoreError::Corrupt("owner"))?;
    let id = id.parse().map_err(|_| StoreError::Corrupt("id"))?;
    Ok(Key { owner: Identity { tenant, user }, id })
}

pub(super) fn name(text: Option<&str>) -> Result<Option<Name>, StoreError> {
    text.map(str::parse).transpose().map_err(|_| StoreError::Corrupt("name"))
}

pub(super) fn status(text: &str) -> Result<Status, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt("status"))
}

/// Lines of `<user> <role>`, in any order.
pub(super) fn members(lines: &str) -> Result<Vec<Member>, StoreError> {
    let corrupt = || StoreError::Corrupt("members");
    let member = |line: &str| {
        let (user, role) = line.split_once(' ')?;
        Some(Member { user: user.parse().ok()?, role: role.parse().ok()? })
    };
    let mut members: Vec<_> =
        lines.lines().map(|l| member(l).ok_or_else(corrupt)).collect::<Result<_, _>>()?;
    members.sort_unstable_by(|a, b| a.user.cmp(&b.user));
    Ok(members)
}
