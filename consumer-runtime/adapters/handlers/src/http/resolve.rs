//! From a host to the addresses that are connected to. What is checked here is what is connected to: a name that changes its
//! address between a check and the connection ("rebinding") gains nothing.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use url::Host;

use crate::http::{failure::CallError, guard::Guard};

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Looks names up.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the system.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// A resolver that gives only addresses which may be called.
pub(crate) struct GuardedResolver {
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) guard: Guard,
}

impl GuardedResolver {
    /// The addresses of a host that may be called, at least one.
    pub(crate) async fn addresses(&self, host: &Host<String>, port: u16) -> Result<Vec<SocketAddr>, CallError> {
        let found = match host {
            // Octal, decimal and shortened forms have become an address when the URL was read.
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => self
                .resolver
                .resolve(name)
                .await
                .map_err(|error| CallError::Lookup { host: host.to_string(), text: error.to_string() })?,
        };
        if found.is_empty() {
            return Err(CallError::Lookup { host: host.to_string(), text: "it has no address".to_owned() });
        }
        let allowed = found.into_iter().filter(|address| self.guard.allows(*address));
        let addresses: Vec<_> = allowed.take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, port)).collect();
        if addresses.is_empty() { Err(CallError::NotAllowed { host: host.to_string() }) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::http::guard::Reach;

    /// Knows one name, with these addresses.
    struct Fixed(&'static [&'static str]);

    #[async_trait]
    impl Resolve for Fixed {
        async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.iter().map(|address| address.parse().unwrap()).collect())
        }
    }

    async fn addresses(url: &str, known: &'static [&'static str]) -> Result<Vec<SocketAddr>, CallError> {
        let url: Url = url.parse().unwrap();
        let guard = Guard { reach: Reach::Public, allowed: Vec::new() };
        let resolver = GuardedResolver { resolver: Arc::new(Fixed(known)), guard };
        resolver.addresses(&url.host().unwrap().to_owned(), 80).await
    }

    #[tokio::test]
    async fn an_address_is_refused_in_whatever_form_it_is_written() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "10.1.2.3",
            "192.168.257",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[fe80::1]",
            "[fd00::1]",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
        ] {
            let refused = addresses(&format!("http://{host}/"), &["8.8.8.8"]).await;
            assert!(matches!(refused, Err(CallError::NotAllowed { .. })), "{host}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn only_the_allowed_addresses_of_a_name_are_connected_to() {
        let url = "http://hooks.example.com/";
        let found = addresses(url, &["10.0.0.1", "8.8.8.8", "::1"]).await.unwrap();
        assert_eq!(found, ["8.8.8.8:80".parse().unwrap()]);

        assert!(matches!(addresses(url, &["10.0.0.1", "::ffff:10.0.0.1"]).await, Err(CallError::NotAllowed { .. })));
        assert!(matches!(addresses(url, &[]).await, Err(CallError::Lookup { .. })));
    }
}
