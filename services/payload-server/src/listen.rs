//! Where the public port is bound.
//!
//! Every address is those of IPv6 and of IPv4, as for beacon-kit's server, whatever the machine
//! does by default; where it has no IPv6, it is those of IPv4. An address that was named is that one
//! and no other.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as Bound},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tracing::info;

/// How many connections the kernel keeps for us.
const BACKLOG: i32 = 1024;

/// Listens at this address.
pub(crate) fn on(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(or_without_ipv6(address, bind)?)
}

/// Binds every address of IPv4 where that of IPv6 cannot be used at all.
fn or_without_ipv6<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let bound = bind(address);
    let Err(error) = &bound else { return bound };
    let is_every_address = address.ip() == Ipv6Addr::UNSPECIFIED;
    // That it is in use, or not ours to use, it is in IPv4, too.
    let is_ours =
        matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
    if !is_every_address || is_ours {
        return bound;
    }
    info!(%error, "there is no IPv6: listening on IPv4 alone");
    bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
}

fn bind(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const EVERY: &str = "[::]:9090";

    #[test]
    fn every_address_is_one_of_ipv4_too() {
        let listener = or_without_ipv6("[::]:0".parse().unwrap(), bind).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).is_ok());
        // Where a machine has no address of IPv6, none is missed.
        if bind("[::1]:0".parse().unwrap()).is_ok() {
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).is_ok());
        }
    }

    #[test]
    fn where_there_is_no_ipv6_every_address_is_one_of_ipv4_and_another_is_itself() {
        let bound = |address: &str, kind: io::ErrorKind| {
            let bind = |address: SocketAddr| match address {
                SocketAddr::V6(_) => Err(io::Error::from(kind)),
                SocketAddr::V4(_) => Ok(address.to_string()),
            };
            or_without_ipv6(address.parse().unwrap(), bind).map_err(|error| error.kind())
        };
        let (none, taken) = (io::ErrorKind::Unsupported, io::ErrorKind::AddrInUse);
        assert_eq!(bound(EVERY, none), Ok("0.0.0.0:9090".to_owned()));
        assert_eq!(bound(EVERY, taken), Err(taken));
        assert_eq!(bound("[::1]:9090", none), Err(none));
        assert_eq!(bound("192.0.2.7:1", none), Ok("192.0.2.7:1".to_owned()));
    }
}
