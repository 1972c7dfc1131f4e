//! The command line of `cargo devnet`: the flags of a whole network, or a subcommand with its own.

use clap::{Parser, Subcommand};

use crate::{node::NodeOptions, options::Options};

/// Runs the whole system on this machine, until Ctrl-C; or, as a subcommand, a part of it. Of a flag that
/// is given twice the last one counts.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "devnet",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true
)]
pub struct Invocation {
    /// The flags of the whole system.
    #[command(flatten)]
    pub options: Options,
    /// What to run instead.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be run instead of the whole system.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serves the embedded execution client alone, until Ctrl-C.
    Node(NodeOptions),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Invocation, clap::Error> {
        Invocation::try_parse_from(["devnet"].iter().chain(flags))
    }

    #[test]
    fn without_a_subcommand_the_flags_are_those_of_the_whole_system() {
        let Invocation { options, command } = parse(&["--tps", "5", "--tps", "7"]).unwrap();
        assert_eq!(options.tps, 7);
        assert!(command.is_none());
    }

    #[test]
    fn a_node_needs_a_genesis_and_listens_where_execution_clients_do() {
        assert_eq!(parse(&["node"]).unwrap_err().exit_code(), 2);
        let Some(Command::Node(node)) = parse(&["node", "--genesis", "g"]).unwrap().command else {
            panic!("no node");
        };
        let ports = [node.http, node.ws, node.authrpc].map(|address| address.to_string());
        assert_eq!(ports, ["127.0.0.1:8545", "127.0.0.1:8546", "127.0.0.1:8551"]);
    }

    #[test]
    fn flags_of_the_whole_system_mean_nothing_to_a_node() {
        let mixed = parse(&["--tps", "7", "node", "--genesis", "g"]).unwrap_err();
        assert_eq!(mixed.exit_code(), 2);
    }
}
