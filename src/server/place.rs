//! Where this node listens and where it finds the others: what a start needs of the network.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::StartError;
use super::config::{Config, PeerEntry};
use crate::net::Port;
use crate::wire::entry::Configuration;

/// The port, taken, and the list with its names resolved.
///
/// A start takes its place before it opens its directory, so that one that fails for the command line's
/// sake leaves no directory behind. Nobody is accepted before it has recovered: until then dials are
/// refused as before, and others know that no process of this node is alive.
#[derive(Debug)]
pub struct Place {
    port: Port,
    /// Each with where to dial it.
    others: Vec<(PeerEntry, SocketAddr)>,
}

impl Place {
    /// Resolves all names and takes the port.
    ///
    /// # Errors
    /// A name cannot be resolved, or the port is taken or cannot be listened on.
    pub fn take(config: &Config) -> Result<Self, StartError> {
        // The own entry may hide behind another name; it is left out too.
        let own = [resolve(&config.listen)?, resolve(&config.advertise)?];
        let mut others = Vec::new();
        for entry in &config.peers {
            let address = resolve(&entry.address)?;
            if !own.contains(&address) {
                others.push((entry.clone(), address));
            }
        }
        let port = Port::take(own[0]).map_err(|cause| StartError::of_port(&config.listen, cause))?;
        Ok(Self { port, others })
    }

    /// The port, the entries of the list, and where to dial each.
    ///
    /// # Errors
    /// The list names a node that is no member.
    pub(super) fn into_parts(
        self,
        configuration: Option<&Configuration>,
    ) -> Result<(Port, Vec<PeerEntry>, Vec<SocketAddr>), StartError> {
        if let Some(configuration) = configuration {
            let mut named = self.others.iter().filter_map(|(entry, _)| entry.node);
            if let Some(node) = named.find(|node| configuration.member(*node).is_none()) {
                let members = configuration.members().iter().map(|member| member.id.to_string());
                let members = members.collect::<Vec<_>>().join(", ");
                return Err(StartError::NotAMember { node, members });
            }
        }
        let (entries, addresses) = self.others.into_iter().unzip();
        Ok((self.port, entries, addresses))
    }
}

/// One address of a name. All nodes prefer the same kind, so that "localhost" is the same place
/// for who listens and for who dials.
fn resolve(address: &str) -> Result<SocketAddr, StartError> {
    let failed = |cause| StartError::Resolve { address: address.to_owned(), cause };
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
    let chosen = found.iter().find(|address| address.is_ipv4()).or(found.first());
    chosen.copied().ok_or_else(|| failed(io::Error::from(io::ErrorKind::NotFound)))
}
