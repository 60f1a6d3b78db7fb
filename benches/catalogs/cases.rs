//! The ways to resolve that the benches compare, and what must hold of every result.

use std::collections::HashSet;
use std::io;

use mql4grec::collision::{find_collisions, Keep, Plan, Policy, Reassign, Resolution};
use mql4grec::interrupt::NEVER;

use super::{table, Catalog, N_LEVELS};

/// A way to resolve, and what the benches call it.
///
/// ```text
/// name  nearest-max_loss
/// plan  policy Nearest, keep MaxLoss, the rest as by default
/// ```
#[derive(Clone, Copy)]
pub struct Named {
    pub name: &'static str,
    pub plan: Plan,
}

const DEFAULT: Plan = Plan {
    policy: Policy::Paper,
    keep: Keep::Nearest,
    reassign: Reassign::Movers,
    open_levels: 2,
    n_threads: 1,
};

const fn way(name: &'static str, policy: Policy, keep: Keep, reassign: Reassign) -> Named {
    Named { name, plan: Plan { policy, keep, reassign, ..DEFAULT } }
}

/// All ways, the published one first.
pub const POLICIES: [Named; 7] = [
    way("paper", Policy::Paper, Keep::Nearest, Reassign::Movers),
    way("paper-max_loss", Policy::Paper, Keep::MaxLoss, Reassign::Movers),
    way("nearest", Policy::Nearest, Keep::Nearest, Reassign::Movers),
    way("nearest-max_loss", Policy::Nearest, Keep::MaxLoss, Reassign::Movers),
    way("optimal", Policy::Optimal, Keep::Nearest, Reassign::Movers),
    way("optimal-max_loss", Policy::Optimal, Keep::MaxLoss, Reassign::Movers),
    way("optimal-colliding", Policy::Optimal, Keep::Nearest, Reassign::Colliding),
];

/// The way of a name.
pub fn named(name: &str) -> io::Result<Named> {
    let found = POLICIES.into_iter().find(|policy| policy.name == name);
    let names = || POLICIES.map(|policy| policy.name).join(" ");
    found.ok_or_else(|| io::Error::other(format!("expected one of {}, got {name}", names())))
}

/// All different, only rows of groups moved, as many as have to, and the costs are finite.
pub fn check(catalog: &Catalog, resolution: &Resolution) {
    let after = table(&resolution.codes).and_then(|codes| {
        find_collisions(codes, super::n_threads(), &NEVER).map_err(io::Error::other)
    });
    assert!(after.is_ok_and(|groups| groups.rows.is_empty()), "not all are different");
    let sharing: HashSet<usize> = catalog.groups.rows.iter().copied().collect();
    let moved: HashSet<usize> = resolution.moved.iter().copied().collect();
    assert!(moved.is_subset(&sharing), "a row moved that collided with none");
    let rows = catalog.codes.chunks(N_LEVELS).zip(resolution.codes.chunks(N_LEVELS)).enumerate();
    let changed = rows.filter(|(row, (old, new))| old != new && !moved.contains(row)).count();
    assert_eq!(changed, 0, "a row moved that is not listed");
    let n_must = sharing.len() + 1 - catalog.groups.offsets.len();
    assert!(moved.len() >= n_must, "{} moved, {n_must} have to", moved.len());
    assert!(resolution.costs.iter().all(|cost| cost.is_finite()), "costs are not finite");
}
