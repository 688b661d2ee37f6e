//! `kv serve`: its arguments, and what is checked before anything starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use raft_core::NodeId;

use crate::cli::{is_wildcard, parse_address, parse_cluster, parse_id, parse_reachable};
use crate::failure::{Failure, Kind};

pub(super) const HELP: &str = "\
HTTP (versions 1.1 and 2; plain, without authentication):
  PUT /kv/{key}     the body is the value, up to 1 MiB;
                    200 {\"index\":N,\"existed\":B} once committed and applied
  GET /kv/{key}     linearizable, at any member; 200 with the value, or 404
  DELETE /kv/{key}  200 {\"index\":N,\"existed\":B}
  POST /sessions    200 {\"session\":S}: a write sent with the headers raft-session: S and raft-sequence: 1
                    (2 for the next, and so on) may be repeated until it is answered, and happens once
                    all the same. One write after the other; 410 when S was forgotten (10,000 newer ones)
  DELETE /sessions/S  closes it
  Keys are percent-decoded, 1 to 1024 bytes.
  POST /members     {\"id\":4,\"raft\":\"HOST:PORT\",\"http\":\"HOST:PORT\",\"learner\":false}
                    adds a node (started with --join), or makes a voter a learner or the reverse
  DELETE /members/4 removes it
  PATCH /members    {\"voters\":{\"4\":\"RAFT@HTTP\"},\"learners\":{},\"remove\":[1]}: any change in
                    one step, from any set to any other
  POST /members/cancel  gives up the change in progress
  POST /transfer    {\"to\":2}, or no body for whoever is furthest: 200 {\"leader\":N}
  POST /snapshot    this node takes a snapshot now: 200 once it is durable
  POST /backup      the state as of now, as a file for `kv offline import`; cut if something fails
                    What operators ask for is answered 202 where it takes longer than 10 s, and
                    goes on. To ask again is harmless
  GET /             a page that shows the cluster live
  GET /status       the same as JSON: role, term, leader, indexes, members, lag, elections, disk
  GET /healthz      200 while the node's task answers
  GET /readyz       200 while linearizable reads are served here, and it does not shut down
  GET /metrics      figures for Prometheus
  A node that does not lead answers writes with 307 to the leader's HTTP address (known from the
  '@HTTP' of --peer, or of what it was added by), or 503 with Retry-After where none is known.
  A 307, a 4xx and a 503 mean: did not happen. Any other 5xx says in its body what is known. What
  has no outcome after 10 s is answered 504. Every refusal's body is
    {\"error\":KIND,\"message\":..,\"next\":WHAT TO DO,\"outcome\":did_not_happen|unknown|committed}

Ends in order on SIGTERM and Ctrl-C: says at /readyz that it leaves, hands the leadership over,
finishes requests, closes its files. A second signal ends it at once; nothing acknowledged is lost.

Exit codes:
  0  shut down as asked                     5  an address cannot be listened on
  1  anything else                          6  the peers have another list or cluster
  2  arguments                              7  the node stopped while it ran
  3  data directory unusable or foreign   130  a second signal ended it
  4  another process has the data directory";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("members").args(["peers", "join"]).required(true))]
pub(crate) struct Serve {
    /// This node's number, from 1 on, unique in its cluster for ever. Never give it to another disk.
    #[arg(long, value_name = "N", value_parser = parse_id)]
    pub(crate) id: NodeId,
    /// Listen here for the other nodes; with the port of this node's own --peer or --advertise.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub(crate) raft: String,
    /// Listen here for clients.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub(crate) http: String,
    /// Where other nodes reach this one, for a node that is started with --join and listens on all of its addresses.
    /// The others find it in --peer, and say --raft if this is left out.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "peers", value_parser = parse_reachable)]
    pub(crate) advertise: Option<String>,
    /// A host name under which clients reach this node. Once for each: requests for other hosts are refused, but those
    /// of --http, --peer and the members, `localhost`, and every numeric address are known. A web page that has its
    /// name point here can do nothing.
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Where this node keeps its log. Made if missing; belongs to one node and one process at a time.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// A member that the cluster begins with: number, address for the other nodes, and address for clients to be sent
    /// to. Once for each, this node included. The list stays the same for ever on all of these nodes, whoever the
    /// members are later: a node with data goes on from that, and refuses peers that began with another list. HTTP
    /// addresses may change.
    #[arg(long = "peer", value_name = "N=RAFT[@HTTP]")]
    pub(crate) peers: Vec<Peer>,
    /// Instead of a list: wait to be added to a running cluster by `kv member add` or POST /members there. Also at
    /// later starts.
    #[arg(long)]
    pub(crate) join: bool,
    /// Names the cluster; nodes of different clusters refuse each other. Decimal, or hexadecimal after 0x.
    /// Choose one at random where two clusters could meet.
    #[arg(long, value_name = "ID", default_value = "1", value_parser = parse_cluster)]
    pub(crate) cluster: u128,
    /// Encrypt --raft and have other nodes show who they are: certificates (PEM) of the authorities that are trusted.
    /// With the other two, and on every node. HTTP stays plain.
    #[arg(long, value_name = "PEM", requires = "tls_cert", requires = "tls_key")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This node's certificate, with the DNS name node-N.CLUSTER.raft (CLUSTER in 32 hexadecimal digits), good for both
    /// sides of a connection. `kv certs` makes some for trying. Renewed files are used without a restart.
    #[arg(long, value_name = "PEM", requires = "tls_ca")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, value_name = "PEM", requires = "tls_ca")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Listen beyond this host although nothing protects it: whoever reaches --http may read and change everything,
    /// and without TLS whoever reaches --raft too.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Record what the node does into this directory, at most 512 MiB, for `sim replay` to step through after an
    /// incident. The files hold what clients wrote.
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,
    /// Interval of the leader's heartbeats.
    #[arg(long, value_name = "MS", default_value = "100", value_parser = parse_ms)]
    pub(crate) heartbeat_ms: Duration,
    /// Shortest time without a leader before an election; drawn anew each time, up to twice this.
    #[arg(long, value_name = "MS", default_value = "750", value_parser = parse_ms)]
    pub(crate) election_ms: Duration,
    /// Take a snapshot each time that so many more entries were applied.
    #[arg(long, value_name = "N", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) snapshot_entries: u64,
    /// Entries behind a snapshot that stay in the log, so that slow nodes need none.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub(crate) keep_entries: u64,
    /// Threads for clients and protocol. One is fastest while it is enough: nothing hops between cores.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// What to tell on standard error: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log: tracing_subscriber::filter::LevelFilter,
    /// Also end when standard input is closed, so that a node never outlives the program that started it.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

/// One `--peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    id: NodeId,
    raft: String,
    http: Option<String>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, addresses) = text
            .split_once('=')
            .ok_or("expected N=RAFT or N=RAFT@HTTP, as in 2=127.0.0.1:7102@127.0.0.1:8102")?;
        let (raft, http) = match addresses.split_once('@') {
            Some((raft, http)) => (raft, Some(parse_address(http)?)),
            None => (addresses, None),
        };
        Ok(Self { id: parse_id(id)?, raft: parse_address(raft)?, http })
    }
}

/// The members as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peers {
    /// What a pristine cluster begins with.
    pub(crate) members: BTreeMap<NodeId, Bytes>,
    /// Where clients reach whom.
    pub(crate) http: BTreeMap<NodeId, String>,
}

impl Serve {
    /// Whether other nodes have to show who they are.
    pub(crate) const fn has_tls(&self) -> bool {
        self.tls_ca.is_some()
    }

    /// The list of peers, once the arguments are known to agree with each other.
    pub(crate) fn peers(&self) -> Result<Peers, Failure> {
        let wrong = |what: String, advice: &str| Failure::new(Kind::Arguments, what, advice);
        let (mut members, mut http) = (BTreeMap::new(), BTreeMap::new());
        for peer in &self.peers {
            if is_wildcard(&peer.raft) || peer.http.as_deref().is_some_and(is_wildcard) {
                let what = format!("--peer names node {} by an address that nobody can connect to", peer.id);
                return Err(wrong(what, "name an address that the others and clients reach"));
            }
            if members.values().any(|address| *address == peer.raft) {
                let what = format!("--peer names the address {} twice", peer.raft);
                return Err(wrong(what, "give every node an address of its own"));
            }
            if members.insert(peer.id, Bytes::from(peer.raft.clone())).is_some() {
                let what = format!("--peer names node {} twice", peer.id);
                return Err(wrong(what, "name each node once"));
            }
            http.extend(peer.http.clone().map(|address| (peer.id, address)));
        }
        if !self.join && !members.contains_key(&self.id) {
            let what = format!("--id {} is not among the --peer list", self.id);
            return Err(wrong(
                what,
                "name every node in --peer, this one included; the list is the same on every node",
            ));
        }
        if self.join && self.advertise.is_none() && is_wildcard(&self.raft) {
            let what = format!("--raft {} tells other nodes nothing of where this one is", self.raft);
            return Err(wrong(what, "say where they reach it: --advertise HOST:PORT"));
        }
        if self.raft == self.http {
            let what = format!("--raft and --http are the same address, {}", self.raft);
            return Err(wrong(what, "give nodes and clients a port each"));
        }
        if self.heartbeat_ms >= self.election_ms {
            let what = "--heartbeat-ms is not shorter than --election-ms".to_owned();
            return Err(wrong(what, "leave time for several heartbeats before an election"));
        }
        Ok(Peers { members, http })
    }
}

fn parse_ms(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(ms @ 1..=600_000) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("'{text}' is not a number of milliseconds from 1 to 600000")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn serve(more: &[&str]) -> Result<Serve, clap::Error> {
        let fixed =
            ["kv", "serve", "--id", "1", "--raft", "127.0.0.1:1", "--http", "127.0.0.1:2", "--data", "d"];
        match Cli::try_parse_from(fixed.iter().chain(more))?.command {
            Command::Serve(serve) => Ok(*serve),
            _ => unreachable!("serve was asked for"),
        }
    }

    #[test]
    fn peers_carry_http_addresses_or_not() {
        let options = serve(&["--peer", "1=127.0.0.1:1", "--peer", "2=[::1]:3@node2.example:4"]).unwrap();
        let peers = options.peers().unwrap();
        assert_eq!(peers.members[&NodeId::new(2)], "[::1]:3");
        assert_eq!(peers.http, BTreeMap::from([(NodeId::new(2), "node2.example:4".to_owned())]));
    }

    #[test]
    fn malformed_arguments_are_refused() {
        for peer in [
            "2",
            "2=",
            "=h:1",
            "0=h:1",
            "x=h:1",
            "2=h",
            "2=h:0",
            "2=h:70000",
            "2=:1",
            "2=h:1@",
            "2=h:1@x@y:2",
        ] {
            assert!(serve(&["--peer", peer]).is_err(), "{peer}");
        }
        let own = ["--peer", "1=h:1"];
        for more in [["--cluster", "0xg"], ["--cluster", "-1"], ["--heartbeat-ms", "0"], ["--threads", "0"]] {
            assert!(serve(&[&own[..], &more].concat()).is_err(), "{more:?}");
        }
        let neither = serve(&[]).unwrap_err().to_string();
        assert!(neither.contains("--peer") && neither.contains("--join"), "{neither}");
        assert!(serve(&["--join", "--peer", "1=h:1"]).is_err(), "both");
        assert!(serve(&["--join"]).unwrap().peers().unwrap().members.is_empty());
    }

    #[test]
    fn a_node_that_joins_says_where_it_is() {
        let join = |raft: &str, more: &[&str]| {
            let fixed = ["kv", "serve", "--id", "4", "--http", "127.0.0.1:2", "--data", "d", "--join"];
            match Cli::try_parse_from(fixed.iter().chain(&["--raft", raft]).chain(more)).unwrap().command {
                Command::Serve(serve) => serve.peers().map(|_| ()).map_err(|failure| failure.kind),
                _ => unreachable!("serve was asked for"),
            }
        };
        assert_eq!(join("10.0.0.4:7100", &[]), Ok(()));
        for wildcard in ["0.0.0.0:7100", "[::]:7100"] {
            assert_eq!(join(wildcard, &[]), Err(Kind::Arguments));
            assert_eq!(join(wildcard, &["--advertise", "node4.example:7100"]), Ok(()));
        }
    }

    #[test]
    fn contradicting_arguments_are_refused() {
        let cases: [(&[&str], &str); 6] = [
            (&["--peer", "1=0.0.0.0:1"], "nobody can connect"),
            (&["--peer", "1=h:1@[::]:2"], "nobody can connect"),
            (&["--peer", "2=h:1"], "not among"),
            (&["--peer", "1=h:1", "--peer", "1=h:2"], "node 1 twice"),
            (&["--peer", "1=h:1", "--peer", "2=h:1"], "h:1 twice"),
            (&["--peer", "1=h:1", "--heartbeat-ms", "750"], "not shorter"),
        ];
        for (arguments, part) in cases {
            let failure = serve(arguments).unwrap().peers().unwrap_err();
            assert_eq!(failure.kind, Kind::Arguments);
            assert!(failure.to_string().contains(part), "{failure}");
        }
        let mut same = serve(&["--peer", "1=h:1"]).unwrap();
        same.http = same.raft.clone();
        assert!(same.peers().unwrap_err().to_string().contains("a port each"));
    }
}
