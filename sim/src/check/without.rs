//! Which configurations may decide yet, and how many disks a cluster can bear to lose: a run in which nobody can lead any
//! more proves nothing.

use raft_core::{LogId, Membership, NodeId};

use super::{Checks, rules};

/// Whether an entry may still be committed behind the last one that is: then it is of that term or a later one.
fn pending(id: LogId, last: LogId) -> bool {
    id.index > last.index && id.term >= last.term
}

impl Checks {
    /// The configuration as of the last committed entry, and all that may follow it.
    pub(crate) fn possible(&self) -> Vec<Membership> {
        let last = self.commit.id_at(self.commit.last()).unwrap_or(LogId::ZERO);
        let committed = self.configuration().map(|(_, in_force)| in_force);
        let later = self.book.configurations().filter(|(id, _)| pending(*id, last)).map(|(_, it)| it);
        let claimed = self.memberships.claimed().filter(|(id, _)| pending(*id, last)).map(|(_, it)| it);
        committed.into_iter().chain(later).chain(claimed).map(|it| (**it).clone()).collect()
    }

    /// Whether the cluster can go on without these nodes' disks: the last configuration is committed and no step of a
    /// change, none other may come into force, in whatever log or message it stands, and a majority of the others knows it.
    pub(crate) fn can_do_without(&self, gone: impl Fn(NodeId) -> bool) -> bool {
        let Some((at, in_force)) = self.configuration() else { return false };
        let Some(last) = self.commit.id_at(self.commit.last()) else { return false };
        let seen = self.book.configurations().any(|(id, _)| pending(id, last));
        let claimed = self.memberships.claimed().any(|(id, _)| pending(id, last));
        let settled = !in_force.is_joint() && in_force.intent.is_none();
        // That of a bootstrap counts as committed before a majority has it.
        let stays = |voter| !gone(voter) && self.disks.holds(voter, at, &self.book);
        settled && !seen && !claimed && rules::decides(in_force, stays)
    }
}
