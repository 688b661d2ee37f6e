//! Requests of clients and operators, each with a ticket of its own, and their outcomes.

use raft_core::{
    AdminOutcome, AdminRefusal, Commands, Event, MembershipChange, ReadConsistency, Ticket, Tickets,
    WriteOutcome,
};

use super::{Cluster, members, n, target};

impl Cluster {
    fn tickets(&mut self, count: u32) -> Tickets {
        let first = Ticket::new(self.next_ticket);
        self.next_ticket += u64::from(count);
        Tickets::new(first, count)
    }

    fn ask(&mut self, server: u64, request: impl FnOnce(Ticket) -> Event) -> Ticket {
        let ticket = self.tickets(1).first;
        self.step(server, request(ticket));
        ticket
    }

    pub fn propose(&mut self, server: u64, commands: &[&str]) -> Tickets {
        let tickets = self.tickets(u32::try_from(commands.len()).expect("few"));
        let commands = commands.iter().collect::<Commands>();
        self.step(server, Event::Propose { first: tickets.first, commands });
        tickets
    }

    /// Proposes commands one after the other, everything delivered after each.
    pub fn commit_each(&mut self, leader: u64, commands: &[&str]) {
        for command in commands {
            self.propose(leader, &[command]);
            self.settle();
        }
    }

    pub fn read(&mut self, server: u64) -> Tickets {
        self.read_with(server, ReadConsistency::Linearizable)
    }

    pub fn lease_read(&mut self, server: u64) -> Tickets {
        self.read_with(server, ReadConsistency::Lease)
    }

    fn read_with(&mut self, server: u64, consistency: ReadConsistency) -> Tickets {
        let tickets = self.tickets(1);
        self.step(server, Event::Read { tickets, consistency });
        tickets
    }

    pub fn change(&mut self, server: u64, change: MembershipChange) -> Ticket {
        self.ask(server, |ticket| Event::ChangeMembership { ticket, change: Box::new(change) })
    }

    /// Asks for exactly these voters and learners.
    pub fn set_members(&mut self, server: u64, voters: &[u64], learners: &[u64]) -> Ticket {
        let addresses = members(voters.iter().chain(learners).copied());
        self.change(server, MembershipChange::Set { target: target(voters, learners), addresses })
    }

    pub fn set_voters(&mut self, server: u64, voters: &[u64]) -> Ticket {
        self.set_members(server, voters, &[])
    }

    /// Asks for what there is, with these differences.
    pub fn update(&mut self, server: u64, voters: &[u64], learners: &[u64], remove: &[u64]) -> Ticket {
        let ids = |ids: &[u64]| ids.iter().copied().map(n).collect();
        let addresses = members(voters.iter().chain(learners).copied());
        let (voters, learners, remove) = (ids(voters), ids(learners), ids(remove));
        self.change(server, MembershipChange::Update { voters, learners, remove, addresses })
    }

    pub fn cancel(&mut self, server: u64) -> Ticket {
        self.change(server, MembershipChange::Cancel)
    }

    pub fn transfer(&mut self, server: u64, to: Option<u64>) -> Ticket {
        self.ask(server, |ticket| Event::TransferLeadership { ticket, to: to.map(n) })
    }

    pub fn step_down(&mut self, server: u64) -> Ticket {
        self.ask(server, |ticket| Event::StepDown { ticket })
    }

    pub fn take_snapshot(&mut self, server: u64) -> Ticket {
        self.ask(server, |ticket| Event::TakeSnapshot { ticket })
    }

    // --- outcomes ------------------------------------------------------------------------------------------------

    pub fn outcome(&self, server: u64, ticket: Ticket) -> Option<AdminOutcome> {
        self.servers[&server].admin_outcome(ticket)
    }

    pub fn refusal(&self, server: u64, ticket: Ticket) -> Option<AdminRefusal> {
        match self.outcome(server, ticket) {
            Some(AdminOutcome::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    pub fn write_outcome(&self, server: u64, tickets: Tickets) -> Option<WriteOutcome> {
        let outcomes = self.servers[&server].write_outcomes();
        outcomes.into_iter().find(|(first, ..)| *first == tickets.first.get()).map(|(.., outcome)| outcome)
    }

    pub fn is_served(&self, server: u64, tickets: Tickets) -> bool {
        let served = &self.servers[&server].served;
        served.iter().any(|range| range.range().contains(&tickets.first.get()))
    }
}
