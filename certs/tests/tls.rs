//! Real handshakes on 127.0.0.1 between our own configurations, over the real acceptor and connector.

#[cfg(test)]
mod tls {
    pub(crate) mod fixture;

    mod bounds;
    mod openssl;
    mod peers;
    mod proxies;
    mod reload;
    mod servers;
    mod serving;
    mod stacks;
}
